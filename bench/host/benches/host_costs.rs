//! What a call costs the host: checking a problem, planning it, and the path to a launch, without a GPU.
//!
//! The device is emulated, so that plans and launches are a GPU's. `refused_at_the_end` is a call whose tensors are all
//! checked before its workspace turns out too small: all that the host does before it enqueues anything, and an error.
//! `run_empty_kernels` goes all the way, to kernels that return at once; most of it is the emulator's work.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use half::bf16;
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, DeviceBuffer,
    EmulatedOptions, Error, KvFormat, Stream, TensorView, TensorViewMut, Workspace,
};
use std::hint::black_box;

/// Requests of the batches.
const BATCHES: [usize; 2] = [1, 128];

/// The library's kernels.
const PTX: &str = include_str!("../../../host/ptx/sm_90a.ptx");

/// A token of each request, all heads, and a page of keys: what a call costs the host does not depend on the length.
fn problem(batch: usize) -> DenseDecode {
    DenseDecode {
        batch,
        s_q: 1,
        h_q: 128,
        h_kv: 1,
        head_dim: 576,
        head_dim_v: 512,
        page_size: 64,
        num_pages: batch,
        max_pages: 1,
        softmax_scale: 0.041_666_668, // 576^-½
        causal: false,
    }
}

/// A GPU of one multiprocessor whose kernels do nothing.
fn idle_gpu() -> Result<Device, Error> {
    let (mut ptx, mut depth) = (String::new(), 0_i32);
    for line in PTX.lines() {
        let before = depth;
        depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        match (before, depth) {
            (0, 0) => ptx.extend([line, "\n"]),
            (0, _) => ptx.push_str("{ ret; }\n"),
            _ => {}
        }
    }
    Device::emulated(EmulatedOptions { multiprocessors: 1, ptx: Some(ptx), ..EmulatedOptions::default() })
}

/// A plan and its tensors.
struct Call {
    plan: DenseDecodePlan,
    q: DeviceBuffer<bf16>,
    kv_cache: DeviceBuffer<bf16>,
    block_table: DeviceBuffer<i32>,
    cache_seqlens: DeviceBuffer<i32>,
    out: DeviceBuffer<bf16>,
    lse: DeviceBuffer<f32>,
    workspace: DeviceBuffer<u8>,
}

impl Call {
    fn new(batch: usize, device: &Device) -> Result<Self, Error> {
        let plan = DenseDecodePlan::new(&problem(batch), KvFormat::Bf16, device)?;
        Ok(Self {
            q: DeviceBuffer::uninit(device, batch * 128 * 576)?,
            kv_cache: DeviceBuffer::uninit(device, batch * 64 * 576)?,
            block_table: DeviceBuffer::uninit(device, batch)?,
            cache_seqlens: DeviceBuffer::uninit(device, batch)?,
            out: DeviceBuffer::uninit(device, batch * 128 * 512)?,
            lse: DeviceBuffer::uninit(device, batch * 128)?,
            workspace: DeviceBuffer::uninit(device, plan.workspace_bytes())?,
            plan,
        })
    }

    /// Runs the plan, with or without its workspace.
    fn run(&mut self, has_workspace: bool) -> Result<(), Error> {
        let batch = self.plan.problem().batch;
        let inputs = DenseDecodeInputs {
            q: TensorView::from_buffer("q", &self.q, [batch, 1, 128, 576])?,
            kv_cache: TensorView::from_buffer("kv_cache", &self.kv_cache, [batch, 64, 1, 576])?,
            block_table: TensorView::from_buffer("block_table", &self.block_table, [batch, 1])?,
            cache_seqlens: TensorView::from_buffer("cache_seqlens", &self.cache_seqlens, [batch])?,
        };
        let mut outputs = DenseDecodeOutputs {
            out: TensorViewMut::from_buffer("out", &mut self.out, [batch, 1, 128, 512])?,
            lse: TensorViewMut::from_buffer("lse", &mut self.lse, [batch, 128, 1])?,
        };
        let mut workspace =
            if has_workspace { Workspace::from_buffer(&mut self.workspace) } else { Workspace::none() };
        self.plan.run(&Stream::emulated(), &inputs, &mut outputs, &mut workspace)
    }
}

fn host_costs(criterion: &mut Criterion) {
    let device = idle_gpu().expect("a module of empty kernels");
    let mut group = criterion.benchmark_group("host_costs");
    for batch in BATCHES {
        let problem = problem(batch);
        group.bench_function(BenchmarkId::new("validate", batch), |bencher| {
            bencher.iter(|| black_box(&problem).validate().expect("a valid problem"));
        });
        group.bench_function(BenchmarkId::new("plan", batch), |bencher| {
            bencher.iter(|| {
                DenseDecodePlan::new(black_box(&problem), KvFormat::Bf16, &device).expect("a valid problem")
            });
        });
        let mut call = Call::new(batch, &device).expect("memory for a small problem");
        group.bench_function(BenchmarkId::new("refused_at_the_end", batch), |bencher| {
            bencher.iter(|| call.run(false).expect_err("no workspace"));
        });
        group.bench_function(BenchmarkId::new("run_empty_kernels", batch), |bencher| {
            bencher.iter(|| call.run(true).expect("kernels that return"));
        });
    }
    group.finish();
}

criterion_group!(benches, host_costs);
criterion_main!(benches);
