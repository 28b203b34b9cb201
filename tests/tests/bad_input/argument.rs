//! Tensor arguments that can be spoiled and still name only memory that exists, so that a missing check shows as a
//! failed test and not as a crash.

use oximla::{Memory, TensorView, TensorViewMut};
use oximla_conformance::strided::Trap;
use proptest::prelude::*;

use crate::{Verdict, wrong_size};

/// Copies of the data on either side of it: strides may lead there.
const COPIES_AROUND: usize = 2;

/// One thing wrong with a tensor. Dimensions beyond the last one mean the last one.
#[derive(Clone, Copy, Debug)]
pub enum Flaw {
    /// A dimension has another size.
    Size { dim: usize, choice: usize },
    /// A dimension has another stride.
    Stride { dim: usize, to: Stride },
    /// The address is no multiple of the element's size.
    Misaligned,
    /// It is said to lie in another kind of memory.
    OtherMemory,
}

/// What a stride is replaced by.
#[derive(Clone, Copy, Debug)]
pub enum Stride {
    Zero,
    Negated,
    OneLess,
    Doubled,
    Max,
    Min,
}

/// A tensor argument, contiguous unless spoiled.
#[derive(Debug)]
pub struct Argument<T, const RANK: usize> {
    elements: Vec<T>,
    shape: [usize; RANK],
    strides: [i64; RANK],
    origin: usize,
    misaligned: bool,
    memory: Memory,
    written: bool,
}

impl Flaw {
    pub fn any() -> impl Strategy<Value = Self> + Clone {
        let stride = prop::sample::select(
            &[Stride::Zero, Stride::Negated, Stride::OneLess, Stride::Doubled, Stride::Max, Stride::Min][..],
        );
        prop_oneof![
            3 => (0_usize..4, 0_usize..8).prop_map(|(dim, choice)| Self::Size { dim, choice }),
            3 => (0_usize..4, stride).prop_map(|(dim, to)| Self::Stride { dim, to }),
            1 => Just(Self::Misaligned),
            1 => Just(Self::OtherMemory),
        ]
    }
}

impl<T: Trap, const RANK: usize> Argument<T, RANK> {
    /// A tensor to be read.
    pub fn input(data: &[T], shape: [usize; RANK]) -> Self {
        Self::new(data.repeat(2 * COPIES_AROUND + 1), data.len(), shape, false)
    }

    /// A tensor to be written.
    pub fn output(shape: [usize; RANK]) -> Self {
        let len = shape.iter().product();
        Self::new(vec![T::TRAP; (2 * COPIES_AROUND + 1) * len], len, shape, true)
    }

    fn new(mut elements: Vec<T>, len: usize, shape: [usize; RANK], written: bool) -> Self {
        assert_eq!(shape.iter().product::<usize>(), len, "elements of {shape:?}");
        elements.push(T::TRAP); // where a misaligned view ends
        let mut strides = [1; RANK];
        for dim in (0..RANK - 1).rev() {
            strides[dim] = strides[dim + 1] * shape[dim + 1] as i64;
        }
        let origin = COPIES_AROUND * len;
        Self { elements, shape, strides, origin, misaligned: false, memory: Memory::Host, written }
    }

    /// Applies `flaw`.
    pub fn spoil(&mut self, flaw: Flaw) -> Verdict {
        let fatal = match flaw {
            Flaw::Size { dim, choice } => self.resize(dim.min(RANK - 1), choice),
            Flaw::Stride { dim, to } => self.restride(dim.min(RANK - 1), to),
            Flaw::Misaligned => {
                self.misaligned = size_of::<T>() > 1;
                self.misaligned
            }
            Flaw::OtherMemory => {
                self.memory = Memory::Device;
                true
            }
        };
        if fatal { Verdict::Fatal } else { Verdict::Sound }
    }

    pub fn shape(&self) -> [usize; RANK] {
        self.shape
    }

    fn resize(&mut self, dim: usize, choice: usize) -> bool {
        let size = self.shape[dim];
        self.shape[dim] = wrong_size(size, choice);
        self.shape[dim] != size
    }

    fn restride(&mut self, dim: usize, to: Stride) -> bool {
        let stride = self.strides[dim];
        let new = match to {
            Stride::Zero => 0,
            Stride::Negated => -stride,
            Stride::OneLess => stride - 1,
            Stride::Doubled => 2 * stride,
            Stride::Max => i64::MAX,
            Stride::Min => i64::MIN,
        };
        self.strides[dim] = new;
        // The stride of a single index is never used.
        let used = self.shape[dim] > 1;
        // A vector may have any stride; elsewhere the innermost dimension is contiguous.
        let innermost = RANK > 1 && dim == RANK - 1;
        let unbounded = matches!(to, Stride::Max | Stride::Min);
        let overlapping = self.written && new < stride;
        used && (innermost || unbounded || overlapping)
    }

    /// The tensor to be read.
    pub fn view(&self) -> TensorView<'_, T, RANK> {
        let address = self.elements.as_ptr() as u64 + self.offset();
        // SAFETY: where the strides are sound, they lead to the copies of the data at most. Otherwise, and for a
        // shape that contradicts the problem, the call must fail without reading: this is what is tested.
        unsafe { TensorView::from_raw(address, self.shape, self.strides, self.memory) }
    }

    /// The tensor to be written.
    pub fn view_mut(&mut self) -> TensorViewMut<'_, T, RANK> {
        let address = self.elements.as_mut_ptr() as u64 + self.offset();
        // SAFETY: as for `view`, and the elements are borrowed exclusively.
        unsafe { TensorViewMut::from_raw(address, self.shape, self.strides, self.memory) }
    }

    fn offset(&self) -> u64 {
        (self.origin * size_of::<T>() + usize::from(self.misaligned)) as u64
    }

    /// The elements that the view names, row-major.
    pub fn data(&self) -> Vec<T> {
        let count: usize = self.shape.iter().product();
        let at = |element: usize| {
            let (mut rest, mut at) = (element, self.origin as i64);
            for dim in (0..RANK).rev() {
                at += (rest % self.shape[dim]) as i64 * self.strides[dim];
                rest /= self.shape[dim];
            }
            self.elements[usize::try_from(at).expect("a position within the copies")]
        };
        (0..count).map(at).collect()
    }

    /// Whether every element still is what an output is before a run.
    pub fn is_untouched(&self) -> bool {
        let trap = bytemuck::bytes_of(&T::TRAP).to_vec();
        self.elements.iter().all(|element| bytemuck::bytes_of(element) == trap)
    }
}

/// `data` as an optional argument.
pub fn optional<T: Trap, const RANK: usize>(
    data: Option<&Vec<T>>,
    shape: [usize; RANK],
) -> Option<Argument<T, RANK>> {
    data.map(|data| Argument::input(data, shape))
}
