//! Tensors as the operations see them: a pointer, a shape and strides, on the host or on a GPU.

use std::marker::PhantomData;

use crate::InvalidProblem;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Element types tensors may have.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Sealed {
    /// Name for messages.
    const NAME: &'static str;
}

/// The 16-bit floating-point types of queries, dense caches and outputs.
pub trait Half: Element {
    /// The dense cache format of this type.
    const FORMAT: crate::KvFormat;
    /// The value in f32, exactly.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
    /// A slice in f32, exactly.
    ///
    /// # Panics
    /// If the lengths differ.
    fn widen(from: &[Self], to: &mut [f32]);
}

/// The element types of attention outputs, be they final or still to be merged.
pub trait StateElement: Element {
    /// This type.
    const FORMAT: StateFormat;
    /// The value in f32, exactly.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
}

/// A [`StateElement`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFormat {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
    /// IEEE single precision.
    F32,
}

impl std::fmt::Display for StateFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bf16 => bf16::NAME,
            Self::Fp16 => f16::NAME,
            Self::F32 => f32::NAME,
        })
    }
}

/// Whose memory a tensor lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The process's.
    Host,
    /// A GPU's.
    Device,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Host => "in host memory",
            Self::Device => "in device memory",
        })
    }
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
    /// The same elements with one dimension more, of one index, at `axis`.
    pub(crate) fn with_unit_axis<const MORE: usize>(self, axis: usize) -> TensorView<'a, T, MORE> {
        const { assert!(MORE == RANK + 1 && RANK > 0) };
        let Self { address, shape, strides, memory, lifetime } = self;
        let old = |new: usize| if new < axis { new } else { new.saturating_sub(1) };
        TensorView {
            address,
            shape: std::array::from_fn(|new| if new == axis { 1 } else { shape[old(new)] }),
            // That of a dimension of one index may be anything, but others are aligned.
            strides: std::array::from_fn(|new| strides[old(new)]),
            memory,
            lifetime,
        }
    }

    /// A contiguous tensor over host memory.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the slice's length is not the product of `shape`.
    pub fn from_slice(name: &str, data: &'a [T], shape: [usize; RANK]) -> Result<Self, InvalidProblem> {
        Self::contiguous_at(name, data.as_ptr() as u64, data.len(), shape, Memory::Host)
    }

    /// A contiguous tensor over `len` elements that the caller borrows for `'a`.
    pub(crate) fn contiguous_at(
        name: &str,
        address: u64,
        len: usize,
        shape: [usize; RANK],
        memory: Memory,
    ) -> Result<Self, InvalidProblem> {
        check_len::<T, RANK>(name, len, shape)?;
        Ok(Self { address, shape, strides: contiguous(shape), memory, lifetime: PhantomData })
    }

    /// A tensor at an address.
    ///
    /// # Safety
    /// For every index within `shape`, the element at `address + Σ index·stride` elements is readable memory of the
    /// kind `memory` for as long as `'a` (and, on a GPU, until the runs that use it are finished).
    pub unsafe fn from_raw(address: u64, shape: [usize; RANK], strides: [i64; RANK], memory: Memory) -> Self {
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
    /// As [`TensorView::with_unit_axis`].
    pub(crate) fn with_unit_axis<const MORE: usize>(&mut self, axis: usize) -> TensorViewMut<'_, T, MORE> {
        TensorViewMut { view: self.view.with_unit_axis(axis), exclusive: PhantomData }
    }

    /// A contiguous tensor over host memory.
    ///
    /// # Errors
    /// [`InvalidProblem`] where the slice's length is not the product of `shape`.
    pub fn from_slice(name: &str, data: &'a mut [T], shape: [usize; RANK]) -> Result<Self, InvalidProblem> {
        Self::contiguous_at(name, data.as_mut_ptr() as u64, data.len(), shape, Memory::Host)
    }

    /// A contiguous tensor over `len` elements that the caller borrows exclusively for `'a`.
    pub(crate) fn contiguous_at(
        name: &str,
        address: u64,
        len: usize,
        shape: [usize; RANK],
        memory: Memory,
    ) -> Result<Self, InvalidProblem> {
        let view = TensorView::contiguous_at(name, address, len, shape, memory)?;
        Ok(Self { view, exclusive: PhantomData })
    }

    /// A tensor at an address.
    ///
    /// # Safety
    /// As for [`TensorView::from_raw`]; moreover the elements are writable, no two indices name one element, and
    /// nothing else reads or writes them meanwhile.
    pub unsafe fn from_raw(address: u64, shape: [usize; RANK], strides: [i64; RANK], memory: Memory) -> Self {
        // SAFETY: the caller's promise is stronger than what the read-only view asks for.
        let view = unsafe { TensorView::from_raw(address, shape, strides, memory) };
        Self { view, exclusive: PhantomData }
    }

    /// Elements along each dimension.
    pub fn shape(&self) -> [usize; RANK] {
        self.view.shape
    }
}

