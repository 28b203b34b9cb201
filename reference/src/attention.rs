//! Softmax attention of one query, and the outputs of a whole operation.

/// The outputs of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Row-major, the shape of q with `head_dim_v` as its last dimension.
    pub out: Vec<f64>,
    /// Natural logarithm of the softmax denominator: `[batch, h_q, s_q]` for decode, `[s_q, h_q]` for
    /// prefill.
    pub lse: Vec<f64>,
    /// Largest scaled score, `[s_q, h_q]` for prefill; empty for decode, which has no such output.
    pub max_logits: Vec<f64>,
}

impl Attention {
    /// Decode's layout, from one row per `[batch, s_q, h_q]`.
    pub(crate) fn from_decode_rows(rows: &[Row], s_q: usize, h_q: usize) -> Self {
        let mut lse = Vec::with_capacity(rows.len());
        for request in rows.chunks(s_q * h_q) {
            for head in 0..h_q {
                for query in 0..s_q {
                    lse.push(request[query * h_q + head].lse);
                }
            }
        }
        Self { out: concat_out(rows), lse, max_logits: Vec::new() }
    }

    /// Prefill's layout, from one row per `[s_q, h_q]`.
    pub(crate) fn from_prefill_rows(rows: &[Row]) -> Self {
        Self {
            out: concat_out(rows),
            lse: rows.iter().map(|row| row.lse).collect(),
            max_logits: rows.iter().map(|row| row.max_logit).collect(),
        }
    }
}

/// What one query head gets.
#[derive(Debug)]
pub(crate) struct Row {
    pub out: Vec<f64>,
    pub lse: f64,
    pub max_logit: f64,
}

/// Attention of one query over the keys that take part in it.
///
/// `out = Σ exp(score_j - lse) · v_j`, where `score_j = scale · (q · k_j)`, `lse = ln Σ exp(score_j)` and `v_j`
/// is the first `head_dim_v` elements of `k_j`. A sink adds `exp(sink)` to the denominator of `out` only, that
/// is, it multiplies `out` by `1 / (1 + exp(sink - lse))`.
pub(crate) fn attend<K: AsRef<[f64]>>(
    query: &[f64],
    keys: &[K],
    head_dim_v: usize,
    softmax_scale: f64,
    sink: Option<f32>,
) -> Row {
    let scores: Vec<f64> = keys.iter().map(|key| softmax_scale * dot(query, key.as_ref())).collect();
    let max_logit = scores.iter().copied().fold(f64::NEG_INFINITY, max_or_nan);

    let mut out = vec![0.0; head_dim_v];
    // Every score is -inf, which is how a mask reads: no weight to share out.
    if max_logit == f64::NEG_INFINITY {
        return Row { out, lse: f64::INFINITY, max_logit };
    }

    // Relative to the maximum, so that exp neither overflows nor loses all weights.
    let weights: Vec<f64> = scores.iter().map(|score| (score - max_logit).exp()).collect();
    let total: f64 = weights.iter().sum();
    let lse = max_logit + total.ln();
    let kept = sink.map_or(1.0, |sink| 1.0 / (1.0 + (f64::from(sink) - lse).exp()));

    for (weight, key) in weights.iter().zip(keys) {
        for (o, v) in out.iter_mut().zip(key.as_ref()) {
            *o += weight * v;
        }
    }
    for o in &mut out {
        *o *= kept / total;
    }
    Row { out, lse, max_logit }
}

/// `length` as a count, clamped to `0..=limit`.
pub(crate) fn clamp_length(length: i32, limit: usize) -> usize {
    usize::try_from(length).unwrap_or(0).min(limit)
}

/// `index` if it names one of `count` things.
pub(crate) fn checked_index(index: i32, count: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&index| index < count)
}

