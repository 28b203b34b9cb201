//! The pieces of attention that kernels share.

pub mod dequant;
pub mod divide;
pub mod element;
pub mod fp8_token;
pub mod merge;
pub mod output;
pub mod rope;
pub mod rows;
pub mod scan;
pub mod sink;
pub mod softmax;

/// Repeats a block with a constant counting up from 0.
///
/// Register arrays may be indexed with constants only: a runtime index would move them to local memory, and LLVM does
/// not promise to unroll a loop.
macro_rules! unroll {
    ($i:ident in 2 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1) };
    ($i:ident in 3 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1 2) };
    ($i:ident in 4 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1 2 3) };
    ($i:ident in 10 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1 2 3 4 5 6 7 8 9) };
    ($i:ident in 16 => $body:block) => {
        $crate::attention::unroll!(@ $i $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($i:ident in 24 => $body:block) => {
        $crate::attention::unroll!(@ $i $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23)
    };
    ($i:ident in 5 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1 2 3 4) };
    ($i:ident in 6 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1 2 3 4 5) };
    ($i:ident in 8 => $body:block) => { $crate::attention::unroll!(@ $i $body 0 1 2 3 4 5 6 7) };
    ($i:ident in 32 => $body:block) => {
        $crate::attention::unroll!(@ $i $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26
            27 28 29 30 31)
    };
    (@ $i:ident $body:block $($n:literal)*) => { $({ const $i: usize = $n; $body })* };
}
pub(crate) use unroll;
