//! Inputs. They depend on nothing but what is asked for, so that results recorded once stay comparable.

use half::{bf16, f16};

use super::FileError;
use super::case::{SLOT_BYTES, Type};

/// Rows of a table with several operands.
const ROWS: usize = 4096;

/// Rows in which every operand is a special value.
const SPECIAL_ROWS: usize = 2048;

const F32: [u32; 32] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x807f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x0080_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x3f7f_ffff,
    0x3f80_0001,
    0x3f00_0000,
    0xbf00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fff_ffff,
    0x7fc0_0000,
    0xffc0_0000,
    0x7f80_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x4f80_0000,
    0x5f00_0000,
    0x4b80_0001,
    0x4b00_0001,
    0x7e80_0001,
];

const F64: [u64; 16] = [
    0,
    1 << 63,
    1,
    (1 << 63) | 1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff0_0000_0000_0001,
    0x3fe0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0xfff0_0000_0000_0001,
    0x41df_ffff_ffc0_0000,
];

const F16: [u16; 20] = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x8400, 0x3c00, 0xbc00, 0x3bff, 0x3c01, 0x3800,
    0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7fff, 0x7e00, 0xfc01,
];

const BF16: [u16; 20] = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x807f, 0x0080, 0x8080, 0x3f80, 0xbf80, 0x3f7f, 0x3f81, 0x3f00,
    0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fff, 0x7fc0, 0xff81,
];

const INTEGERS: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    31,
    32,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0xffff_fffe,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// The counts that are tried first: 0 to 71 cover shifts of 64-bit words.
const COUNTS: u64 = 72;

/// Of counts the ISA takes 8 bits.
const LARGEST_COUNT: u64 = 255;