/// Reading on the host. Operations get here with tensors they have checked.
#[cfg_attr(not(feature = "cpu"), allow(dead_code))]
impl<'a, T: Element, const RANK: usize> TensorView<'a, T, RANK> {
    /// The innermost dimension at the given outer indices.
    pub(crate) fn row(&self, outer: &[usize]) -> &'a [T] {
        let len = self.shape[RANK - 1];
        let contiguous = outer.len() == RANK - 1 && (len <= 1 || self.strides[RANK - 1] == 1);
        assert!(self.memory == Memory::Host && contiguous, "a contiguous row in host memory");
        // SAFETY: `offset` stays within the shape, and so within what the view's maker promised to be readable.
        unsafe { std::slice::from_raw_parts(self.pointer().offset(self.offset(outer)), len) }
    }

    /// An element.
    pub(crate) fn get(&self, index: [usize; RANK]) -> T {
        assert!(self.memory == Memory::Host, "host memory");
        // SAFETY: as in `row`.
        unsafe { self.pointer().offset(self.offset(&index)).read() }
    }

    /// All elements at an outermost index; inner dimensions are contiguous.
    pub(crate) fn outermost(&self, index: usize) -> &'a [T] {
        let mut len = 1;
        for dim in (1..RANK).rev() {
            let contiguous = self.shape[dim] <= 1 || self.strides[dim] == len as i64;
            assert!(contiguous, "inner dimensions are contiguous");
            len *= self.shape[dim];
        }
        assert!(self.memory == Memory::Host, "host memory");
        // SAFETY: as in `row`; without gaps, the elements at `index` are `len` in a row.
        unsafe { std::slice::from_raw_parts(self.pointer().offset(self.offset(&[index])), len) }
    }

    /// Elements from the first one to that with the given leading indices, the others being 0.
    fn offset(&self, leading: &[usize]) -> isize {
        let mut offset = 0;
        for ((&index, dim), stride) in leading.iter().zip(self.shape).zip(self.strides) {
            assert!(index < dim, "index {leading:?} of shape {:?}", self.shape);
            offset += index as isize * stride as isize;
        }
        offset
    }

    fn pointer(&self) -> *mut T {
        self.address as usize as *mut T
    }
}

/// Writing on the host.
#[cfg(feature = "cpu")]
impl<T: Element, const RANK: usize> TensorViewMut<'_, T, RANK> {
    /// All elements at an outermost index; inner dimensions are contiguous.
    pub(crate) fn outermost_mut(&mut self, index: usize) -> &mut [T] {
        let elements = self.view.outermost(index);
        // SAFETY: the view's maker promised that the elements are writable and that nothing else accesses them; this
        // borrows the view exclusively.
        unsafe { std::slice::from_raw_parts_mut(elements.as_ptr().cast_mut(), elements.len()) }
    }
}

/// Writing on the host, from several threads.
#[cfg(feature = "cpu")]
impl<T: Element, const RANK: usize> TensorViewMut<'_, T, RANK> {
    /// Writes the innermost dimension at the given outer indices.
    ///
    /// # Safety
    /// Nothing else reads or writes this row meanwhile.
    pub(crate) unsafe fn write_row(&self, outer: &[usize], values: impl ExactSizeIterator<Item = T>) {
        let len = self.view.shape[RANK - 1];
        assert!(outer.len() == RANK - 1 && values.len() == len, "one value for each element of a row");
        assert!(self.view.memory == Memory::Host, "host memory");
        let stride = self.view.strides[RANK - 1] as isize;
        let row = self.view.pointer().wrapping_offset(self.view.offset(outer));
        for (index, value) in (0..).zip(values) {
            // SAFETY: the element is within the shape, which the view's maker promised to be writable memory.
            unsafe { row.wrapping_offset(index * stride).write(value) };
        }
    }

    /// Writes an element.
    ///
    /// # Safety
    /// Nothing else reads or writes it meanwhile.
    pub(crate) unsafe fn write(&self, index: [usize; RANK], value: T) {
        assert!(self.view.memory == Memory::Host, "host memory");
        // SAFETY: as in `write_row`.
        unsafe { self.view.pointer().offset(self.view.offset(&index)).write(value) };
    }
}

