//! Tensors that lie with gaps in a larger buffer, with traps in the gaps.

use bytemuck::Pod;
use half::{bf16, f16};
use oximla::{Element, TensorView, TensorViewMut};

use crate::backend::{Backend, Buffer};

/// A value that shows when it is read as data, and that no operation writes.
pub trait Trap: Element + Pod {
    /// The value.
    const TRAP: Self;
}

impl Trap for bf16 {
    const TRAP: Self = Self::from_bits(0x7fde); // a NaN, as the other floating-point ones
}
impl Trap for f16 {
    const TRAP: Self = Self::from_bits(0x7ede);
}
impl Trap for f32 {
    const TRAP: Self = Self::from_bits(0x7fde_adbe);
}
impl Trap for i32 {
    const TRAP: Self = 2_147_480_000; // no page, no token, no length
}
impl Trap for i64 {
    const TRAP: Self = 9_223_372_036_854_000_000; // no token
}
impl Trap for u8 {
    const TRAP: Self = 0xff; // NaN as an e4m3 code, as a ue8m0 scale, and all over an f32 or bf16
}

/// How the tensors of a run lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Views {
    /// Without gaps between its elements.
    Contiguous,
    /// With a gap in every dimension; rows begin at multiples of [`ALIGNMENT`].
    Padded,
    /// With a gap in every dimension; rows begin anywhere. Only the CPU takes these.
    Unaligned,
}

/// Bytes that every device wants rows aligned to.
pub const ALIGNMENT: usize = 16;

/// Where the elements of a tensor lie in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Layout<const RANK: usize> {
    shape: [usize; RANK],
    strides: [usize; RANK],
    offset: usize,
    len: usize,
}

impl<const RANK: usize> Layout<RANK> {
    /// A tensor of `T` laid out as `views` says.
    pub fn new<T>(shape: [usize; RANK], views: Views) -> Self {
        let aligned = ALIGNMENT / size_of::<T>();
        let last = shape[RANK - 1];
        let mut extents = shape.map(|dim| dim + 1);
        let offset = match views {
            Views::Contiguous => {
                extents = shape;
                aligned
            }
            Views::Padded => {
                extents[RANK - 1] = (last + 1).next_multiple_of(aligned);
                aligned
            }
            Views::Unaligned => {
                extents[RANK - 1] = last.next_multiple_of(aligned) + 1;
                1
            }
        };
        Self::with_extents(shape, extents, offset)
    }

    /// A tensor whose outermost index is `outer_stride` elements apart and that has no other gaps.
    pub fn with_outer_stride(shape: [usize; RANK], outer_stride: usize) -> Self {
        let mut layout = Self::with_extents(shape, shape, 0);
        layout.strides[0] = outer_stride;
        layout.len = shape[0] * outer_stride;
        layout
    }

    /// The same tensor, `elements` further into a buffer that is as much larger.
    pub fn after(self, elements: usize) -> Self {
        Self { offset: self.offset + elements, len: self.len + elements, ..self }
    }

    fn with_extents(shape: [usize; RANK], extents: [usize; RANK], offset: usize) -> Self {
        let mut strides = [1; RANK];
        for dim in (0..RANK - 1).rev() {
            strides[dim] = strides[dim + 1] * extents[dim + 1];
        }
        // A margin on either side, against writes just outside.
        Self { shape, strides, offset, len: offset + strides[0] * extents[0] + offset }
    }

    /// Positions in the buffer at which the innermost rows begin, row-major.
    fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        let outer = &self.shape[..RANK - 1];
        (0..outer.iter().product()).map(move |row: usize| {
            let (mut rest, mut at) = (row, self.offset);
            for dim in (0..RANK - 1).rev() {
                at += rest % self.shape[dim] * self.strides[dim];
                rest /= self.shape[dim];
            }
            at
        })
    }

    /// A buffer with `data`, row-major, in its places, and traps around it.
    fn spread<T: Trap>(&self, data: &[T]) -> Vec<T> {
        assert_eq!(data.len(), self.shape.iter().product::<usize>(), "elements of {:?}", self.shape);
        let mut elements = vec![T::TRAP; self.len];
        for (row, at) in data.chunks(self.row_len().max(1)).zip(self.rows()) {
            elements[at..at + row.len()].copy_from_slice(row);
        }
        elements
    }

    fn row_len(&self) -> usize {
        self.shape[RANK - 1]
    }

    fn address_and_strides<T>(&self, address: u64) -> (u64, [i64; RANK]) {
        let strides = self.strides.map(|stride| i64::try_from(stride).expect("a stride of real memory"));
        (address + (self.offset * size_of::<T>()) as u64, strides)
    }
}

/// A tensor to be read, in a backend's memory.
#[derive(Debug)]
pub struct Input<T, const RANK: usize> {
    layout: Layout<RANK>,
    buffer: Buffer<T>,
}

impl<T: Trap, const RANK: usize> Input<T, RANK> {
    /// Lays `data`, row-major, out as `views` says.
    pub fn new(backend: &Backend, data: &[T], shape: [usize; RANK], views: Views) -> Self {
        Self::with_layout(backend, data, Layout::new::<T>(shape, views))
    }

    /// Lays `data`, row-major, out.
    pub fn with_layout(backend: &Backend, data: &[T], layout: Layout<RANK>) -> Self {
        Self { layout, buffer: backend.upload(layout.spread(data)) }
    }

    /// Puts other data in place of what is there.
    pub fn write(&mut self, data: &[T]) {
        self.buffer.write(&self.layout.spread(data));
    }

