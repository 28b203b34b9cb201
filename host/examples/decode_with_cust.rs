//! One dense decode step on a context, a stream and buffers of `cust`.
//!
//! ```text
//! CUDA_LIBRARY_PATH=/usr/local/cuda cargo run --release -p oximla --features cust --example decode_with_cust
//! ```
//!
//! All keys are the same, so that the answer is plain to see: the output is the value, and the lse of `n` equal logits
//! is `logit + ln n`.

use cust::memory::{CopyDestination, DeviceBuffer};
use cust::stream::{Stream as CustStream, StreamFlags};
use half::bf16;
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, KvFormat, Stream,
    TensorView, TensorViewMut, Workspace,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _context = cust::quick_init()?;
    let cust_stream = CustStream::new(StreamFlags::NON_BLOCKING, None)?;

    let (keys, scale, query, key) = (300, 1.0 / 24.0, 0.5_f32, 0.25_f32);
    let problem = DenseDecode {
        batch: 1,
        s_q: 1,
        h_q: 16,
        h_kv: 1,
        head_dim: 576,
        head_dim_v: 512,
        page_size: 64,
        num_pages: 5,
        max_pages: 5,
        softmax_scale: scale,
        causal: false,
    };
    let q = DeviceBuffer::from_slice(&vec![bf16::from_f32(query).to_bits(); 16 * 576])?;
    let kv_cache = DeviceBuffer::from_slice(&vec![bf16::from_f32(key).to_bits(); 5 * 64 * 576])?;
    let block_table = DeviceBuffer::from_slice(&[4, 2, 0, 1, 3])?;
    let cache_seqlens = DeviceBuffer::from_slice(&[keys])?;
    let mut out = DeviceBuffer::from_slice(&vec![0_u16; 16 * 512])?;
    let mut lse = DeviceBuffer::from_slice(&[0_f32; 16])?;

    // SAFETY: the context lives until the end of `main`.
    let device = unsafe { Device::cuda_current()? };
    let plan = DenseDecodePlan::new(&problem, KvFormat::Bf16, &device)?;
    let mut scratch = DeviceBuffer::from_slice(&vec![0_u8; plan.workspace_bytes()])?;

    let inputs: DenseDecodeInputs<'_, bf16> = DenseDecodeInputs {
        q: TensorView::from_cust("q", &q, [1, 1, 16, 576])?,
        kv_cache: TensorView::from_cust("kv_cache", &kv_cache, [5, 64, 1, 576])?,
        block_table: TensorView::from_cust("block_table", &block_table, [1, 5])?,
        cache_seqlens: TensorView::from_cust("cache_seqlens", &cache_seqlens, [1])?,
    };
    let mut outputs = DenseDecodeOutputs {
        out: TensorViewMut::from_cust("out", &mut out, [1, 1, 16, 512])?,
        lse: TensorViewMut::from_cust("lse", &mut lse, [1, 16, 1])?,
    };
    plan.run(&Stream::from(&cust_stream), &inputs, &mut outputs, &mut Workspace::from_cust(&mut scratch))?;
    cust_stream.synchronize()?;

    let (mut out_host, mut lse_host) = (vec![0_u16; 16 * 512], [0_f32; 16]);
    out.copy_to(&mut out_host)?;
    lse.copy_to(&mut lse_host)?;
    let expected_lse = query * key * 576.0 * scale + (keys as f32).ln();
    println!("{}: out[0] = {}, lse[0] = {}", plan.kernel(), bf16::from_bits(out_host[0]), lse_host[0]);
    println!("expected: {key}, {expected_lse}");
    let out_right = out_host.iter().all(|&bits| (bf16::from_bits(bits).to_f32() - key).abs() < 1e-2 * key);
    let lse_right = lse_host.iter().all(|lse| (lse - expected_lse).abs() < 1e-4 * expected_lse);
    if out_right && lse_right { Ok(()) } else { Err("the answer is wrong".into()) }
}
