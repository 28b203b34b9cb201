//! Decodes whose combination is fused: a cluster has all splits of each request (`kernels-gpu/src/kernels/decode/sm90/fused.rs`).

use super::GpuDevice;
use super::kernels::{Grid, Kernel};
use crate::Error;
use oximla_types::kernels::decode::{FUSED_CTAS, GridShape};
use oximla_types::launch::LaunchContract;
use oximla_types::schedule::Determinism;

/// A fused kernel, and the CTAs that it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fused {
    pub(super) kernel: Kernel,
    pub(super) grid: Grid,
}

/// Requests to decode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requests {
    pub(super) count: u32,
    /// Blocks of the longest one.
    pub(super) max_blocks: u32,
}

impl Fused {
    /// With splits of at most `most_blocks` blocks; none where some would be longer, or not all clusters would run side by side: then
    /// splits all over the GPU and a kernel of its own to combine them take less time.
    pub(super) fn new(
        contract: &LaunchContract,
        device: &GpuDevice,
        determinism: Determinism,
        shape: &GridShape,
        Requests { count, max_blocks }: Requests,
        most_blocks: u32,
    ) -> Result<Option<Self>, Error> {
        let pays = determinism == Determinism::RunToRun
            && (2..=most_blocks * FUSED_CTAS).contains(&max_blocks)
            && (1..=shape.partitions / FUSED_CTAS).contains(&count);
        if !pays {
            return Ok(None);
        }
        let kernel = device.kernel(contract)?;
        let grid = Grid { cluster: [1, FUSED_CTAS], ..Grid::of([shape.columns, count * FUSED_CTAS]) };
        let clusters = device.driver.max_clusters(kernel, grid)?;
        Ok((clusters >= shape.columns * count).then_some(Self { kernel, grid }))
    }
}
