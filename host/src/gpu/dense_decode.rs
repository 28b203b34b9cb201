//! Dense decode on a GPU: which kernels, how many partitions, what memory.

use super::GpuDevice;
use super::checks::{MAX_GRID_Y, check_alignment, check_element_alignment};
use super::fused::{Fused, Requests};
use super::kernels::{Grid, Kernel};
use super::partials::{self, PartialsPlan, check_memory};
use super::tensor_map::HalfTensor4;
use crate::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, Error, Half, InvalidProblem, KvFormat, Stream,
    TensorView, Workspace,
};
use bytemuck::Zeroable;
use oximla_types::kernels::TensorMap;
use oximla_types::kernels::combine::{self, CombineParams};
use oximla_types::kernels::decode::{
    DecodeParams, GridShape, HEAD_DIM_V, QueryTiling, TILE_COLUMNS, TILE_ROWS,
};
use oximla_types::kernels::dense_decode::{
    self as contract, DenseDecodeParams, HEAD_DIM, HEAD_DIM_WITHOUT_TAIL, ScheduleLayout,
};
use oximla_types::kernels::sparse_decode::Divisor;
use oximla_types::schedule::{
    BLOCK_KEYS, Determinism, EqualSplit, MAX_TOTAL_WORK, MIN_CHUNK, REQUEST_OVERHEAD,
};
use std::num::NonZeroU32;
use std::sync::Arc;

/// A dense decode planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct DensePlan {
    device: Arc<GpuDevice>,
    problem: DenseDecode,
    format: KvFormat,
    determinism: Determinism,
    decode: Kernel,
    combine: Kernel,
    schedule: Kernel,
    shape: GridShape,
    workspace: PartialsPlan,
    /// Where few requests are split.
    fused: Option<Fused>,
}

impl DensePlan {
    pub(crate) fn new(
        problem: &DenseDecode,
        format: KvFormat,
        determinism: Determinism,
        device: &Arc<GpuDevice>,
    ) -> Result<Self, Error> {
        // Each with the one whose combination is fused.
        let (kernels, combinations) = match format {
            KvFormat::Bf16 => (
                [
                    [contract::SM90_BF16, contract::FUSED_SM90_BF16],
                    [contract::D512_SM90_BF16, contract::D512_FUSED_SM90_BF16],
                ],
                combine::BF16,
            ),
            KvFormat::Fp16 => (
                [
                    [contract::SM90_FP16, contract::FUSED_SM90_FP16],
                    [contract::D512_SM90_FP16, contract::D512_FUSED_SM90_FP16],
                ],
                combine::FP16,
            ),
            other => return Err(unsupported("kv_format bf16 or fp16", other.name())),
        };
        let head_dims = [HEAD_DIM, HEAD_DIM_WITHOUT_TAIL].map(|dim| dim as usize);
        let decode = head_dims.iter().zip(kernels).find(|&(&dim, _)| dim == problem.head_dim);
        let (Some((_, [decode, fused])), true) = (decode, problem.head_dim_v == HEAD_DIM_V as usize) else {
            let have = format!("{} and {}", problem.head_dim, problem.head_dim_v);
            let need = format!("head_dim {} or {} and head_dim_v {HEAD_DIM_V}", head_dims[0], head_dims[1]);
            return Err(unsupported(need, have));
        };
        if problem.page_size != BLOCK_KEYS as usize {
            return Err(unsupported(format!("page_size {BLOCK_KEYS}"), problem.page_size));
        }
        let shape = grid_shape(problem, device.multiprocessors)?;
        let (batch, max_blocks) = (problem.batch as u32, problem.max_pages as u32);
        let workspace = PartialsPlan::new(problem.batch, max_blocks, determinism, &shape)?;
        let requests = Requests { count: batch, max_blocks };
        let fused = Fused::new(&fused, device, determinism, &shape, requests, contract::MAX_FUSED_BLOCKS)?;
        let combine = combinations.of(batch, shape.total_rows, device.multiprocessors, determinism);
        let (decode, combine, schedule) =
            (device.kernel(&decode)?, device.kernel(&combine)?, device.kernel(&contract::SCHEDULE)?);
        Ok(Self {
            device: Arc::clone(device),
            problem: problem.clone(),
            format,
            determinism,
            decode,
            combine,
            schedule,
            shape,
            workspace,
            fused,
        })
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        self.workspace.bytes
    }