/// S. Vigna's SplitMix64: a few lines whose numbers will never change.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that a seed leads to.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// Rows of operands of these types, each value in a slot of its own: all values of a single 16-bit operand; of others
/// special values with each other, then random ones.
pub fn rows(operands: &[Type]) -> Vec<u8> {
    let mut random = Random::new(operands.len() as u64);
    if let [ty] = operands
        && ty.bits() == u16::BITS
    {
        return (0..=u64::from(u16::MAX)).flat_map(u64::to_le_bytes).collect();
    }
    let mut bytes = Vec::with_capacity(ROWS * operands.len() * SLOT_BYTES);
    for row in 0..ROWS {
        let mut first = None;
        let mut place = row;
        for ty in operands {
            let specials = ty.specials();
            let value = if row < SPECIAL_ROWS && operands.len() < 3 {
                let value = ty.special(place as u64);
                place /= specials as usize;
                value
            } else if row < SPECIAL_ROWS {
                ty.special(random.below(specials))
            } else {
                match (random.below(8), first) {
                    (0, _) => ty.special(random.below(specials)),
                    _ if *ty == Type::Count => random.below(LARGEST_COUNT + 1),
                    // Nearly what the first operand is, with the other sign: so that they cancel.
                    (1, Some(other)) => other ^ (1 << (ty.bits() - 1)) ^ random.below(4),
                    (2..=4, _) => ty.moderate(random.draw()),
                    _ => ty.any(random.draw()),
                }
            };
            let value = value & (u64::MAX >> (u64::BITS - ty.bits()));
            first = first.or(Some(value));
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes
}

impl Type {
    fn specials(self) -> u64 {
        let count = match self {
            Self::F64 => F64.len(),
            Self::F32 | Self::Turn => F32.len(),
            Self::F16 | Self::F16x2 => F16.len(),
            Self::Bf16 | Self::Bf16x2 => BF16.len(),
            Self::B64 | Self::B32 | Self::B16 => INTEGERS.len(),
            Self::Count => COUNTS as usize,
        };
        count as u64
    }

    fn special(self, index: u64) -> u64 {
        let place = (index % self.specials()) as usize;
        let pair = |halves: &[u16]| {
            u64::from(halves[place])
                | u64::from(halves[(place * 7 + index as usize / halves.len()) % halves.len()]) << 16
        };
        match self {
            Self::F64 => F64[place],
            Self::F32 => F32[place].into(),
            Self::Turn => self.moderate(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            Self::F16 => F16[place].into(),
            Self::Bf16 => BF16[place].into(),
            Self::F16x2 => pair(&F16),
            Self::Bf16x2 => pair(&BF16),
            Self::B64 | Self::B32 | Self::B16 => INTEGERS[place],
            Self::Count => index % COUNTS,
        }
    }

    /// Floating-point numbers near 1, from random bits.
    fn moderate(self, random: u64) -> u64 {
        let near_one = |bits: u64, exponent: u32, mantissa: u32, bias: u64| {
            let exponent_bits = (bits >> 32 & 0xf) + bias - 8;
            let sign = bits >> 63;
            (sign << exponent | exponent_bits) << mantissa | bits & ((1 << mantissa) - 1)
        };
        let pair = |mantissa: u32, bias: u64, exponent: u32| {
            let half = |bits| near_one(bits, exponent, mantissa, bias);
            half(random) | half(random.rotate_left(29)) << 16
        };
        match self {
            Self::F64 => near_one(random, 11, 52, 1023),
            Self::F32 => near_one(random, 8, 23, 127),
            Self::Turn => {
                let unit = (random >> 40) as f32 / (1 << 24) as f32;
                ((2.0 * unit - 1.0) * std::f32::consts::PI).to_bits().into()
            }
            Self::F16 => near_one(random, 5, 10, 15),
            Self::Bf16 => near_one(random, 8, 7, 127),
            Self::F16x2 => pair(10, 15, 5),
            Self::Bf16x2 => pair(7, 127, 8),
            Self::B64 | Self::B32 | Self::B16 => random >> (random & 63),
            Self::Count => random % COUNTS,
        }
    }

    fn any(self, random: u64) -> u64 {
        match self {
            Self::Turn => self.moderate(random),
            _ => random,
        }
    }
}

/// The contents of an input buffer: parts such as `64 iota` or `512 bf16`, separated by commas, each padded to 16
/// bytes.
///
/// | kind | elements |
/// |---|---|
/// | `zero`, `iota`, `random` | 32-bit words: 0, their number, random bits |
/// | `f32`, `f16`, `bf16`, `e4m3`, `e5m2`, `s8`, `u8` | random whole numbers in -4..=4 (`u8`: 0..=4) |
///
/// # Errors
/// For other text.
pub fn buffer(text: &str) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    for (index, part) in text.split(',').enumerate() {
        let wrong = || FileError::new("input", part, "COUNT zero|iota|random|f32|f16|bf16|e4m3|e5m2|s8|u8");
        let (count, kind) = part.trim().split_once(' ').ok_or_else(wrong)?;
        let count: u32 = count.parse().map_err(|_| wrong())?;
        let mut random = Random::new(index as u64 + 1);
        for number in 0..count {
            let whole = random.below(9) as i32 - 4;
            match kind {
                "zero" => bytes.extend([0; 4]),
                "iota" => bytes.extend(number.to_le_bytes()),
                "random" => bytes.extend((random.draw() as u32).to_le_bytes()),
                "f32" => bytes.extend((whole as f32).to_le_bytes()),
                "f16" => bytes.extend(f16::from_f32(whole as f32).to_le_bytes()),
                "bf16" => bytes.extend(bf16::from_f32(whole as f32).to_le_bytes()),
                "e4m3" => bytes.push(small_float(whole, [0x00, 0x38, 0x40, 0x44, 0x48])),
                "e5m2" => bytes.push(small_float(whole, [0x00, 0x3c, 0x40, 0x42, 0x44])),
                "s8" => bytes.extend((whole as i8).to_le_bytes()),
                "u8" => bytes.push(whole.unsigned_abs() as u8),
                _ => return Err(wrong()),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
    }
    Ok(bytes)
}

/// The code of a number in -4..=4, where the codes of 0 to 4 are given.
fn small_float(whole: i32, codes: [u8; 5]) -> u8 {
    codes[whole.unsigned_abs() as usize] | u8::from(whole < 0) << 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers() {
        assert_eq!(buffer("3 iota").unwrap(), [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(buffer("2 f32, 5 zero").unwrap().len(), 16 + 32);
        let codes = buffer("64 e4m3").unwrap();
        assert!(codes.contains(&0xc8) && codes.contains(&0x38));
        assert!(buffer("iota").is_err() && buffer("1 what").is_err());
    }

    #[test]
    fn rows_hold_all_values_or_special_ones() {
        assert_eq!(rows(&[Type::B16]).len(), 65_536 * SLOT_BYTES);
        let pairs = rows(&[Type::F32, Type::F32]);
        let row = |index: usize| {
            let slots = pairs[index * 2 * SLOT_BYTES..].as_chunks::<SLOT_BYTES>().0;
            [slots[0], slots[1]].map(|slot| u64::from_le_bytes(slot) as u32)
        };
        assert_eq!((row(33), row(1023)), ([F32[1], F32[1]], [F32[31], F32[31]]));
        assert!((0..ROWS).any(|index| row(index)[0] ^ row(index)[1] == 1 << 31));
    }
}