macro_rules! elements {
    ($($ty:ty => $name:literal),+) => {
        $(impl Element for $ty { const NAME: &'static str = $name; }
          impl sealed::Sealed for $ty {})+
    };
}
elements!(u8 => "u8", i32 => "i32", i64 => "i64", f32 => "f32", bf16 => "bf16", f16 => "fp16");

impl Half for bf16 {
    const FORMAT: crate::KvFormat = crate::KvFormat::Bf16;
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
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
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

macro_rules! state_elements {
    ($($ty:ty => $format:ident, $to_f32:expr, $from_f32:expr;)+) => {
        $(impl StateElement for $ty {
            const FORMAT: StateFormat = StateFormat::$format;
            fn to_f32(self) -> f32 {
                $to_f32(self)
            }
            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
        })+
    };
}
state_elements! {
    bf16 => Bf16, bf16::to_f32, bf16::from_f32;
    f16 => Fp16, f16::to_f32, f16::from_f32;
    f32 => F32, std::convert::identity, std::convert::identity;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_must_have_the_shape() {
        let why = TensorView::from_slice("q", &[0.0_f32; 5], [2, 3]).unwrap_err();
        assert_eq!(why.to_string(), "q is a slice of 5 f32; needed is one for each element of shape [2, 3]");
        assert!(
            TensorView::from_slice("q", &[0_u8; 0], [usize::MAX, 2]).is_err(),
            "more than can be counted"
        );
        let view = TensorView::from_slice("q", &[0_i32; 6], [2, 3]).unwrap();
        assert_eq!((view.shape(), view.strides(), view.memory()), ([2, 3], [3, 1], Memory::Host));
    }
}

#[cfg(all(test, feature = "cpu"))]
mod host_access {
    use super::*;

    /// Numbers 0, 1, … seen with gaps.
    fn strided<const RANK: usize>(
        data: &[i32],
        shape: [usize; RANK],
        strides: [i64; RANK],
    ) -> TensorView<'_, i32, RANK> {
        let last: usize = shape.iter().zip(strides).map(|(dim, stride)| (dim - 1) * stride as usize).sum();
        assert!(last < data.len());
        // SAFETY: all elements lie in `data`.
        unsafe { TensorView::from_raw(data.as_ptr() as u64, shape, strides, Memory::Host) }
    }

    #[test]
    fn reading_follows_strides() {
        let data: Vec<i32> = (0..100).collect();
        let view = strided(&data, [2, 3, 4], [40, 7, 1]);
        assert_eq!(view.row(&[1, 2]), [54, 55, 56, 57]);
        assert_eq!(view.get([1, 2, 3]), 57);
        assert_eq!(strided(&data, [3, 4], [5, 9]).get([2, 3]), 37, "any inner stride");
        assert_eq!(strided(&data, [3, 2, 1, 2], [30, 2, 99, 1]).outermost(2), [60, 61, 62, 63]);
    }

    #[test]
    #[should_panic(expected = "index [2] of shape [2, 3]")]
    fn reading_outside_the_shape_is_refused() {
        strided(&[0; 6], [2, 3], [3, 1]).row(&[2]);
    }

    #[test]
    #[should_panic(expected = "a contiguous row")]
    fn rows_with_gaps_are_refused() {
        strided(&[0; 12], [2, 3], [6, 2]).row(&[1]);
    }

    #[test]
    fn writing_follows_strides() {
        let mut data = [0; 12];
        // SAFETY: all elements lie in `data`, each once.
        let view: TensorViewMut<'_, i32, 2> =
            unsafe { TensorViewMut::from_raw(data.as_mut_ptr() as u64, [2, 3], [1, 4], Memory::Host) };
        // SAFETY: nothing else reads or writes the elements.
        unsafe {
            view.write_row(&[1], [7, 8, 9].into_iter());
            view.write([0, 2], 5);
        }
        assert_eq!(data, [0, 7, 0, 0, 0, 8, 0, 0, 5, 9, 0, 0]);
    }
}
