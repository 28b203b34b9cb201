//! Exact comparison of floating-point results with what they should be, in integers of many bits.

use std::cmp::Ordering;

/// `mantissa * 2^exponent`
pub type Term = (i128, i32);

/// Sign of a sum of terms whose mantissas have at most 64 bits and whose exponents lie in ±1,500.
pub fn sign(terms: &[Term]) -> Ordering {
    const LOWEST: i32 = -1_536;
    let mut limbs = [0i128; 100];
    for &(mantissa, exponent) in terms {
        let position = (exponent - LOWEST) as usize;
        limbs[position / 32] += mantissa << (position % 32);
    }
    let mut carry = 0;
    for limb in &mut limbs {
        let sum = *limb + carry;
        *limb = sum & 0xffff_ffff;
        carry = sum >> 32;
    }
    match carry.cmp(&0) {
        Ordering::Equal if limbs.iter().any(|limb| *limb != 0) => Ordering::Greater,
        order => order,
    }
}

/// A format by the widths of its fields.
#[derive(Clone, Copy)]
pub struct Layout {
    pub exponent_bits: u32,
    pub fraction_bits: u32,
}

pub const F16: Layout = Layout { exponent_bits: 5, fraction_bits: 10 };
pub const BF16: Layout = Layout { exponent_bits: 8, fraction_bits: 7 };
pub const F32: Layout = Layout { exponent_bits: 8, fraction_bits: 23 };
pub const F64: Layout = Layout { exponent_bits: 11, fraction_bits: 52 };

impl Layout {
    pub fn sign_bit(self) -> u64 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.fraction_bits
    }

    pub fn is_nan(self, code: u64) -> bool {
        code & !self.sign_bit() > self.infinity()
    }

    pub fn is_finite(self, code: u64) -> bool {
        code & !self.sign_bit() < self.infinity()
    }

    /// The value of a code; infinity reads as the power of two that would follow the largest finite number.
    pub fn term(self, code: u64) -> Term {
        let fraction = (code & ((1 << self.fraction_bits) - 1)) as i128;
        let field = (code >> self.fraction_bits & ((1 << self.exponent_bits) - 1)) as i32;
        let bias = (1 << (self.exponent_bits - 1)) - 1;
        let mantissa = if field == 0 { fraction } else { fraction + (1 << self.fraction_bits) };
        let exponent = field.max(1) - bias - self.fraction_bits as i32;
        (if code & self.sign_bit() != 0 { -mantissa } else { mantissa }, exponent)
    }

    /// Whether `code` is a value rounded to nearest, ties to even; `compare` compares the value with a number. The sign
    /// of zero is not looked at.
    pub fn is_nearest(self, code: u64, compare: impl Fn(Term) -> Ordering) -> bool {
        let magnitude = code & !self.sign_bit();
        let negative = code & self.sign_bit() != 0;
        // How the value's magnitude compares with the middle between a code and the next.
        let compare_middle = |below: u64| {
            let (mantissa, exponent) = self.term(below);
            let middle = (2 * mantissa + 1, exponent - 1);
            if negative { compare(negated(middle)).reverse() } else { compare(middle) }
        };
        let even = code & 1 == 0;
        let from_below = match magnitude {
            0 => {
                let (mantissa, exponent) = negated(self.term(1));
                let order = compare(if negative {
                    negated((mantissa, exponent - 1))
                } else {
                    (mantissa, exponent - 1)
                });
                if negative { order.reverse() } else { order }
            }
            _ => compare_middle(magnitude - 1),
        };
        let from_above =
            if magnitude == self.infinity() { Ordering::Less } else { compare_middle(magnitude) };
        (from_below.is_gt() || even && from_below.is_eq())
            && (from_above.is_lt() || even && from_above.is_eq())
    }

    /// Whether `code` is the smallest number not below a value.
    pub fn is_rounded_up(self, code: u64, compare: impl Fn(Term) -> Ordering) -> bool {
        let negative_infinity = self.sign_bit() | self.infinity();
        if code == negative_infinity {
            return false;
        }
        let below = match code {
            zero if zero & !self.sign_bit() == 0 => self.sign_bit() | 1,
            negative if negative & self.sign_bit() != 0 => negative + 1,
            positive => positive - 1,
        };
        (code == self.infinity() || compare(self.term(code)).is_le())
            && (below == negative_infinity || compare(self.term(below)).is_gt())
    }

    /// Whether `code` is the largest number not above a value.
    pub fn is_rounded_down(self, code: u64, compare: impl Fn(Term) -> Ordering) -> bool {
        self.is_rounded_up(code ^ self.sign_bit(), |number| compare(negated(number)).reverse())
    }

    /// Whether `code` is a value rounded as a modifier says.
    pub fn is_rounded(self, code: u64, modifier: &str, compare: impl Fn(Term) -> Ordering) -> bool {
        match modifier {
            "rn" => self.is_nearest(code, compare),
            "rp" => self.is_rounded_up(code, compare),
            "rm" => self.is_rounded_down(code, compare),
            "rz" if compare((0, 0)).is_lt() => self.is_rounded_up(code, compare),
            "rz" => self.is_rounded_down(code, compare),
            _ => unreachable!("{modifier}"),
        }
    }
}

