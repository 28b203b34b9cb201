//! Sparse decode on a GPU: which kernels, how many partitions, what memory.

use super::GpuDevice;
use super::checks::{MAX_GRID_Y, check_alignment, check_element_alignment};
use super::fused::{Fused, Requests};
use super::inverse_rope::rope_params;
use super::kernels::{Grid, Kernel};
use super::partials::{self, PartialsPlan, check_memory};
use super::tensor_map::HalfTensor4;
use crate::{
    Error, InvalidProblem, KvFormat, KvScope, SparseDecode, SparseDecodeInputs, SparseDecodeOutputs, Stream,
    TensorViewMut, Workspace,
};
use bytemuck::Zeroable;
use half::bf16;
use oximla_types::kernels::combine::{self, CombineParams};
use oximla_types::kernels::decode::{
    DecodeParams, FEW_HEADS, GridShape, PartialResults, QueryTiling, TILE_ROWS,
};
use oximla_types::kernels::few_heads;
use oximla_types::kernels::inverse_rope::RopeParams;
use oximla_types::kernels::sparse_decode::{self as contract, Divisor, ScopeParams, SparseDecodeParams};
use oximla_types::kernels::sparse_prefill;
use oximla_types::launch::LaunchContract;
use oximla_types::schedule::{self, Determinism, EqualSplit, MAX_TOTAL_WORK, REQUEST_OVERHEAD, Workload};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Alignment of pages: tokens and their scales are read 8 bytes at a time at least.
const PAGE_ALIGNMENT: u64 = 8;

/// Alignment of pages whose tokens can be read 16 bytes at a time.
const WIDE_PAGE_ALIGNMENT: u64 = 16;

/// A sparse decode planned for a GPU.
#[derive(Clone, Debug)]
pub(crate) struct SparsePlan {
    device: Arc<GpuDevice>,
    problem: SparseDecode,
    determinism: Determinism,
    decode: Kernel,
    /// For caches whose rows are all aligned to [`WIDE_PAGE_ALIGNMENT`], where the CTAs of neighbouring tiles of heads can share
    /// the keys.
    cluster: Option<Kernel>,
    shape: GridShape,
    /// Where requests may be split.
    split: Option<Split>,
    /// For caches whose rows are all aligned to [`WIDE_PAGE_ALIGNMENT`], where few requests are split.
    fused: Option<Fused>,
    /// For caches whose rows are all aligned to [`WIDE_PAGE_ALIGNMENT`], where heads are few.
    few_heads: Option<Kernel>,
}

/// The kernels of a format and an operation.
struct Kernels {
    /// For CTAs by themselves.
    alone: LaunchContract,
    /// Where two tiles of heads share the keys.
    cluster: LaunchContract,
    /// For few heads, if there is one.
    few_heads: Option<LaunchContract>,
}

const V32_DECODE: Kernels = Kernels {
    alone: contract::V32_SM90,
    cluster: contract::V32_CLUSTER_SM90,
    few_heads: Some(few_heads::V32_SM90),
};

const MODEL1_DECODE: Kernels = Kernels {
    alone: contract::MODEL1_SM90,
    cluster: contract::MODEL1_CLUSTER_SM90,
    few_heads: Some(few_heads::MODEL1_SM90),
};

const V32_PREFILL: Kernels =
    Kernels { alone: sparse_prefill::V32_SM90, cluster: sparse_prefill::V32_CLUSTER_SM90, few_heads: None };

const MODEL1_PREFILL: Kernels = Kernels {
    alone: sparse_prefill::MODEL1_SM90,
    cluster: sparse_prefill::MODEL1_CLUSTER_SM90,
    few_heads: None,
};

/// What there is of the format, an FP8 one.
fn of_format<T>(format: KvFormat, v32: T, model1: T) -> Result<T, InvalidProblem> {
    match format {
        KvFormat::V32Fp8 => Ok(v32),
        KvFormat::Model1Fp8 => Ok(model1),
        other => Err(InvalidProblem::new("format", other, "v32_fp8 or model1_fp8")),
    }
}

/// What splitting requests takes.
#[derive(Clone, Debug)]
struct Split {
    combine: Kernel,
    workspace: PartialsPlan,
}

