//! The arithmetic of matrix multiplications: sums of products, added to accumulators in their format.
//!
//! The ISA leaves the order and the precision of the sums open. Here a product is exact, the products of one
//! instruction and the old accumulator are added in f64, in the order of k, and rounded to the accumulator's format
//! once, to nearest even. With integer values the result is exact. A NaN comes out positive and with all bits of its
//! mantissa set.

use half::f16;

use super::fragment::{GROUP, HALF, WARP, WARP_ROWS};

/// Format of the accumulators, D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// `.f32`
    F32,
    /// `.f16`, two in a register.
    F16,
    /// `.s32`
    S32 {
        /// `.satfinite`: sums stop at the ends of the range instead of wrapping round.
        saturates: bool,
    },
}

/// Columns that are computed at once.
const BLOCK: usize = 8;

const CANONICAL_NAN: u32 = 0x7fff_ffff;
const CANONICAL_NAN_F16: u16 = 0x7fff;

impl Accumulator {
    /// 32-bit registers of a thread for n columns.
    pub const fn registers(self, n: usize) -> usize {
        match self {
            Self::F32 | Self::S32 { .. } => n / 2,
            Self::F16 => n / 4,
        }
    }

    /// Adds A·B to the accumulators, or, unless `add`, replaces them.
    ///
    /// `a` is rows × k and `b` n × k, both row-major; rows is a multiple of 16, n one of 8. `accumulators` holds the
    /// registers of thread 0, then those of thread 1, and so on, two threads a row of A, in the order of
    /// [`fragment::accumulator`](super::fragment::accumulator).
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn multiply(self, a: &[f32], b: &[f32], k: usize, accumulators: &mut [u32], add: bool) {
        let (rows, n) = (a.len() / k, b.len() / k);
        let of_thread = self.registers(n);
        assert_eq!((a.len(), b.len()), (rows * k, n * k), "A and B have {k} elements a row");
        assert_eq!(accumulators.len(), WARP / WARP_ROWS * rows * of_thread, "accumulators for {rows} × {n}");
        let columns = columns_of_blocks(b, k);
        for (warp, warp_rows) in a.chunks_exact(WARP_ROWS * k).enumerate() {
            for group in 0..HALF {
                let pairs = pairs_of_rows(warp_rows, group, k);
                let first = (warp * WARP + group * GROUP) * of_thread;
                let threads = &mut accumulators[first..first + GROUP * of_thread];
                for (block, columns) in columns.chunks_exact(k).enumerate() {
                    let [upper, lower] = sums(&pairs, columns);
                    let registers = self.registers(BLOCK);
                    for (place, thread) in threads.chunks_exact_mut(of_thread).enumerate() {
                        let registers = &mut thread[block * registers..][..registers];
                        let column = 2 * place;
                        let products = [upper[column], upper[column + 1], lower[column], lower[column + 1]];
                        self.accumulate(registers, products, add);
                    }
                }
            }
        }
    }

    /// The four elements of a thread in eight columns.
    fn accumulate(self, registers: &mut [u32], products: [f64; 4], add: bool) {
        match self {
            Self::F32 => {
                for (register, product) in registers.iter_mut().zip(products) {
                    let old = if add { f64::from(f32::from_bits(*register)) } else { 0.0 };
                    *register = f32_bits(old + product);
                }
            }
            Self::F16 => {
                for (register, products) in registers.iter_mut().zip(products.as_chunks::<2>().0) {
                    let halves = [*register as u16, (*register >> 16) as u16];
                    let old = halves.map(|bits| if add { f16::from_bits(bits).to_f64() } else { 0.0 });
                    let [low, high] = [0, 1].map(|i| u32::from(f16_bits(old[i] + products[i])));
                    *register = high << 16 | low;
                }
            }
            Self::S32 { saturates } => {
                for (register, product) in registers.iter_mut().zip(products) {
                    let old = if add { i64::from(*register as i32) } else { 0 };
                    let sum = old + product as i64;
                    let clamped = sum.clamp(i32::MIN.into(), i32::MAX.into());
                    *register = if saturates { clamped as u32 } else { sum as u32 };
                }
            }
        }
    }
}

/// B by blocks of eight columns: for each block k times eight elements.
fn columns_of_blocks(b: &[f32], k: usize) -> Vec<[f64; BLOCK]> {
    let mut columns = Vec::with_capacity(b.len() / BLOCK);
    for block in b.chunks_exact(BLOCK * k) {
        columns.extend((0..k).map(|i| std::array::from_fn(|column| f64::from(block[column * k + i]))));
    }
    columns
}