    /// The tensor.
    pub fn view(&self) -> TensorView<'_, T, RANK> {
        let (address, strides) = self.layout.address_and_strides::<T>(self.buffer.address());
        // SAFETY: the layout names elements of the buffer only, which lives as long as the view borrows it.
        unsafe { TensorView::from_raw(address, self.layout.shape, strides, self.buffer.memory()) }
    }
}

/// A tensor to be written, in a backend's memory, full of [`Trap::TRAP`] at first.
#[derive(Debug)]
pub struct Output<T, const RANK: usize> {
    layout: Layout<RANK>,
    buffer: Buffer<T>,
}

impl<T: Trap, const RANK: usize> Output<T, RANK> {
    /// A tensor laid out as `views` says.
    pub fn new(backend: &Backend, shape: [usize; RANK], views: Views) -> Self {
        let layout = Layout::new::<T>(shape, views);
        Self { layout, buffer: backend.upload(vec![T::TRAP; layout.len]) }
    }

    /// A tensor laid out as `views` says, to be changed in place: `data`, row-major, instead of traps.
    pub fn holding(backend: &Backend, data: &[T], shape: [usize; RANK], views: Views) -> Self {
        let layout = Layout::new::<T>(shape, views);
        Self { layout, buffer: backend.upload(layout.spread(data)) }
    }

    /// The tensor.
    pub fn view(&mut self) -> TensorViewMut<'_, T, RANK> {
        let (address, strides) = self.layout.address_and_strides::<T>(self.buffer.address_mut());
        // SAFETY: the layout names elements of the buffer only, each once, and the view borrows it exclusively.
        unsafe { TensorViewMut::from_raw(address, self.layout.shape, strides, self.buffer.memory()) }
    }

    /// What a finished run wrote, row-major.
    ///
    /// # Panics
    /// If an element was not written, or anything outside the tensor was.
    pub fn read(&self, name: &str) -> Vec<T> {
        let mut elements = self.buffer.download();
        let mut data = Vec::with_capacity(self.layout.shape.iter().product());
        for (row, at) in self.layout.rows().enumerate() {
            let written = &mut elements[at..at + self.layout.row_len()];
            let missing = written.iter().position(is_trap);
            assert_eq!(missing, None, "{name}: element of row {row} was not written");
            data.extend_from_slice(written);
            written.fill(T::TRAP);
        }
        let outside = elements.iter().position(|element| !is_trap(element));
        assert_eq!(outside, None, "{name}: position of the buffer written outside the tensor");
        data
    }

    /// Makes it full of traps again.
    pub fn reset(&mut self) {
        self.buffer.write(&vec![T::TRAP; self.layout.len]);
    }

    /// Whether it is as [`Self::holding`] made it of this data.
    pub fn holds(&self, data: &[T]) -> bool {
        let (found, held) = (self.buffer.download(), self.layout.spread(data));
        bytemuck::cast_slice::<T, u8>(&found) == bytemuck::cast_slice::<T, u8>(&held)
    }

    /// Whether nothing was written.
    pub fn is_untouched(&self) -> bool {
        self.buffer.download().iter().all(is_trap)
    }
}

fn is_trap<T: Trap>(element: &T) -> bool {
    bytemuck::bytes_of(element) == bytemuck::bytes_of(&T::TRAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let contiguous = Layout::new::<f32>([2, 3, 5], Views::Contiguous);
        assert_eq!((contiguous.strides, contiguous.offset, contiguous.len), ([15, 5, 1], 4, 38));
        let padded = Layout::new::<f32>([2, 3, 5], Views::Padded);
        assert_eq!((padded.strides, padded.offset, padded.len), ([32, 8, 1], 4, 104));
        assert_eq!(padded.rows().collect::<Vec<_>>(), [4, 12, 20, 36, 44, 52]);
        let unaligned = Layout::new::<u8>([2, 16], Views::Unaligned);
        assert_eq!((unaligned.strides, unaligned.offset), ([17, 1], 1));
        let pages = Layout::with_outer_stride([2, 3, 1, 4], 20);
        assert_eq!((pages.strides, pages.len), ([20, 4, 4, 1], 40));
        let after = pages.after(3);
        assert_eq!((after.strides, after.offset, after.len), (pages.strides, 3, 43));
    }

    #[test]
    fn a_full_write_is_read_back() {
        let mut output = Output::<i32, 2>::new(&Backend::cpu(), [2, 2], Views::Padded);
        assert!(output.is_untouched());
        write(&mut output, [1, 2, 3, 4]);
        assert!(!output.is_untouched());
        assert_eq!(output.read("out"), [1, 2, 3, 4]);
    }

    #[test]
    #[should_panic(expected = "was not written")]
    fn a_forgotten_element_shows() {
        let mut output = Output::<i32, 2>::new(&Backend::cpu(), [2, 2], Views::Padded);
        write(&mut output, [1, i32::TRAP, 3, 4]);
        output.read("out");
    }

    #[test]
    #[should_panic(expected = "written outside")]
    fn a_write_into_a_gap_shows() {
        let mut output = Output::<i32, 2>::new(&Backend::cpu(), [2, 2], Views::Padded);
        write(&mut output, [1, 2, 3, 4]);
        let Buffer::Host(elements) = &mut output.buffer else { unreachable!("a buffer of the CPU") };
        *elements.last_mut().unwrap() = 0;
        output.read("out");
    }

    fn write(output: &mut Output<i32, 2>, values: [i32; 4]) {
        let rows: Vec<usize> = output.layout.rows().collect();
        let Buffer::Host(elements) = &mut output.buffer else { unreachable!("a buffer of the CPU") };
        for (row, at) in values.chunks(2).zip(rows) {
            elements[at..at + 2].copy_from_slice(row);
        }
    }
}