impl SparsePlan {
    pub(crate) fn new(
        problem: &SparseDecode,
        determinism: Determinism,
        device: &Arc<GpuDevice>,
    ) -> Result<Self, Error> {
        let v32 = (V32_DECODE, contract::V32_FUSED_SM90);
        let model1 = (MODEL1_DECODE, contract::MODEL1_FUSED_SM90);
        let (kernels, fused) = of_format(problem.format, v32, model1)?;
        let mut plan = Self::without_splits(problem, "batch · s_q", kernels, device)?;
        let queries = problem.batch * problem.s_q;
        let max_blocks = max_blocks(problem);
        let workspace = PartialsPlan::new(queries, max_blocks, determinism, &plan.shape)?;
        plan.determinism = determinism;
        let rows = plan.shape.total_rows;
        let combine = combine::BF16.of(queries as u32, rows, device.multiprocessors, determinism);
        plan.split = Some(Split { combine: device.kernel(&combine)?, workspace });
        let requests = Requests { count: queries as u32, max_blocks };
        plan.fused =
            Fused::new(&fused, device, determinism, &plan.shape, requests, contract::MAX_FUSED_BLOCKS)?;
        Ok(plan)
    }

    /// A prefill of the problem's query tokens, none of which is split.
    pub(crate) fn of_prefill(problem: &SparseDecode, device: &Arc<GpuDevice>) -> Result<Self, Error> {
        let kernels = of_format(problem.format, V32_PREFILL, MODEL1_PREFILL)?;
        Self::without_splits(problem, "s_q", kernels, device)
    }

    /// With the kernels of the problem's format. Errors call the number of query tokens `queries`.
    fn without_splits(
        problem: &SparseDecode,
        queries: &str,
        Kernels { alone, cluster, few_heads }: Kernels,
        device: &Arc<GpuDevice>,
    ) -> Result<Self, Error> {
        let shape = grid_shape(problem, queries, device.multiprocessors)?;
        let few_heads = few_heads.filter(|_| problem.h_q <= FEW_HEADS as usize);
        Ok(Self {
            device: Arc::clone(device),
            problem: problem.clone(),
            determinism: Determinism::default(),
            decode: device.kernel(&alone)?,
            cluster: (cluster.cluster == shape.cluster()).then(|| device.kernel(&cluster)).transpose()?,
            shape,
            split: None,
            fused: None,
            few_heads: few_heads.as_ref().map(|contract| device.kernel(contract)).transpose()?,
        })
    }

    pub(crate) fn workspace_bytes(&self) -> usize {
        self.split.as_ref().map_or(0, |split| split.workspace.bytes)
    }

