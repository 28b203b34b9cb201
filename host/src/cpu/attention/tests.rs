//! Rows computed by hand.

use super::*;
use crate::cpu::schedule::Schedule;
use crate::cpu::toy::{Toy, ToyResult};

const EMPTY: ToyResult = ToyResult { out: 0.0, lse: f32::INFINITY, max_logit: f32::NEG_INFINITY };

/// In a workspace full of NaN.
fn run(toy: Toy) -> Vec<ToyResult> {
    let positions = toy.keys.iter().map(Vec::len).max().unwrap_or(0);
    let schedule = Schedule::new(toy.dims(), toy.queries.len(), positions);
    schedule.run(&toy, &mut vec![f32::NAN; schedule.workspace_bytes() / size_of::<f32>()]);
    toy.results()
}

fn assert_close(actual: f32, expected: f64) {
    let error = (f64::from(actual) - expected).abs();
    assert!(error <= 1e-6 * expected.abs().max(1.0), "{actual} is not {expected}");
}

#[test]
fn one_key_is_copied() {
    let toy = Toy { queries: vec![vec![[2.0, 0.5]]], keys: vec![vec![Some([3.0, 4.0])]], ..Toy::default() };
    let [row] = run(toy)[..] else { panic!("one row") };
    assert_eq!(row.out, 3.0);
    assert_close(row.lse, 8.0);
    assert_close(row.max_logit, 8.0);
}

#[test]
fn weights_are_normalised_exponentials() {
    // exp: 1, 3, 4 of 8.
    let (ln3, ln4) = (3_f64.ln(), 4_f64.ln());
    let [row] = run(Toy::of_scores(&[0.0, ln3 as f32, ln4 as f32]))[..] else { panic!("one row") };
    assert_close(row.out, 3.0 / 8.0 * ln3 + 4.0 / 8.0 * ln4);
    assert_close(row.lse, 8_f64.ln());
    assert_close(row.max_logit, ln4);
}

#[test]
fn the_softmax_scale_is_a_factor_on_scores() {
    let toy = Toy::of_scores(&[0.0, 3_f32.ln() * -4.0]);
    let schedule = Schedule::new(TileDims { softmax_scale: -0.25, ..toy.dims() }, 1, 2);
    schedule.run(&toy, &mut vec![0.0; schedule.workspace_bytes() / size_of::<f32>()]);
    assert_close(toy.results()[0].lse, 4_f64.ln());
}

/// Scores that rise and fall over many blocks and chunks, against the definition in f64.
#[test]
fn long_lists() {
    for count in [1, 63, 64, 65, 127, 512, 513, 1500, 20_000] {
        let scores: Vec<f32> =
            (0..count).map(|i| 8.0 * (i as f32 / 300.0).sin() + (i % 7) as f32 / 4.0).collect();
        let weights: Vec<f64> = scores.iter().map(|&score| f64::from(score).exp()).collect();
        let total: f64 = weights.iter().sum();
        let sum: f64 = weights.iter().zip(&scores).map(|(weight, &score)| weight * f64::from(score)).sum();
        let [row] = run(Toy::of_scores(&scores))[..] else { panic!("one row") };
        assert_close(row.out, sum / total);
        assert_close(row.lse, total.ln());
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for score in [5e3, -5e3, 1e30, -1e30] {
        let [row] = run(Toy::of_scores(&[score, score]))[..] else { panic!("one row") };
        assert_close(row.out, f64::from(score));
        assert_close(row.lse, f64::from(score) + 2_f64.ln());
    }
}

#[test]
fn keys_that_take_no_part_leave_no_trace() {
    let mut keys = vec![None; 700];
    (keys[3], keys[64], keys[699]) = (Some([1.0, 0.0]), Some([2.0, 0.0]), Some([6.0, 0.0]));
    let toy = Toy { queries: vec![vec![[0.0, 0.0]]], keys: vec![keys], ..Toy::default() };
    let [row] = run(toy)[..] else { panic!("one row") };
    assert_close(row.out, 3.0);
    assert_close(row.lse, 3_f64.ln());
}

#[test]
fn no_key_is_an_empty_row_whatever_the_sink() {
    for keys in [vec![], vec![None; 3], vec![None; 2000]] {
        for sink in [None, Some(0.0), Some(f32::INFINITY), Some(f32::NEG_INFINITY)] {
            let sinks = sink.map(|sink| vec![sink]);
            let keys = vec![keys.clone()];
            assert_eq!(run(Toy { queries: vec![vec![[1.0, 1.0]]], keys, sinks, ..Toy::default() }), [EMPTY]);
        }
    }
}

#[test]
fn scores_of_minus_infinity_are_no_keys() {
    assert_eq!(run(Toy::of_scores(&[f32::NEG_INFINITY; 70])), [EMPTY]);
}

#[test]
fn nan_in_a_key_spreads() {
    for scores in [[f32::NAN, 1.0], [1.0, f32::NAN], [f32::NAN; 2]] {
        let [row] = run(Toy::of_scores(&scores))[..] else { panic!("one row") };
        assert!(row.out.is_nan() && row.lse.is_nan() && row.max_logit.is_nan(), "{row:?}");
    }
}

/// A key that one row does not see may be NaN.
#[test]
fn rows_see_as_much_as_they_may() {
    let keys = vec![Some([1.0, 0.0]), Some([3.0, 0.0]), Some([f32::NAN, 0.0])];
    let queries = vec![vec![[0.0, 0.0]; 5]];
    let rows = run(Toy { queries, keys: vec![keys], visible: Some(vec![0, 1, 1, 2, 3]), ..Toy::default() });
    assert_eq!(rows[0], EMPTY);
    assert_eq!([rows[1].out, rows[2].out, rows[3].out], [1.0, 1.0, 2.0]);
    assert_close(rows[3].lse, 2_f64.ln());
    assert!(rows[4].out.is_nan());
}

#[test]
fn sinks_take_their_share_of_out_only() {
    // exp: 1 and 1, sink 2: the keys keep half of the weight.
    let toy = Toy {
        queries: vec![vec![[0.0, 0.0]; 4]],
        keys: vec![vec![Some([6.0, 0.0]), Some([10.0, 0.0])]],
        sinks: Some(vec![2_f32.ln(), f32::INFINITY, f32::NEG_INFINITY, -1e30]),
        ..Toy::default()
    };
    let rows = run(toy);
    assert_close(rows[0].out, 4.0);
    assert_eq!([rows[1].out, rows[2].out, rows[3].out], [0.0, 8.0, 8.0]);
    for row in rows {
        assert_close(row.lse, 2_f64.ln());
        assert_eq!(row.max_logit, 0.0);
    }
}
