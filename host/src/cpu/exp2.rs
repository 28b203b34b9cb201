//! Powers of two in f32, in a form that compilers vectorise.

/// Below this, results would be subnormal; they become 0.
const UNDERFLOW: f32 = -125.5;

/// Adding and subtracting this rounds to an integer, whose bits are the sum's lowest: it is 1.5·2²³.
const ROUND: f32 = 12_582_912.0;

/// Taylor coefficients of 2^x: `ln(2)^k / k!`. On |x| ≤ ½ the first one left out is 2^-27 of the result.
const COEFFICIENTS: [f32; 8] = {
    let mut coefficients = [0.0; 8];
    let mut term = 1.0_f64;
    let mut k = 0;
    while k < coefficients.len() {
        coefficients[k] = term as f32;
        k += 1;
        term *= std::f64::consts::LN_2 / k as f64;
    }
    coefficients
};

/// `2^x` for `x ≤ 127`, to a relative error of 2^-22; 0 below 2^-125.5, NaN for NaN.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    let rounded = x + ROUND;
    let fraction = x - (rounded - ROUND);
    let mut power = COEFFICIENTS[COEFFICIENTS.len() - 1];
    for k in (0..COEFFICIENTS.len() - 1).rev() {
        power = power * fraction + COEFFICIENTS[k];
    }
    // The integer's bits, moved to the exponent and biased.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < UNDERFLOW { 0.0 } else { power * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_error_over_the_whole_range() {
        let mut worst = 0.0_f64;
        let steps = 1 << 20;
        for step in 0..=steps {
            let x = -125.5 + 252.5 * (step as f32 / steps as f32);
            let exact = f64::from(x).exp2();
            worst = worst.max((f64::from(exp2(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2_f64.powi(-22), "{worst:e}");
    }

    #[test]
    fn integers_are_exact() {
        for n in -125..=127 {
            assert_eq!(exp2(n as f32), 2_f32.powi(n));
        }
        assert_eq!(exp2(-0.0), 1.0);
    }

    #[test]
    fn ends_of_the_range() {
        for x in [-125.6, -1e3, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp2(x), 0.0, "{x}");
        }
        assert!(exp2(f32::NAN).is_nan());
    }
}