    /// Partitions of the work line.
    pub(crate) fn partitions(&self) -> u32 {
        self.shape.partitions
    }

    pub(crate) fn schedule_bytes(&self) -> usize {
        self.schedule_layout().bytes as usize
    }

    fn schedule_layout(&self) -> ScheduleLayout {
        ScheduleLayout::new(self.problem.batch as u32, self.shape.partitions)
    }

    pub(crate) fn kernel(&self) -> &'static str {
        self.fused.map_or(self.decode, |fused| fused.kernel).contract.entry
    }

    /// Checks that the stream is one of the planned GPU's driver.
    pub(crate) fn check_stream(&self, stream: &Stream) -> Result<(), InvalidProblem> {
        self.device.driver.check_stream(stream.0)
    }

    /// Writes the schedule to `memory`. The view of the lengths is checked.
    pub(crate) fn schedule(
        &self,
        stream: &Stream,
        cache_seqlens: &TensorView<'_, i32, 1>,
        memory: &Workspace<'_>,
    ) -> Result<(), Error> {
        check_element_alignment("cache_seqlens", cache_seqlens.address, size_of::<i32>() as u64)?;
        check_memory("schedule", memory, self.schedule_bytes())?;
        let mut params = self.schedule_params(cache_seqlens);
        params.decode.places = memory.address;
        let grid = [1, self.shape.partitions];
        let driver = &*self.device.driver;
        // Decodes read the schedule before the kernels before them have ended. So one comes in between that has nothing to combine,
        // and begins when the schedule is there: whatever comes behind it begins later.
        let end = Grid { overlaps: false, ..Grid::of([1, 1]) };
        // SAFETY: the parameters are the kernels' own types; the view and the memory are live, as their makers promise,
        // and long enough; of no requests nothing is read; the stream's maker promised a live one.
        unsafe {
            self.schedule.launch(driver, stream.0, Grid::of(grid), &params)?;
            self.combine.launch(driver, stream.0, end, &CombineParams::zeroed())
        }
    }

    /// What the division of the requests follows from; nothing of the other parameters.
    fn schedule_params(&self, cache_seqlens: &TensorView<'_, i32, 1>) -> DenseDecodeParams {
        DenseDecodeParams {
            cache_seqlens: cache_seqlens.address,
            cache_seqlens_stride: cache_seqlens.strides[0],
            max_pages: self.problem.max_pages as u32,
            decode: DecodeParams {
                requests: self.problem.batch as u32,
                partitions: self.shape.partitions,
                chunk_slots: self.determinism.chunk_slots(self.problem.max_pages as u32),
                ..DecodeParams::zeroed()
            },
            ..DenseDecodeParams::zeroed()
        }
    }

    /// `schedule` is the address of what [`Self::schedule`] wrote, which brings the lengths with it.
    pub(crate) fn run<T: Half>(
        &self,
        stream: &Stream,
        schedule: Option<u64>,
        inputs: &DenseDecodeInputs<'_, T>,
        outputs: &mut DenseDecodeOutputs<'_, T>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        let (q, kv, out, lse) = (&inputs.q, &inputs.kv_cache, &outputs.out.view, &outputs.lse.view);
        check_alignment("q", q.address, &q.strides[..3], size_of::<T>())?;
        check_alignment("kv_cache", kv.address, &kv.strides[..3], size_of::<T>())?;
        check_alignment("out", out.address, &out.strides[..3], size_of::<T>())?;
        for (name, address) in [
            ("lse", lse.address),
            ("block_table", inputs.block_table.address),
            ("cache_seqlens", inputs.cache_seqlens.address),
        ] {
            check_element_alignment(name, address, size_of::<f32>() as u64)?;
        }
        check_memory("workspace", workspace, self.workspace.bytes)?;
        if self.problem.batch == 0 || self.shape.rows == 0 {
            return Ok(());
        }

        let partial = self.workspace.at(workspace.address);
        let mut scheduled = self.schedule_params(&inputs.cache_seqlens);
        let mut to_combine = partial;
        if let Some(address) = schedule {
            let layout = self.schedule_layout();
            scheduled.decode.places = address + layout.places;
            (scheduled.cache_seqlens, scheduled.cache_seqlens_stride) = (address + layout.lens, 1);
            to_combine.splits = address + layout.splits;
        }
        let decode = DecodeParams {
            out: out.address,
            lse: lse.address,
            partial,
            out_strides: [out.strides[0], out.strides[1], out.strides[2]],
            lse_strides: lse.strides,
            s_q: self.problem.s_q as u32,
            group: self.group(),
            rows: self.shape.rows,
            total_rows: self.shape.total_rows,
            row_tiles: self.shape.row_tiles,
            tiling: self.tiling(),
            scale_log2: self.problem.softmax_scale * std::f32::consts::LOG2_E,
            ..scheduled.decode
        };
        let params = DenseDecodeParams {
            kv_map: self.kv_map(kv)?,
            q_map: self.device.driver.encode(&HalfTensor4::query_rows(q, self.tiling()))?,
            block_table: inputs.block_table.address,
            block_table_stride: inputs.block_table.strides[0],
            decode,
            num_pages: self.problem.num_pages as u32,
            causal: u32::from(self.problem.causal),
            ..scheduled
        };
        let combine = CombineParams {
            partial: to_combine,
            out: decode.out,
            lse: decode.lse,
            out_strides: decode.out_strides,
            lse_strides: decode.lse_strides,
            batch: decode.requests,
            rows: Divisor::new(self.shape.rows),
            group: Divisor::new(self.group()),
            total_rows: self.shape.total_rows,
            slots: self.workspace.slots,
            ctas: combine::ctas(decode.requests, self.shape.total_rows, self.device.multiprocessors),
            attn_sink: 0,
            attn_sink_stride: 0,
            queries: Divisor::new(1),
            equal: EqualSplit::UNKNOWN,
            is_scheduled: schedule.is_some().into(),
        };
        let decode_grid = Grid {
            cluster: [self.shape.cluster(), 1],
            ..Grid::of([self.shape.columns, self.shape.partitions])
        };
        let combine_grid = Grid::of([combine.ctas, 1]);
        let driver = &*self.device.driver;
        if let Some(Fused { kernel, grid }) = self.fused {
            // SAFETY: as below.
            return unsafe { kernel.launch(driver, stream.0, grid, &params) };
        }
        // SAFETY: the parameters are the kernels' own types; the views promise live memory of the checked shapes, and
        // the kernels reach no element outside them; the stream's maker promised a live one.
        unsafe {
            self.decode.launch(driver, stream.0, decode_grid, &params)?;
            if self.may_split() {
                self.combine.launch(driver, stream.0, combine_grid, &combine)?;
            }
        }
        Ok(())
    }

    /// Whether any request may be split, for the combine kernel to put together again.
    fn may_split(&self) -> bool {
        partials::may_split(self.determinism, &self.shape, self.problem.max_pages as u32)
    }

    fn group(&self) -> u32 {
        (self.problem.h_q / self.problem.h_kv) as u32
    }

    /// The cache in boxes of one tile: 64 columns of the 64 keys of a page.
    fn kv_map<T: Half>(&self, kv: &TensorView<'_, T, 4>) -> Result<TensorMap, Error> {
        let [pages, keys, heads, head_dim] = kv.shape;
        let [page_stride, key_stride, head_stride, _] = kv.strides.map(|stride| stride as u64 * 2);
        self.device.driver.encode(&HalfTensor4 {
            is_bf16: self.format == KvFormat::Bf16,
            address: kv.address,
            dims: [head_dim as u64, keys as u64, heads as u64, pages as u64],
            strides: [key_stride, head_stride, page_stride],
            box_dims: [TILE_COLUMNS, BLOCK_KEYS, 1, 1],
        })
    }

    fn tiling(&self) -> QueryTiling {
        QueryTiling::new(NonZeroU32::new(self.group()).unwrap_or(NonZeroU32::MIN))
    }
}

