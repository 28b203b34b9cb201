//! What a seed decides, and what it does not.

use std::collections::BTreeSet;
use std::path::Path;

use crate::case::{Case, cases};

#[test]
fn the_same_seed_gives_the_same_run() {
    for case in cases("fail").into_iter().chain(cases("pass")) {
        for seed in [0, 1, 0xffff_ffff_ffff_ffff] {
            let [first, second] = [0, 1].map(|_| case.run(seed).unwrap());
            assert_eq!(first.text(), second.text(), "{}, seed {seed}", case.name);
            // What CTAs leave that race with each other is up to the threads of the host.
            if !first.text().contains("data race") {
                assert_eq!(first.buffers, second.buffers, "{}, seed {seed}", case.name);
            }
        }
    }
}

/// Each CTA draws a number from a counter: sound, but who gets which number is open.
#[test]
fn seeds_differ_in_their_order() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/order.ptx");
    let case = Case::read(&path);
    let mut orders = BTreeSet::new();
    for seed in 0..32 {
        let outcome = case.run(seed).unwrap();
        assert_eq!(outcome.text(), "", "seed {seed}");
        let mut sorted = outcome.buffers[1].clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3], "seed {seed}");
        orders.insert(outcome.buffers[1].clone());
    }
    assert!(orders.len() > 4, "{orders:?}");
}
