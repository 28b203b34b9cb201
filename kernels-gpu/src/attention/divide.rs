//! Division by numbers that the host knows.

use crate::ptx::math;
use oximla_types::kernels::sparse_decode::Divisor;

/// Quotient and remainder of a number below 2³¹: [`Divisor::divide`], without the mask that Rust's shift takes.
#[inline(always)]
pub fn divide(n: u32, by: &Divisor) -> (u32, u32) {
    let quotient = math::shr(by.multiply(n), by.shift);
    (quotient, n - quotient * by.divisor)
}