/// How the grid covers the problem, whose numbers the kernels' 32-bit arithmetic must be able to carry.
fn grid_shape(problem: &DenseDecode, multiprocessors: u32) -> Result<GridShape, Error> {
    let limits = [
        ("batch", problem.batch, MAX_GRID_Y),
        ("num_pages", problem.num_pages, i32::MAX as usize),
        ("max_pages", problem.max_pages, (i32::MAX as u32 / BLOCK_KEYS) as usize),
        ("s_q · h_q", problem.s_q.saturating_mul(problem.h_q), i32::MAX as usize / TILE_ROWS as usize),
    ];
    for (argument, found, limit) in limits {
        if found > limit {
            return Err(InvalidProblem::new(argument, found, format!("at most {limit}")).into());
        }
    }
    // As chunks are longer than their overhead, no request takes more than twice its blocks and one overhead.
    const { assert!(MIN_CHUNK >= REQUEST_OVERHEAD) };
    let work = problem.batch as u64 * (2 * problem.max_pages as u64 + u64::from(REQUEST_OVERHEAD) + 1);
    if work >= MAX_TOTAL_WORK {
        let found = format!("{} · {}", problem.batch, problem.max_pages);
        return Err(InvalidProblem::new("batch · max_pages", found, "less than 2³⁰ pages").into());
    }
    let h_kv = NonZeroU32::new(problem.h_kv as u32)
        .ok_or_else(|| InvalidProblem::new("h_kv", problem.h_kv, "at least 1"))?;
    Ok(GridShape::new(problem.s_q as u32, problem.h_q as u32, h_kv, multiprocessors))
}

