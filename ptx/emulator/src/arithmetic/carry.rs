//! The carry flag (PTX ISA, "Extended-Precision Integer Arithmetic Instructions"): an additional last operand where it is
//! read, an additional last result where it is written.

use super::Operation;
use super::lanes::{Registers, Value};

/// The operands beside the carry flag.
pub(super) trait BesideCarry: Registers + Sized {
    /// See [`Operation::carrying`].
    fn carrying<R: Value>(
        reads: bool,
        writes: bool,
        f: impl Fn(Self, bool) -> (R, bool) + Send + Sync + 'static,
    ) -> Operation;
}

impl Operation {
    /// The operation that applies `f` to operands and carry, zero where it is not read, for a result and a carry.
    pub(super) fn carrying<I: BesideCarry, R: Value>(
        reads: bool,
        writes: bool,
        f: impl Fn(I, bool) -> (R, bool) + Send + Sync + 'static,
    ) -> Self {
        I::carrying(reads, writes, f)
    }
}

macro_rules! beside_carry {
    ($($($name:ident: $ty:ident),+;)+) => {$(
        impl<$($ty: Value),+> BesideCarry for ($($ty,)+) {
            fn carrying<Result: Value>(
                reads: bool,
                writes: bool,
                f: impl Fn(Self, bool) -> (Result, bool) + Send + Sync + 'static,
            ) -> Operation {
                let operation = match (reads, writes) {
                    (false, false) => Operation::lanewise(move |operands: Self| (f(operands, false).0,)),
                    (false, true) => Operation::lanewise(move |operands: Self| f(operands, false)),
                    (true, false) => Operation::lanewise(move |($($name,)+ carry): ($($ty,)+ bool)| {
                        (f(($($name,)+), carry).0,)
                    }),
                    (true, true) => Operation::lanewise(move |($($name,)+ carry): ($($ty,)+ bool)| {
                        f(($($name,)+), carry)
                    }),
                };
                Operation { reads_carry: reads, writes_carry: writes, ..operation }
            }
        }
    )+};
}
beside_carry! {
    a: A, b: B;
    a: A, b: B, c: C;
}
