//! The emulator is for every day: one request of 256 keys and 64 heads within seconds on one core.

use std::time::{Duration, Instant};

use oximla::case_file::Case;
use oximla::{Device, EmulatedOptions};
use oximla_conformance::backend::report;
use oximla_conformance::dense_decode::Spec;

/// On one core, checks included, in a release build.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
#[cfg_attr(debug_assertions, ignore = "a figure of release builds")]
fn dense_decode_of_256_keys_and_64_heads() {
    let spec = Spec { lengths: vec![256], h_q: 64, ..Spec::default() };
    let case = Case::DenseDecode(spec.case());
    let options = EmulatedOptions { multiprocessors: 1, ..EmulatedOptions::default() };
    let device = Device::emulated(options).expect("an emulated GPU");
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let begin = Instant::now();
    one_core.install(|| case.run(&device)).expect("a clean run");
    let time = begin.elapsed();
    report(&format!("256 keys, 64 heads, one core: {:.2} s", time.as_secs_f64()));
    assert!(time < LIMIT, "{time:?}");
}
