//! The CPU back end.
//!
//! All operations share one core: a *tile* of query rows against blocks of keys widened to f32, two matrix products a
//! block (`matrixmultiply`) with an online softmax between them ([`attention`]). Keys that do not take part are left
//! out when a block is gathered, so whatever lies in their memory cannot reach a result. [`schedule`] distributes tiles
//! and parts of long key lists over rayon's threads.
//!
//! On one machine a result does not depend on the number of threads, nor on what else is in the batch: it is the same
//! bit for bit. Machines may differ in the last bits, as the matrix library picks its instructions by what they have.

mod attention;
mod exp2;
mod fp8;
mod matrix;
mod schedule;
#[cfg(test)]
mod toy;

pub(crate) mod dense_decode;
pub(crate) mod inverse_rope;
pub(crate) mod kv_gather;
pub(crate) mod kv_insert;
pub(crate) mod merge_states;
pub(crate) mod sparse_decode;
pub(crate) mod sparse_prefill;
pub(crate) mod topk_to_slots;

use crate::{DeviceInfo, TensorView};
use half::bf16;

/// What the CPU is.
pub(crate) fn info() -> DeviceInfo {
    DeviceInfo {
        backend: "cpu",
        name: processor_name().unwrap_or_else(|| std::env::consts::ARCH.into()),
        driver: None,
        units: rayon::current_num_threads() as u32,
        compute_capability: None,
    }
}

/// As Linux tells it.
fn processor_name() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().into())
}

/// `index` if it names one of `count` things.
fn checked_index(index: i32, count: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&index| index < count)
}

/// Keys of each list: what the tensor says, or `topk` without one.
struct ListLengths<'a, const RANK: usize> {
    lengths: Option<TensorView<'a, i32, RANK>>,
    topk: usize,
}

impl<const RANK: usize> ListLengths<'_, RANK> {
    /// That of a list; along a dimension of one they are all the same.
    fn get(&self, list: [usize; RANK]) -> usize {
        self.lengths.map_or(self.topk, |lengths| {
            let index = std::array::from_fn(|dim| if lengths.shape[dim] == 1 { 0 } else { list[dim] });
            lengths.get(index) as usize
        })
    }
}

/// Widens bf16 little-endian bytes.
fn widen_bf16_bytes(bytes: &[u8], to: &mut [f32]) {
    for (to, pair) in to.iter_mut().zip(bytes.chunks_exact(2)) {
        *to = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
    }
}
