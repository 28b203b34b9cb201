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

/// What there is to decode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requests {
    pub(super) count: u32,
    /// Blocks of the longest one.
    pub(super) max_blocks: u32,
    /// Blocks of the pieces that they are cut into else.
    pub(super) piece: u32,
}

impl Fused {
    /// None where the splits would be longer than the pieces that the requests are cut into else, or not all clusters would run side by
    /// side: then a kernel of its own combines them sooner.
    pub(super) fn new(
        contract: &LaunchContract,
        device: &GpuDevice,
        determinism: Determinism,
        shape: &GridShape,
        Requests { count, max_blocks, piece }: Requests,
    ) -> Result<Option<Self>, Error> {
        let pays = determinism == Determinism::RunToRun
            && max_blocks > 1
            && max_blocks.div_ceil(FUSED_CTAS) <= piece
            && count > 0
            && count <= shape.partitions / FUSED_CTAS;
        if !pays {
            return Ok(None);
        }
        let kernel = Kernel::of(contract)?;
        let grid = Grid { cluster: [1, FUSED_CTAS], ..Grid::of([shape.columns, count * FUSED_CTAS]) };
        let clusters = device.driver.max_clusters(kernel, grid)?;
        Ok((clusters >= shape.columns * count).then_some(Self { kernel, grid }))
    }
}