fn unsupported(need: impl ToString, have: impl ToString) -> Error {
    Error::Unsupported { what: "dense decode on a GPU", need: need.to_string(), have: have.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(batch: usize, s_q: usize, h_q: usize, h_kv: usize) -> DenseDecode {
        DenseDecode {
            batch,
            s_q,
            h_q,
            h_kv,
            head_dim: 576,
            head_dim_v: 512,
            page_size: 64,
            num_pages: 100,
            max_pages: 10,
            softmax_scale: 0.1,
            causal: false,
        }
    }

    #[test]
    fn the_grid_fills_the_gpu() {
        let shape = grid_shape(&problem(4, 1, 128, 1), 132).unwrap();
        let expected = GridShape { rows: 128, row_tiles: 2, total_rows: 128, columns: 2, partitions: 66 };
        assert_eq!(shape, expected);
        let shape = grid_shape(&problem(4, 2, 9, 3), 132).unwrap();
        assert_eq!(shape, GridShape { rows: 6, row_tiles: 1, total_rows: 18, columns: 3, partitions: 44 });
        let shape = grid_shape(&problem(4, 70_000, 128, 1), 132).unwrap();
        assert_eq!(shape.partitions, 1);
    }

    #[test]
    fn limits_name_the_argument() {
        let error = grid_shape(&problem(70_000, 1, 1, 1), 132).unwrap_err();
        assert!(error.to_string().starts_with("batch is 70000"), "{error}");
    }
}
