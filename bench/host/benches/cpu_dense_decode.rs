//! Speed of dense decode on the CPU: one request with all its heads against a long cache, on one thread and on all.
//!
//! Criterion's "elements" are floating-point operations: read `Gelem/s` as GFLOP/s.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, Error, KvFormat, Stream,
    TensorView, TensorViewMut, Workspace,
};
use rayon::ThreadPoolBuilder;

/// DeepSeek-V3's attention: a token of one request, all heads.
const PROBLEM: DenseDecode = DenseDecode {
    batch: 1,
    s_q: 1,
    h_q: 128,
    h_kv: 1,
    head_dim: 576,
    head_dim_v: 512,
    page_size: 64,
    num_pages: 64,
    max_pages: 64,
    softmax_scale: 0.041_666_668, // 576^-½
    causal: false,
};

/// Keys of the request: the cache is full.
const KEYS: usize = PROBLEM.max_pages * PROBLEM.page_size;

/// The problem's tensors in host memory.
struct Tensors {
    q: Vec<bf16>,
    kv_cache: Vec<bf16>,
    block_table: Vec<i32>,
    cache_seqlens: Vec<i32>,
    out: Vec<bf16>,
    lse: Vec<f32>,
    workspace: Vec<f32>,
}

impl Tensors {
    fn new(workspace_bytes: usize) -> Self {
        let tokens = PROBLEM.batch * PROBLEM.s_q * PROBLEM.h_q;
        let cached = PROBLEM.num_pages * PROBLEM.page_size * PROBLEM.h_kv;
        Self {
            q: evenly_spread(tokens * PROBLEM.head_dim),
            kv_cache: evenly_spread(cached * PROBLEM.head_dim),
            block_table: (0..PROBLEM.max_pages as i32).rev().collect(),
            cache_seqlens: vec![KEYS as i32; PROBLEM.batch],
            out: vec![bf16::ZERO; tokens * PROBLEM.head_dim_v],
            lse: vec![0.0; tokens],
            workspace: vec![0.0; workspace_bytes.div_ceil(size_of::<f32>())],
        }
    }

    fn run(&mut self, plan: &DenseDecodePlan) -> Result<(), Error> {
        let DenseDecode { batch, s_q, h_q, h_kv, head_dim, head_dim_v, .. } = PROBLEM;
        let DenseDecode { page_size, num_pages, max_pages, .. } = PROBLEM;
        let kv_shape = [num_pages, page_size, h_kv, head_dim];
        let inputs = DenseDecodeInputs {
            q: TensorView::from_slice("q", &self.q, [batch, s_q, h_q, head_dim])?,
            kv_cache: TensorView::from_slice("kv_cache", &self.kv_cache, kv_shape)?,
            block_table: TensorView::from_slice("block_table", &self.block_table, [batch, max_pages])?,
            cache_seqlens: TensorView::from_slice("cache_seqlens", &self.cache_seqlens, [batch])?,
        };
        let mut outputs = DenseDecodeOutputs {
            out: TensorViewMut::from_slice("out", &mut self.out, [batch, s_q, h_q, head_dim_v])?,
            lse: TensorViewMut::from_slice("lse", &mut self.lse, [batch, h_q, s_q])?,
        };
        plan.run(&Stream::host(), &inputs, &mut outputs, &mut Workspace::from_slice(&mut self.workspace))
    }
}

fn dense_decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("cpu_dense_decode/h{}_k{KEYS}", PROBLEM.h_q));
    group.throughput(Throughput::Elements(PROBLEM.flop(KEYS) as u64));
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut thread_counts = vec![1, all];
    thread_counts.dedup();
    for threads in thread_counts {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
        group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
            // Plans look at the pool they are made in.
            pool.install(|| {
                let plan =
                    DenseDecodePlan::new(&PROBLEM, KvFormat::Bf16, &Device::cpu()).expect("a valid problem");
                let mut tensors = Tensors::new(plan.workspace_bytes());
                bencher.iter(|| tensors.run(&plan).expect("valid tensors"));
            });
        });
    }
    group.finish();
}

/// Numbers in −1..1, a fixed low-discrepancy sequence.
fn evenly_spread(len: usize) -> Vec<bf16> {
    const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;
    (0..len).map(|index| bf16::from_f64(2.0 * (index as f64 * GOLDEN_RATIO).fract() - 1.0)).collect()
}

criterion_group!(benches, dense_decode);
criterion_main!(benches);
