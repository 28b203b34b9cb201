//! Tensors as the operations see them: a pointer, a shape and strides, on the host or on a GPU.

use std::marker::PhantomData;

use crate::InvalidProblem;
use half::{bf16, f16};

/// Element types tensors may have.
pub trait Element: Copy + Send + Sync + 'static + sealed::Sealed {
    /// Name for messages.
    const NAME: &'static str;
}

/// The 16-bit floating-point types of queries, dense caches and outputs.
pub trait Half: Element + bytemuck::Pod {
    /// The dense cache format of this type.
    const FORMAT: crate::KvFormat;
    /// The value in f32, exactly.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
}

/// Whose memory a tensor lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The process's.
    Host,
    /// A GPU's.
    Device,
}

/// A read-only tensor of rank `RANK`: shape and strides are in elements, outermost dimension first.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a, T, const RANK: usize> {
    pub(crate) address: u64,
    pub(crate) shape: [usize; RANK],
    pub(crate) strides: [i64; RANK],
    pub(crate) memory: Memory,
    lifetime: PhantomData<&'a [T]>,
}

/// A tensor to be written; otherwise like [`TensorView`].
#[derive(Debug)]
pub struct TensorViewMut<'a, T, const RANK: usize> {
    pub(crate) view: TensorView<'a, T, RANK>,
    exclusive: PhantomData<&'a mut [T]>,
}

// SAFETY: a view is a shared borrow of plain data.
unsafe impl<T: Sync, const RANK: usize> Send for TensorView<'_, T, RANK> {}
// SAFETY: as above.
unsafe impl<T: Sync, const RANK: usize> Sync for TensorView<'_, T, RANK> {}

impl<'a, T: Element, const RANK: usize> TensorView<'a, T, RANK> {
    /// A contiguous tensor over host memory.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the slice's length is not the product of `shape`.
    pub fn from_slice(name: &str, data: &'a [T], shape: [usize; RANK]) -> Result<Self, InvalidProblem> {
        check_len::<T, RANK>(name, data.len(), shape)?;
        let strides = contiguous(shape);
        Ok(Self { address: data.as_ptr() as u64, shape, strides, memory: Memory::Host, lifetime: PhantomData })
    }

    /// A tensor at an address.
    ///
    /// # Safety
    /// For every index within `shape`, the element at `address + Σ index·stride` elements is readable memory of the
    /// kind `memory` for as long as `'a` (and, on a GPU, until the runs that use it are finished).
    pub unsafe fn from_raw(
        address: u64,
        shape: [usize; RANK],
        strides: [i64; RANK],
        memory: Memory,
    ) -> Self {
        Self { address, shape, strides, memory, lifetime: PhantomData }
    }

    /// Elements along each dimension.
    pub fn shape(&self) -> [usize; RANK] {
        self.shape
    }

    /// Elements from one index to the next, per dimension.
    pub fn strides(&self) -> [i64; RANK] {
        self.strides
    }

    /// Whose memory it is.
    pub fn memory(&self) -> Memory {
        self.memory
    }
}

impl<'a, T: Element, const RANK: usize> TensorViewMut<'a, T, RANK> {
    /// A contiguous tensor over host memory.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the slice's length is not the product of `shape`.
    pub fn from_slice(name: &str, data: &'a mut [T], shape: [usize; RANK]) -> Result<Self, InvalidProblem> {
        check_len::<T, RANK>(name, data.len(), shape)?;
        let address = data.as_mut_ptr() as u64;
        let strides = contiguous(shape);
        let view = TensorView { address, shape, strides, memory: Memory::Host, lifetime: PhantomData };
        Ok(Self { view, exclusive: PhantomData })
    }

    /// A tensor at an address.
    ///
    /// # Safety
    /// As for [`TensorView::from_raw`]; moreover the elements are writable, no two indices name one element, and
    /// nothing else reads or writes them meanwhile.
    pub unsafe fn from_raw(
        address: u64,
        shape: [usize; RANK],
        strides: [i64; RANK],
        memory: Memory,
    ) -> Self {
        // SAFETY: the caller's promise is stronger than what the read-only view asks for.
        let view = unsafe { TensorView::from_raw(address, shape, strides, memory) };
        Self { view, exclusive: PhantomData }
    }

    /// Elements along each dimension.
    pub fn shape(&self) -> [usize; RANK] {
        self.view.shape
    }
}

macro_rules! elements {
    ($($ty:ty => $name:literal),+) => {
        $(impl Element for $ty { const NAME: &'static str = $name; }
          impl sealed::Sealed for $ty {})+
    };
}
elements!(u8 => "u8", i32 => "i32", f32 => "f32", bf16 => "bf16", f16 => "fp16");

impl Half for bf16 {
    const FORMAT: crate::KvFormat = crate::KvFormat::Bf16;
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Half for f16 {
    const FORMAT: crate::KvFormat = crate::KvFormat::Fp16;
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Row-major strides of a contiguous tensor.
fn contiguous<const RANK: usize>(shape: [usize; RANK]) -> [i64; RANK] {
    let mut strides = [1_i64; RANK];
    for dim in (0..RANK.saturating_sub(1)).rev() {
        strides[dim] = strides[dim + 1].saturating_mul(shape[dim + 1] as i64);
    }
    strides
}

fn check_len<T: Element, const RANK: usize>(
    name: &str,
    len: usize,
    shape: [usize; RANK],
) -> Result<(), InvalidProblem> {
    let needed = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    if needed == Some(len) {
        return Ok(());
    }
    let found = format!("a slice of {len} {}", T::NAME);
    Err(InvalidProblem::new(name, found, format!("one for each element of shape {shape:?}")))
}
