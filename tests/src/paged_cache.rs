//! FP8 caches in a backend's memory, and numbers that name no token of them.

use oximla::{KvFormat, TensorView, TensorViewMut};
use oximla_reference::Fp8Format;

use crate::backend::{Backend, Buffer};
use crate::strided::{Trap, Views};

/// What fills the memory before and after a cache.
const MARGIN: usize = 64;

/// The shape of a cache, and where its pages lie in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct CacheLayout {
    /// Its format.
    pub format: Fp8Format,
    /// Its pages.
    pub num_pages: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Bytes from page to page.
    pub page_stride: usize,
    /// Bytes before the first page.
    pub offset: usize,
}

/// The formats.
pub const FORMATS: [Fp8Format; 2] = [Fp8Format::V32, Fp8Format::Model1];

/// Page sizes: of serving engines, and odd ones.
pub const PAGE_SIZES: [usize; 7] = [1, 2, 53, 61, 64, 69, 256];

impl CacheLayout {
    /// Pages as far apart as `views` says, and no better aligned than it promises.
    pub fn new(format: Fp8Format, num_pages: usize, page_size: usize, views: Views) -> Self {
        // Multiples of 8 bytes are what the formats ask for.
        let (padding, offset) = match views {
            Views::Contiguous => (0, MARGIN),
            Views::Padded => (24, MARGIN + 8),
            Views::Unaligned => (1, MARGIN + 1),
        };
        let page_stride = format.page_bytes(page_size) + padding;
        Self { format, num_pages, page_size, page_stride, offset }
    }

    /// Tokens of the cache.
    pub fn tokens(&self) -> usize {
        self.num_pages * self.page_size
    }

    /// The format as a problem names it.
    pub fn kv_format(&self) -> KvFormat {
        match self.format {
            Fp8Format::V32 => KvFormat::V32Fp8,
            Fp8Format::Model1 => KvFormat::Model1Fp8,
        }
    }

    /// A buffer for the cache, margins included, full of traps.
    pub fn buffer(&self) -> Vec<u8> {
        vec![u8::TRAP; self.offset + self.num_pages * self.page_stride + MARGIN]
    }

    /// The bytes of a page in such a buffer, without padding.
    pub fn page<'a>(&self, buffer: &'a mut [u8], page: usize) -> &'a mut [u8] {
        &mut buffer[self.offset + page * self.page_stride..][..self.format.page_bytes(self.page_size)]
    }

    /// The cache in such a buffer, to be read.
    pub fn view<'a>(&self, buffer: &'a Buffer<u8>) -> TensorView<'a, u8, 4> {
        let (shape, strides) = self.shape_and_strides();
        // SAFETY: the layout is within the buffer, which lives as long as the view borrows it.
        unsafe {
            TensorView::from_raw(buffer.address() + self.offset as u64, shape, strides, buffer.memory())
        }
    }

    /// The cache in such a buffer, to be written.
    pub fn view_mut<'a>(&self, buffer: &'a mut Buffer<u8>) -> TensorViewMut<'a, u8, 4> {
        let (shape, strides) = self.shape_and_strides();
        let address = buffer.address_mut() + self.offset as u64;
        // SAFETY: the layout is within the buffer, which the view borrows exclusively.
        unsafe { TensorViewMut::from_raw(address, shape, strides, buffer.memory()) }
    }

    fn shape_and_strides(&self) -> ([usize; 4], [i64; 4]) {
        let token_bytes = self.format.page_bytes(1);
        let strides = [self.page_stride, token_bytes, token_bytes, 1].map(|stride| stride as i64);
        ([self.num_pages, self.page_size, 1, token_bytes], strides)
    }
}

/// Every backend, each with the layouts that it takes.
pub fn backends_and_views() -> Vec<(Backend, Vec<Views>)> {
    let views = |backend: &Backend| match backend.name() {
        "cpu" => vec![Views::Contiguous, Views::Padded, Views::Unaligned],
        "emulated" => vec![Views::Padded],
        _ => vec![Views::Contiguous, Views::Padded],
    };
    Backend::all().into_iter().map(|backend| (backend.clone(), views(&backend))).collect()
}