/// The two rows that a group of four threads shares: k times two elements.
fn pairs_of_rows(rows: &[f32], group: usize, k: usize) -> Vec<[f64; 2]> {
    let [upper, lower] = [group, group + HALF].map(|row| &rows[row * k..][..k]);
    upper.iter().zip(lower).map(|(upper, lower)| [f64::from(*upper), f64::from(*lower)]).collect()
}

/// Products of two rows with eight columns, summed over k.
fn sums(pairs: &[[f64; 2]], columns: &[[f64; BLOCK]]) -> [[f64; BLOCK]; 2] {
    let [mut upper, mut lower] = [[0.0; BLOCK]; 2];
    for ([a_upper, a_lower], columns) in pairs.iter().zip(columns) {
        for (column, b) in columns.iter().enumerate() {
            upper[column] += a_upper * b;
            lower[column] += a_lower * b;
        }
    }
    [upper, lower]
}

fn f32_bits(value: f64) -> u32 {
    if value.is_nan() { CANONICAL_NAN } else { (value as f32).to_bits() }
}

/// Rounded once: the step through f32 rounds to odd, which keeps what the second rounding has to know.
fn f16_bits(value: f64) -> u16 {
    if value.is_nan() {
        return CANONICAL_NAN_F16;
    }
    let nearest = value as f32;
    let error = f64::from(nearest) - value;
    let odd = if error == 0.0 || nearest.to_bits() & 1 == 1 {
        nearest
    } else if error.is_sign_positive() == value.is_sign_positive() {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        f32::from_bits(nearest.to_bits() + 1)
    };
    f16::from_f32(odd).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One product in element (0, 0), with the old value of the accumulator.
    fn one(format: Accumulator, a: f32, b: f32, old: u32, add: bool) -> u32 {
        let (mut left, mut right) = (vec![0.0; 16 * 8], vec![0.0; 8 * 8]);
        (left[0], right[0]) = (a, b);
        let mut accumulators = vec![0; 32 * format.registers(8)];
        accumulators[0] = old;
        format.multiply(&left, &right, 8, &mut accumulators, add);
        accumulators[0]
    }

    #[test]
    fn integers_wrap_or_saturate() {
        let [wraps, saturates] = [false, true].map(|saturates| Accumulator::S32 { saturates });
        assert_eq!(one(wraps, 127.0, 2.0, i32::MAX as u32, true) as i32, i32::MIN + 253);
        assert_eq!(one(saturates, 127.0, 2.0, i32::MAX as u32, true) as i32, i32::MAX);
        assert_eq!(one(saturates, -128.0, 255.0, i32::MIN as u32, true) as i32, i32::MIN);
        assert_eq!(one(saturates, -128.0, 255.0, i32::MIN as u32, false) as i32, -32640);
    }

    #[test]
    fn halves_are_rounded_once() {
        // 1 + 2^-11 is halfway between two f16 and goes to the even one; the least bit more goes up.
        let halfway = 1.0 + 2f64.powi(-11);
        assert_eq!(f16_bits(halfway), 0x3c00);
        assert_eq!(f16_bits(halfway + 2f64.powi(-40)), 0x3c01);
        assert_eq!(f16_bits(-halfway - 2f64.powi(-40)), 0xbc01);
        assert_eq!(f16_bits(1.0 + 3.0 * 2f64.powi(-11) - 2f64.powi(-40)), 0x3c01);
        assert_eq!(f16_bits(65520.0 - 2f64.powi(-30)), 0x7bff);
        assert_eq!((f16_bits(65520.0), f16_bits(-1e300)), (0x7c00, 0xfc00));
        // Half of the smallest subnormal, and a little more.
        assert_eq!((f16_bits(2f64.powi(-25)), f16_bits(2f64.powi(-25) + 2f64.powi(-70))), (0, 1));
        assert_eq!((f16_bits(1e-300), f16_bits(-0.0)), (0, 0x8000));
        assert_eq!(f16_bits(f64::NAN), 0x7fff);
        // The neighbour in the upper half keeps its value.
        assert_eq!(one(Accumulator::F16, 1.0, 1.0, 0x4000_3c00, true), 0x4000_4000);
        assert_eq!(one(Accumulator::F16, 1.0, 1.0, 0x4000_3c00, false), 0x0000_3c00);
    }

    #[test]
    fn not_a_number_has_one_form() {
        assert_eq!(one(Accumulator::F32, f32::INFINITY, 0.0, 0, true), 0x7fff_ffff);
        assert_eq!(one(Accumulator::F32, 1.0, 1.0, 0xffc0_0001, true), 0x7fff_ffff);
        assert_eq!(one(Accumulator::F32, 1.0, 1.0, 0xffc0_0001, false), 1f32.to_bits());
    }
}