    /// The kernel for aligned caches.
    pub(crate) fn kernel(&self) -> &'static str {
        let kernel = self.fused.map(|fused| fused.kernel).or(self.few_heads).or(self.cluster);
        kernel.unwrap_or(self.decode).contract.entry
    }

    /// Checks that the stream is one of the planned GPU's driver.
    pub(crate) fn check_stream(&self, stream: &Stream) -> Result<(), InvalidProblem> {
        self.device.driver.check_stream(stream.0)
    }

    /// The views are checked: shapes, memory. A prefill has `max_logits` `[batch · s_q, h_q]`.
    pub(crate) fn run(
        &self,
        stream: &Stream,
        inputs: &SparseDecodeInputs<'_>,
        outputs: &mut SparseDecodeOutputs<'_>,
        max_logits: Option<&TensorViewMut<'_, f32, 2>>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), Error> {
        let (q, out, lse) = (&inputs.q, &outputs.out.view, &outputs.lse.view);
        check_alignment("q", q.address, &q.strides[..3], size_of::<bf16>())?;
        check_alignment("out", out.address, &out.strides[..3], size_of::<bf16>())?;
        check_element_alignment("lse", lse.address, size_of::<f32>() as u64)?;
        if let Some(sink) = &inputs.attn_sink {
            check_element_alignment("attn_sink", sink.address, size_of::<f32>() as u64)?;
        }
        let (max_logits, max_logits_strides) =
            max_logits.map_or((0, [0; 2]), |logits| (logits.view.address, logits.view.strides));
        check_element_alignment("max_logits", max_logits, size_of::<f32>() as u64)?;
        if let Some(split) = &self.split {
            check_memory("workspace", workspace, split.workspace.bytes)?;
        }
        let problem = &self.problem;
        let (first, first_is_wide) = scope_params("scope", problem.format, &inputs.scope)?;
        let (second, second_is_wide) = match &inputs.extra {
            Some(extra) => scope_params("extra", problem.format, extra)?,
            None => (ScopeParams { page_size: Divisor::new(1), ..ScopeParams::zeroed() }, true),
        };

        let is_wide = first_is_wide && second_is_wide;
        let decode_kernel = self.few_heads.or(self.cluster).filter(|_| is_wide).unwrap_or(self.decode);
        let max_blocks = max_blocks(problem);
        // Each query token has keys of its own.
        let tiling =
            QueryTiling::of_single_tokens(NonZeroU32::new(problem.h_q as u32).unwrap_or(NonZeroU32::MIN));
        let queries = Divisor::new(problem.s_q as u32);
        let (attn_sink, attn_sink_stride) =
            inputs.attn_sink.as_ref().map_or((0, 0), |sink| (sink.address, sink.strides[0]));
        let decode = DecodeParams {
            places: 0,
            out: out.address,
            lse: lse.address,
            partial: self
                .split
                .as_ref()
                .map_or(PartialResults::zeroed(), |split| split.workspace.at(workspace.address)),
            out_strides: [out.strides[0], out.strides[1], out.strides[2]],
            lse_strides: lse.strides,
            requests: (problem.batch * problem.s_q) as u32,
            s_q: 1,
            group: problem.h_q as u32,
            rows: self.shape.rows,
            total_rows: self.shape.total_rows,
            row_tiles: self.shape.row_tiles,
            tiling,
            partitions: self.shape.partitions,
            chunk_slots: self.determinism.chunk_slots(max_blocks),
            scale_log2: problem.softmax_scale * std::f32::consts::LOG2_E,
        };
        let equal = self.equal_split(inputs, is_wide);
        let params = SparseDecodeParams {
            q_map: self.device.driver.encode(&HalfTensor4::query_rows(q, tiling))?,
            out_map: self.device.driver.encode(&HalfTensor4::query_rows(out, tiling))?,
            decode,
            scopes: [first, second],
            attn_sink,
            attn_sink_stride,
            max_logits,
            max_logits_strides,
            queries,
            wide_rows: u32::from(is_wide),
            equal,
            inverse_rope: match (&problem.inverse_rope, &inputs.inverse_rope) {
                (Some(angles), Some(inputs)) => rope_params(angles, inputs),
                _ => RopeParams::zeroed(),
            },
            q: q.address,
            q_strides: [q.strides[0], q.strides[1], q.strides[2]],
        };
        let driver = &*self.device.driver;
        if let Some(Fused { kernel, grid }) = self.fused.filter(|_| is_wide) {
            // SAFETY: as below.
            return unsafe { kernel.launch(driver, stream.0, grid, &params) };
        }
        let cluster = decode_kernel.contract.cluster;
        let grid = Grid { cluster: [cluster, 1], ..Grid::of([self.shape.columns, self.shape.partitions]) };
        // SAFETY: the parameters are the kernel's own type; the views promise live memory of the checked shapes, and the
        // kernel reaches no element outside them; the stream's maker promised a live one.
        unsafe { decode_kernel.launch(driver, stream.0, grid, &params)? };
        let Some(Split { combine, workspace }) = &self.split else { return Ok(()) };
        if equal.is_whole() || !partials::may_split(self.determinism, &self.shape, max_blocks) {
            return Ok(());
        }
        let params = CombineParams {
            partial: decode.partial,
            out: decode.out,
            lse: decode.lse,
            out_strides: decode.out_strides,
            lse_strides: decode.lse_strides,
            batch: decode.requests,
            rows: Divisor::new(self.shape.rows),
            group: Divisor::new(decode.group),
            total_rows: self.shape.total_rows,
            slots: workspace.slots,
            ctas: combine::ctas(decode.requests, self.shape.total_rows, self.device.multiprocessors),
            attn_sink,
            attn_sink_stride,
            queries,
            equal,
            is_scheduled: 0,
        };
        // SAFETY: as above.
        unsafe { combine.launch(driver, stream.0, Grid::of([params.ctas, 1]), &params) }
    }

    /// How query tokens are divided, if it does not depend on lengths in memory. With few heads they are whole where those of the longest
    /// lists are: to look at all lengths first takes longer than shorter lists let some CTAs wait.
    fn equal_split(&self, inputs: &SparseDecodeInputs<'_>, is_wide: bool) -> EqualSplit {
        if self.split.is_none() {
            return EqualSplit::UNKNOWN;
        }
        let longest = self.longest_split();
        let scopes = [Some(&inputs.scope), inputs.extra.as_ref()];
        let has_lengths = scopes.iter().flatten().any(|scope| scope.topk_length.is_some());
        let is_whole = self.few_heads.is_some()
            && is_wide
            && self.determinism == Determinism::RunToRun
            && longest.is_whole();
        if has_lengths && !is_whole { EqualSplit::UNKNOWN } else { longest }
    }

    /// How query tokens are divided whose lists are as long as they may be.
    fn longest_split(&self) -> EqualSplit {
        let requests = (self.problem.batch * self.problem.s_q) as u32;
        let blocks = max_blocks(&self.problem);
        let work = self.determinism.request_work(blocks);
        let workload = Workload {
            chunk_slots: self.determinism.chunk_slots(blocks),
            total: requests * work,
            longest: work,
            min_payload: contract::min_payload(work),
            batch: requests,
        };
        EqualSplit::new(workload, self.shape.partitions, blocks)
    }
}