/// Compares the sum of terms with a number.
pub fn sum(terms: &[Term]) -> impl Fn(Term) -> Ordering {
    move |number| sign(&[terms, &[negated(number)]].concat())
}

/// Compares a quotient with a number; the divisor is not zero.
pub fn quotient(dividend: Term, divisor: Term) -> impl Fn(Term) -> Ordering {
    move |number| {
        let order = sign(&[dividend, negated(product(number, divisor))]);
        if divisor.0 < 0 { order.reverse() } else { order }
    }
}

/// Compares the square root of a number that is not negative with a number.
pub fn root(square: Term) -> impl Fn(Term) -> Ordering {
    move |number| {
        if number.0 < 0 { Ordering::Greater } else { sign(&[square, negated(product(number, number))]) }
    }
}

pub fn negated((mantissa, exponent): Term) -> Term {
    (-mantissa, exponent)
}

pub fn product((a, a_exponent): Term, (b, b_exponent): Term) -> Term {
    (a * b, a_exponent + b_exponent)
}

#[test]
fn signs_of_sums() {
    assert_eq!(sign(&[]), Ordering::Equal);
    assert_eq!(sign(&[(1, 200), (-1, 200)]), Ordering::Equal);
    assert_eq!(sign(&[(1, 200), (-1, 200), (1, -1_400)]), Ordering::Greater);
    assert_eq!(sign(&[(1, 200), (-1, 200), (-1, -1_400)]), Ordering::Less);
    assert_eq!(sign(&[(3, 5), (-96, 0)]), Ordering::Equal);
    assert_eq!(sign(&[(-1, 1_400), (i128::from(u64::MAX), 1_300)]), Ordering::Less);
}

#[test]
fn nearest_by_hand() {
    // 1 + 2^-11 lies in the middle between 1 and the next f16.
    assert!(F16.is_nearest(0x3c00, sum(&[(1, 0), (1, -11)])));
    assert!(!F16.is_nearest(0x3c01, sum(&[(1, 0), (1, -11)])));
    assert!(F16.is_nearest(0x3c01, sum(&[(1, 0), (1, -11), (1, -60)])));
    assert!(!F16.is_nearest(0x3c00, sum(&[(1, 0), (1, -11), (1, -60)])));
    assert!(F16.is_nearest(0xbc01, sum(&[(-1, 0), (-1, -11), (-1, -60)])));
    assert!(!F16.is_nearest(0xbc00, sum(&[(-1, 0), (-1, -11), (-1, -60)])));
    // 65,520 is the smallest number that rounds to infinity.
    assert!(F16.is_nearest(0x7c00, sum(&[(65_520, 0)])));
    assert!(!F16.is_nearest(0x7bff, sum(&[(65_520, 0)])));
    assert!(F16.is_nearest(0x7bff, sum(&[(65_519, 0)])));
    assert!(!F16.is_nearest(0x7c00, sum(&[(65_519, 0)])));
    for zero in [0, 0x8000] {
        assert!(F16.is_nearest(zero, sum(&[(1, -25)])));
        assert!(F16.is_nearest(zero, sum(&[(-1, -25)])));
        assert!(!F16.is_nearest(zero, sum(&[(3, -26)])));
        assert!(!F16.is_nearest(zero, sum(&[(-3, -26)])));
    }
    assert!(F16.is_nearest(1, sum(&[(3, -26)])));
}

#[test]
fn directed_by_hand() {
    let third = quotient((1, 0), (3, 0));
    let above = u64::from((1.0f32 / 3.0).to_bits());
    assert!(F32.is_rounded_up(above, &third) && !F32.is_rounded_down(above, &third));
    assert!(F32.is_rounded_down(above - 1, &third) && !F32.is_rounded_up(above - 1, &third));
    assert!(F32.is_rounded(above - 1, "rz", &third));
    let minus_third = quotient((1, 0), (-3, 0));
    let sign = F32.sign_bit();
    assert!(
        F32.is_rounded_down(above | sign, &minus_third)
            && F32.is_rounded((above - 1) | sign, "rz", &minus_third)
    );
    let exact = root((9, 0));
    let three = u64::from(3.0f32.to_bits());
    assert!(F32.is_rounded_up(three, &exact) && F32.is_rounded_down(three, &exact));
    let huge = sum(&[(1, 200)]);
    assert!(F32.is_rounded_up(F32.infinity(), &huge) && F32.is_rounded_down(F32.infinity() - 1, &huge));
    let tiny = sum(&[(1, -200)]);
    assert!(F32.is_rounded_up(1, &tiny) && F32.is_rounded_down(0, &tiny) && !F32.is_rounded_up(0, &tiny));
}
