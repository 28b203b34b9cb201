//! Elements of matrix operands: what their bits mean.

use half::{bf16, f16};

/// Type of the elements of A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.tf32`: the upper 19 bits of an f32; the lower 13 are ignored.
    Tf32,
    /// `.e4m3`: no infinities, NaN where all bits but the sign are set.
    E4m3,
    /// `.e5m2`: the upper byte of an f16.
    E5m2,
    /// `.s8`
    S8,
    /// `.u8`
    U8,
}

/// The bits of an f32 that a tf32 has.
const TF32_BITS: u32 = 0xffff_e000;

/// Values of the codes of `.e4m3`.
static E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < values.len() {
        values[code] = e4m3(code as u8);
        code += 1;
    }
    values
};

impl Element {
    /// Every type with its name.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::F16, "f16"),
        (Self::Bf16, "bf16"),
        (Self::Tf32, "tf32"),
        (Self::E4m3, "e4m3"),
        (Self::E5m2, "e5m2"),
        (Self::S8, "s8"),
        (Self::U8, "u8"),
    ];

    /// The type of a modifier such as `"bf16"`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(element, _)| *element)
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
            Self::E4m3 | Self::E5m2 | Self::S8 | Self::U8 => 1,
        }
    }

    /// Whether it is `.s8` or `.u8`.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8)
    }

    /// The elements in `bytes` (little endian), all of which an f32 holds exactly.
    pub fn values(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair));
        let words = || bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
        match self {
            Self::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Self::Bf16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            Self::Tf32 => words().map(|bits| f32::from_bits(bits & TF32_BITS)).collect(),
            Self::E4m3 => bytes.iter().map(|code| E4M3[usize::from(*code)]).collect(),
            Self::E5m2 => bytes.iter().map(|code| f16::from_bits(u16::from(*code) << 8).to_f32()).collect(),
            Self::S8 => bytes.iter().map(|code| f32::from(*code as i8)).collect(),
            Self::U8 => bytes.iter().map(|code| f32::from(*code)).collect(),
        }
    }
}

/// The value of a code of `.e4m3`: sign, four bits of exponent with bias 7, three of mantissa.
const fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3 & 0xf) as u32, (code & 7) as u32);
    let magnitude = match (exponent, mantissa) {
        (0xf, 7) => f32::NAN,
        // Subnormal: eighths of the smallest normal number, 2^-6.
        (0, _) => mantissa as f32 / 512.0,
        // The mantissa moves up to that of an f32, the bias to 127.
        _ => f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_floats() {
        // From the definition of the formats (Open Compute Project, OFP8).
        let e4m3 = Element::E4m3.values(&[0x00, 0x80, 0x01, 0x07, 0x08, 0x38, 0xb8, 0x7e, 0xfe, 0x39]);
        assert_eq!(e4m3, [0.0, 0.0, 0.001953125, 0.013671875, 0.015625, 1.0, -1.0, 448.0, -448.0, 1.125]);
        assert!(e4m3[1].is_sign_negative());
        assert!(Element::E4m3.values(&[0x7f, 0xff]).iter().all(|v| v.is_nan()));

        let e5m2 = Element::E5m2.values(&[0x01, 0x04, 0x3c, 0xbd, 0x7b, 0x7c, 0xfc]);
        let two = 2f32;
        assert_eq!(
            e5m2,
            [two.powi(-16), two.powi(-14), 1.0, -1.25, 57344.0, f32::INFINITY, f32::NEG_INFINITY]
        );
        assert!(Element::E5m2.values(&[0x7d, 0x7e, 0x7f, 0xff]).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn wider_types_and_integers() {
        assert_eq!(
            Element::F16.values(&[0x00, 0x3c, 0xff, 0x7b, 0x01, 0x00]),
            [1.0, 65504.0, 2f32.powi(-24)]
        );
        assert_eq!(Element::Bf16.values(&[0x80, 0x3f, 0x49, 0xc0]), [1.0, -3.140625]);
        // 1 + 2^-10 is the next number after 1; what stands below is ignored.
        assert_eq!(Element::Tf32.values(&0x3f80_3fff_u32.to_le_bytes()), [1.0 + 2f32.powi(-10)]);
        assert_eq!(Element::S8.values(&[0x80, 0xff, 0x7f]), [-128.0, -1.0, 127.0]);
        assert_eq!(Element::U8.values(&[0x80, 0xff, 0x7f]), [128.0, 255.0, 127.0]);
    }

    #[test]
    fn names() {
        for (element, name) in Element::ALL {
            assert_eq!(Element::from_name(name), Some(element));
            assert_eq!(element.values(&[0; 16]).len() as u32, 16 / element.bytes());
        }
        assert_eq!(Element::from_name("f64"), None);
    }
}
