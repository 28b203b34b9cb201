use crate::{check, run, run_many};

/// An 8-bit format by its fields.
struct Format {
    name: &'static str,
    fraction_bits: u32,
    bias: i32,
    largest: u64,
    has_infinity: bool,
}

const FORMATS: [Format; 2] = [
    Format { name: "e4m3x2", fraction_bits: 3, bias: 7, largest: 0x7e, has_infinity: false },
    Format { name: "e5m2x2", fraction_bits: 2, bias: 15, largest: 0x7b, has_infinity: true },
];

impl Format {
    /// The value of a code without its sign.
    fn magnitude(&self, code: u64) -> f64 {
        let field = (code >> self.fraction_bits) as i32;
        let fraction = (code & ((1 << self.fraction_bits) - 1)) as f64 / f64::from(1 << self.fraction_bits);
        match code {
            code if code <= self.largest && field == 0 => fraction * 2.0f64.powi(1 - self.bias),
            code if code <= self.largest => (1.0 + fraction) * 2.0f64.powi(field - self.bias),
            code if self.has_infinity && code == self.largest + 1 => f64::INFINITY,
            _ => f64::NAN,
        }
    }

    fn value(&self, code: u64) -> f64 {
        let magnitude = self.magnitude(code & 0x7f);
        if code & 0x80 != 0 { -magnitude } else { magnitude }
    }
}

/// The value of an f16, from its fields.
fn half_value(code: u64) -> f64 {
    let field = (code >> 10 & 31) as i32;
    let fraction = (code & 0x3ff) as f64 / 1_024.0;
    let magnitude = match field {
        0 => fraction * 2.0f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2.0f64.powi(field - 15),
    };
    if code & 0x8000 != 0 { -magnitude } else { magnitude }
}

fn single(value: f64) -> u64 {
    assert!(f64::from(value as f32) == value || value.is_nan());
    (value as f32).to_bits().into()
}

#[test]
fn anchors() {
    // From the formats' definition: largest, smallest normal, smallest.
    assert_eq!(FORMATS[0].value(0x7e), 448.0);
    assert_eq!(FORMATS[0].value(0x08), 0.015_625);
    assert_eq!(FORMATS[0].value(0x01), 0.001_953_125);
    assert_eq!(FORMATS[1].value(0x7b), 57_344.0);
    assert_eq!(FORMATS[1].value(0xbc), -1.0);
    check(&[
        ("cvt.rn.satfinite.e4m3x2.f32 d, a, b", &[single(1.0), single(-2.0)], &[0x38c0]),
        ("cvt.rn.satfinite.e5m2x2.f32 d, a, b", &[single(1.0), single(-2.0)], &[0x3cc0]),
        ("cvt.rn.f16x2.e4m3x2 d, a", &[0x38c0], &[0x3c00_c000]),
        ("cvt.rn.f16x2.e5m2x2 d, a", &[0x3cc0], &[0x3c00_c000]),
        ("cvt.rn.satfinite.e4m3x2.f16x2 d, a", &[0x3c00_c000], &[0x38c0]),
        ("cvt.rn.satfinite.e5m2x2.f16x2 d, a", &[0x3c00_c000], &[0x3cc0]),
    ]);
}

#[test]
fn every_code_widens() {
    for format in FORMATS {
        for code in 0..256 {
            let text = format!("cvt.rn.f16x2.{} d, a", format.name);
            let rectified_text = format!("cvt.rn.relu.f16x2.{} d, a", format.name);
            // The other element must not matter.
            let both = run(&text, &[code << 8 | 0x55])[0];
            let (low, high) = (run(&text, &[0x2a00 | code])[0] & 0xffff, both >> 16);
            assert_eq!(low, high);
            let (found, expected) = (half_value(low), format.value(code));
            if expected.is_nan() {
                assert_eq!(low, 0x7fff, "{} {code:x}", format.name);
            } else {
                assert_eq!(found.to_bits(), expected.to_bits(), "{} {code:x}", format.name);
            }
            let rectified = run(&rectified_text, &[code])[0] & 0xffff;
            let negative = code & 0x80 != 0 && !expected.is_nan();
            assert_eq!(rectified, if negative { 0 } else { low });
        }
    }
}

#[test]
fn every_f32_midpoint_narrows() {
    for format in FORMATS {
        let text = format!("cvt.rn.satfinite.{}.f32 d, a, b", format.name);
        let narrow = |value: f32| {
            let packed = run(&text, &[value.to_bits().into(), 0])[0];
            assert_eq!(packed & 0xff, 0);
            packed >> 8
        };
        for code in 0..format.largest {
            let (lower, upper) = (format.magnitude(code), format.magnitude(code + 1));
            let middle = ((lower + upper) / 2.0) as f32;
            assert_eq!(f64::from(middle), (lower + upper) / 2.0);
            for (sign, factor) in [(0, 1.0), (0x80, -1.0)] {
                assert_eq!(narrow(lower as f32 * factor), sign | code);
                assert_eq!(narrow(middle * factor), sign | (code + (code & 1)), "{} {middle}", format.name);
                assert_eq!(narrow(middle.next_down() * factor), sign | code);
                assert_eq!(narrow(middle.next_up() * factor), sign | (code + 1));
            }
        }
        let largest = format.magnitude(format.largest) as f32;
        for beyond in [largest, largest.next_up(), largest * 2.0, f32::MAX, f32::INFINITY] {
            assert_eq!((narrow(beyond), narrow(-beyond)), (format.largest, 0x80 | format.largest));
        }
        assert_eq!(narrow(f32::NAN), 0x7f);
        assert_eq!(narrow(-f32::NAN), 0x7f);
        assert_eq!((narrow(f32::from_bits(1)), narrow(-f32::from_bits(1))), (0, 0x80));
        let rectified = format!("cvt.rn.satfinite.relu.{}.f32 d, a, b", format.name);
        assert_eq!(run(&rectified, &[single(-1.0), single(f64::from(largest))]), [format.largest]);
    }
}

/// Every f16 goes to the nearest code, found by search.
#[test]
fn every_f16_narrows() {
    let codes: Vec<[u64; 1]> = (0..1 << 16).map(|code| [code << 16]).collect();
    for format in FORMATS {
        let found = run_many(&format!("cvt.rn.satfinite.{}.f16x2 d, a", format.name), &codes);
        for ([operand], found) in codes.iter().zip(found) {
            let value = half_value(operand >> 16);
            let sign = if value.is_sign_negative() { 0x80 } else { 0 };
            let distance = |code: &u64| (value.abs().min(1e6) - format.magnitude(*code)).abs();
            let nearest = (0..=format.largest)
                .min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))))
                .expect("there are codes");
            let expected = if value.is_nan() { 0x7f } else { sign | nearest };
            assert_eq!(found, expected << 8, "{} {value}", format.name);
        }
    }
}