/// What the kernel must know of a cache, and whether its tokens can be read 16 bytes at a time.
///
/// Where an index names no token, the kernel reads one of the cache's first ones and ignores it: a valid problem has one.
fn scope_params(
    name: &str,
    format: KvFormat,
    scope: &KvScope<'_>,
) -> Result<(ScopeParams, bool), InvalidProblem> {
    let cache = &scope.kv_cache;
    let [num_pages, page_size, ..] = cache.shape;
    // The stride of a dimension of one page may be anything.
    let page_stride =
        if num_pages > 1 { cache.strides[0] } else { format.page_stride(page_size as u32) as i64 };
    check_element_alignment(&format!("{name}.kv_cache"), cache.address, PAGE_ALIGNMENT)?;
    if !page_stride.unsigned_abs().is_multiple_of(PAGE_ALIGNMENT) {
        let (found, needed) =
            (format!("{page_stride} bytes"), format!("a multiple of {PAGE_ALIGNMENT} bytes"));
        return Err(InvalidProblem::new(format!("{name}.kv_cache page stride"), found, needed));
    }
    check_element_alignment(&format!("{name}.indices"), scope.indices.address, size_of::<i32>() as u64)?;
    let lengths = scope.topk_length.as_ref();
    if let Some(lengths) = lengths {
        check_element_alignment(&format!("{name}.topk_length"), lengths.address, size_of::<i32>() as u64)?;
    }
    let is_wide = (cache.address | page_stride.unsigned_abs()).is_multiple_of(WIDE_PAGE_ALIGNMENT);
    let tokens = num_pages.saturating_mul(page_size).min(i32::MAX as usize) as u32;
    let params = ScopeParams {
        kv_cache: cache.address,
        indices: scope.indices.address,
        topk_length: lengths.map_or(0, |lengths| lengths.address),
        page_stride,
        indices_strides: [scope.indices.strides[0], scope.indices.strides[1]],
        topk_length_strides: lengths.map_or([0; 2], |lengths| {
            // The stride of a dimension of one may be anything.
            let [batch, query] = lengths.strides;
            [batch, if lengths.shape[1] == 1 { 0 } else { query }]
        }),
        page_size: Divisor::new(page_size as u32),
        tokens,
        topk: scope.indices.shape[2] as u32,
        reserved: 0,
    };
    Ok((params, is_wide))
}

/// Blocks of keys of a query token at most.
fn max_blocks(problem: &SparseDecode) -> u32 {
    let topk = problem.scope.topk + problem.extra.as_ref().map_or(0, |extra| extra.topk);
    schedule::key_blocks(topk as u32)
}

/// How the grid covers the problem, whose numbers the kernels' 32-bit arithmetic must be able to carry.
/// Errors call the number of query tokens `queries`.
fn grid_shape(problem: &SparseDecode, queries: &str, multiprocessors: u32) -> Result<GridShape, Error> {
    let extra_topk = problem.extra.as_ref().map_or(0, |extra| extra.topk);
    let limits = [
        (queries, problem.batch.saturating_mul(problem.s_q), schedule::MAX_REQUESTS as usize),
        ("h_q", problem.h_q, i32::MAX as usize / TILE_ROWS as usize),
        ("topk", problem.scope.topk.saturating_add(extra_topk), i32::MAX as usize / 2),
    ];
    for (argument, found, limit) in limits {
        if found > limit {
            return Err(InvalidProblem::new(argument, found, format!("at most {limit}")).into());
        }
    }
    let work = (problem.batch * problem.s_q) as u64
        * (2 * u64::from(max_blocks(problem)) + u64::from(REQUEST_OVERHEAD) + 1);
    if work >= MAX_TOTAL_WORK {
        let found = format!("{} · {}", problem.batch * problem.s_q, max_blocks(problem));
        let argument = format!("{queries} · blocks of topk");
        return Err(InvalidProblem::new(&argument, found, "less than 2³⁰").into());
    }
    let shape = GridShape::new(1, problem.h_q as u32, NonZeroU32::MIN, multiprocessors);
    let partitions = shape.partitions.min(MAX_GRID_Y as u32);
    Ok(GridShape { partitions, ..shape })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvScopeShape;

    #[test]
    fn query_tokens_that_the_schedule_cannot_count_are_refused() {
        let problem = |batch| SparseDecode {
            batch,
            s_q: 2,
            h_q: 1,
            format: KvFormat::V32Fp8,
            scope: KvScopeShape { num_pages: 1, page_size: 64, topk: 1 },
            extra: None,
            softmax_scale: 1.0,
            inverse_rope: None,
        };
        let most = schedule::MAX_REQUESTS as usize / 2;
        for queries in ["batch · s_q", "s_q"] {
            assert!(grid_shape(&problem(most), queries, 132).is_ok());
            let error = grid_shape(&problem(most + 1), queries, 132).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{queries} is 67108864")), "{error}");
        }
    }
}