fn concat_out(rows: &[Row]) -> Vec<f64> {
    rows.iter().flat_map(|row| row.out.iter().copied()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "query and key must have the same head dimension");
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `f64::max` drops a NaN; an oracle must not.
fn max_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPSILON: f64 = 1e-14;

    /// With q = 1 and scale 1 the score of a key is its first element, which is also its value.
    fn attend_scores(scores: &[f64], sink: Option<f32>) -> Row {
        let keys: Vec<[f64; 1]> = scores.iter().map(|&score| [score]).collect();
        attend(&[1.0], &keys, 1, 1.0, sink)
    }

    fn assert_close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= EPSILON * expected.abs().max(1.0), "{actual} != {expected}");
    }

    #[test]
    fn one_key_is_copied() {
        let row = attend(&[2.0, -1.0, 0.5], &[[3.0, 4.0, 8.0]], 2, 0.25, None);
        assert_eq!(row.out, [3.0, 4.0]);
        assert_eq!(row.lse, 1.5);
        assert_eq!(row.max_logit, 1.5);
    }

    #[test]
    fn weights_are_normalised_exponentials() {
        // exp: 1, 3, 4 of 8.
        let (ln3, ln4) = (3f64.ln(), 4f64.ln());
        let row = attend_scores(&[0.0, ln3, ln4], None);
        assert_close(row.out[0], 3.0 / 8.0 * ln3 + 4.0 / 8.0 * ln4);
        assert_close(row.lse, 8f64.ln());
        assert_close(row.max_logit, ln4);
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let row = attend_scores(&[5000.0, 5000.0], None);
        assert_close(row.out[0], 5000.0);
        assert_close(row.lse, 5000.0 + 2f64.ln());
        let row = attend_scores(&[-5000.0, -5000.0], None);
        assert_close(row.lse, -5000.0 + 2f64.ln());
    }

    #[test]
    fn sink_takes_its_share_of_out_only() {
        // exp: 1 and 1, sink 2: the keys keep half of the weight.
        let keys = [[0.0, 6.0], [0.0, 10.0]];
        let sink = 2f32.ln();
        let row = attend(&[1.0, 0.0], &keys, 2, 1.0, Some(sink));
        assert!((row.out[1] - 4.0).abs() < 1e-6, "{}", row.out[1]);
        assert_close(row.lse, 2f64.ln());
        assert_eq!(row.max_logit, 0.0);
    }

    #[test]
    fn infinite_sinks_take_all_or_nothing() {
        let without = attend_scores(&[1.0, 2.0], None);
        let nothing = attend_scores(&[1.0, 2.0], Some(f32::NEG_INFINITY));
        let all = attend_scores(&[1.0, 2.0], Some(f32::INFINITY));
        assert_eq!(nothing.out, without.out);
        assert_eq!(all.out, [0.0]);
        assert_eq!([nothing.lse, all.lse], [without.lse; 2]);
    }

    #[test]
    fn no_key_is_an_empty_row_whatever_the_sink() {
        for sink in [None, Some(0.0), Some(f32::INFINITY), Some(f32::NEG_INFINITY)] {
            let row = attend_scores(&[], sink);
            assert_eq!((row.out, row.lse, row.max_logit), (vec![0.0], f64::INFINITY, f64::NEG_INFINITY));
        }
    }

    #[test]
    fn nan_in_a_key_spreads() {
        for scores in [[f64::NAN, 1.0], [1.0, f64::NAN]] {
            let row = attend_scores(&scores, None);
            assert!(row.out[0].is_nan() && row.lse.is_nan() && row.max_logit.is_nan());
        }
    }

    #[test]
    fn decode_rows_transpose_lse() {
        let row = |n: u32| Row { out: vec![f64::from(n)], lse: f64::from(n), max_logit: 0.0 };
        // [batch 2, s_q 2, h_q 3], numbered in that order.
        let rows: Vec<Row> = (0..12).map(row).collect();
        let attention = Attention::from_decode_rows(&rows, 2, 3);
        assert_eq!(attention.lse, [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
        assert_eq!(attention.out, (0..12).map(f64::from).collect::<Vec<_>>());
        assert!(attention.max_logits.is_empty());
    }
}
