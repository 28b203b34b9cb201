//! From a function of one thread's values to an [`Operation`] on 32 lanes.
//!
//! The Rust types of the function's arguments and results say what the registers are: `binary(|a: u32, b: u32| …)`
//! has two operands of 32 bits.

use std::sync::Arc;

use ::half::{bf16, f16};

use super::{LANES, Lanes, Operation, Width};

/// A type that a register can hold.
pub(super) trait Value: Copy {
    /// Width of the register.
    const WIDTH: Width;
    /// Reads a register; bits above the width are ignored.
    fn from_lane(lane: u64) -> Self;
    /// The register's content, zero above the width.
    fn into_lane(self) -> u64;
}

/// Two 16-bit elements in a register of 32 bits, the lower first.
#[derive(Clone, Copy)]
pub(super) struct Packed<T>(pub T, pub T);

impl<T> Packed<T> {
    /// Applies `f` to the elements.
    pub fn map<R>(self, f: impl Fn(T) -> R) -> Packed<R> {
        Packed(f(self.0), f(self.1))
    }

    /// Applies `f` to the elements of two registers.
    pub fn zip<U, R>(self, other: Packed<U>, f: impl Fn(T, U) -> R) -> Packed<R> {
        Packed(f(self.0, other.0), f(self.1, other.1))
    }
}

impl Value for bool {
    const WIDTH: Width = Width::Pred;
    fn from_lane(lane: u64) -> Self {
        lane & 1 != 0
    }
    fn into_lane(self) -> u64 {
        u64::from(self)
    }
}

macro_rules! integer_value {
    ($($ty:ty, $unsigned:ty, $width:ident;)+) => {$(
        impl Value for $ty {
            const WIDTH: Width = Width::$width;
            fn from_lane(lane: u64) -> Self {
                lane as $ty
            }
            fn into_lane(self) -> u64 {
                u64::from(self as $unsigned)
            }
        }
    )+};
}
integer_value! {
    u8, u8, B8;
    u16, u16, B16;
    i16, u16, B16;
    u32, u32, B32;
    i32, u32, B32;
    u64, u64, B64;
    i64, u64, B64;
}

macro_rules! float_value {
    ($($ty:ty, $bits:ty, $width:ident;)+) => {$(
        impl Value for $ty {
            const WIDTH: Width = Width::$width;
            fn from_lane(lane: u64) -> Self {
                <$ty>::from_bits(lane as $bits)
            }
            fn into_lane(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    )+};
}
float_value! {
    f16, u16, B16;
    bf16, u16, B16;
    f32, u32, B32;
    f64, u64, B64;
}

impl<T: Value> Value for Packed<T> {
    const WIDTH: Width = Width::B32;
    fn from_lane(lane: u64) -> Self {
        Self(T::from_lane(lane & 0xffff), T::from_lane(lane >> 16 & 0xffff))
    }
    fn into_lane(self) -> u64 {
        self.0.into_lane() | self.1.into_lane() << 16
    }
}

/// The registers that a function takes or returns: a tuple of [`Value`]s.
pub(super) trait Registers {
    /// Their widths.
    const WIDTHS: &'static [Width];
    /// Reads them in one lane.
    fn load(registers: &[Lanes], lane: usize) -> Self;
    /// Writes them in one lane.
    fn store(self, registers: &mut [Lanes], lane: usize);
}

macro_rules! registers {
    ($($($ty:ident $index:tt),+;)+) => {$(
        impl<$($ty: Value),+> Registers for ($($ty,)+) {
            const WIDTHS: &'static [Width] = &[$($ty::WIDTH),+];
            fn load(registers: &[Lanes], lane: usize) -> Self {
                ($($ty::from_lane(registers[$index][lane]),)+)
            }
            fn store(self, registers: &mut [Lanes], lane: usize) {
                $(registers[$index][lane] = self.$index.into_lane();)+
            }
        }
    )+};
}
registers! {
    A 0;
    A 0, B 1;
    A 0, B 1, C 2;
    A 0, B 1, C 2, D 3;
    A 0, B 1, C 2, D 3, E 4;
}

impl Operation {
    /// The operation that applies `f` in each lane.
    pub(super) fn lanewise<I: Registers, O: Registers>(f: impl Fn(I) -> O + Send + Sync + 'static) -> Self {
        let kernel = move |operands: &[Lanes], results: &mut [Lanes]| {
            assert_eq!(operands.len(), I::WIDTHS.len(), "operands");
            assert_eq!(results.len(), O::WIDTHS.len(), "results");
            for lane in 0..LANES {
                f(I::load(operands, lane)).store(results, lane);
            }
        };
        Self {
            mnemonic: String::new(),
            results: O::WIDTHS,
            operands: I::WIDTHS,
            reads_carry: false,
            writes_carry: false,
            kernel: Arc::new(kernel),
        }
    }

    /// One operand, one result.
    pub(super) fn unary<A: Value, R: Value>(f: impl Fn(A) -> R + Send + Sync + 'static) -> Self {
        Self::lanewise(move |(a,): (A,)| (f(a),))
    }

    /// Two operands, one result.
    pub(super) fn binary<A: Value, B: Value, R: Value>(
        f: impl Fn(A, B) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::lanewise(move |(a, b): (A, B)| (f(a, b),))
    }

    /// Three operands, one result.
    pub(super) fn ternary<A: Value, B: Value, C: Value, R: Value>(
        f: impl Fn(A, B, C) -> R + Send + Sync + 'static,
    ) -> Self {
        Self::lanewise(move |(a, b, c): (A, B, C)| (f(a, b, c),))
    }
}
