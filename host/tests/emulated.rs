//! The emulated driver: memory, modules, launches, and what is said when something is wrong.

use half::bf16;
use oximla::ptx_emulator::diagnostic::Check;
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Device, DeviceBuffer,
    EmulatedOptions, EmulatedReports, Error, KvFormat, Stream, TensorView, TensorViewMut, Workspace,
};
use oximla_types::kernels::combine::{self, CombineParams};
use oximla_types::kernels::dense_decode::DenseDecodeParams;
use oximla_types::kernels::inverse_rope::InverseRopeParams;
use oximla_types::kernels::kv_gather::KvGatherParams;
use oximla_types::kernels::kv_insert::KvInsertParams;
use oximla_types::kernels::merge_states::MergeStatesParams;
use oximla_types::kernels::sparse_decode::SparseDecodeParams;
use oximla_types::kernels::sparse_prefill::SparsePrefillParams;
use oximla_types::kernels::topk_to_slots::TopkToSlotsParams;

/// The entries and the bytes of their parameters.
const ENTRIES: [(&str, usize); 38] = [
    ("dense_decode_sm90_bf16", size_of::<DenseDecodeParams>()),
    ("dense_decode_sm90_fp16", size_of::<DenseDecodeParams>()),
    ("dense_decode_d512_sm90_bf16", size_of::<DenseDecodeParams>()),
    ("dense_decode_d512_sm90_fp16", size_of::<DenseDecodeParams>()),
    ("dense_decode_fused_sm90_bf16", size_of::<DenseDecodeParams>()),
    ("dense_decode_fused_sm90_fp16", size_of::<DenseDecodeParams>()),
    ("dense_decode_d512_fused_sm90_bf16", size_of::<DenseDecodeParams>()),
    ("dense_decode_d512_fused_sm90_fp16", size_of::<DenseDecodeParams>()),
    ("dense_decode_schedule", size_of::<DenseDecodeParams>()),
    ("sparse_decode_v32_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_model1_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_v32_cluster_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_model1_cluster_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_v32_fused_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_model1_fused_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_v32_few_heads_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_decode_model1_few_heads_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_prefill_sm90_bf16", size_of::<SparsePrefillParams>()),
    ("sparse_prefill_d512_sm90_bf16", size_of::<SparsePrefillParams>()),
    ("sparse_prefill_v32_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_prefill_model1_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_prefill_v32_cluster_sm90", size_of::<SparseDecodeParams>()),
    ("sparse_prefill_model1_cluster_sm90", size_of::<SparseDecodeParams>()),
    ("combine_bf16", size_of::<CombineParams>()),
    ("combine_fp16", size_of::<CombineParams>()),
    ("combine_rows_bf16", size_of::<CombineParams>()),
    ("combine_rows_fp16", size_of::<CombineParams>()),
    ("merge_states_bf16", size_of::<MergeStatesParams>()),
    ("merge_states_fp16", size_of::<MergeStatesParams>()),
    ("merge_states_f32", size_of::<MergeStatesParams>()),
    ("inverse_rope_bf16", size_of::<InverseRopeParams>()),
    ("inverse_rope_fp16", size_of::<InverseRopeParams>()),
    ("inverse_rope_f32", size_of::<InverseRopeParams>()),
    ("kv_insert_v32", size_of::<KvInsertParams>()),
    ("kv_insert_model1", size_of::<KvInsertParams>()),
    ("kv_gather_v32", size_of::<KvGatherParams>()),
    ("kv_gather_model1", size_of::<KvGatherParams>()),
    ("topk_to_slots", size_of::<TopkToSlotsParams>()),
];

fn emulated() -> Device {
    Device::emulated(EmulatedOptions::default()).unwrap()
}

/// A module whose entries all have the same body.
fn module(entries: &[(&str, usize)], body: &str) -> String {
    let entry = |(name, bytes): &(&str, usize)| {
        format!(".visible .entry {name}(\n .param .align 64 .b8 {name}_param_0[{bytes}]\n)\n{{\n{body}\n}}\n")
    };
    let header = ".version 8.7\n.target sm_90a\n.address_size 64\n";
    std::iter::once(header.to_string()).chain(entries.iter().map(entry)).collect()
}

/// Requests of 130 and 0 keys. All keys are the same, so that each output is the value, and the lse of `n` equal logits
/// is `logit + ln n`.
struct Decode {
    plan: DenseDecodePlan,
    q: DeviceBuffer<bf16>,
    kv_cache: DeviceBuffer<bf16>,
    block_table: DeviceBuffer<i32>,
    cache_seqlens: DeviceBuffer<i32>,
    out: DeviceBuffer<bf16>,
    lse: DeviceBuffer<f32>,
    workspace: DeviceBuffer<u8>,
}

const KEYS: i32 = 130;
const SCALE: f32 = 1.0 / 24.0;
const QUERY: f32 = 0.5;
const KEY: f32 = 0.25;

impl Decode {
    fn new(device: &Device) -> Self {
        let problem = DenseDecode {
            batch: 2,
            s_q: 1,
            h_q: 16,
            h_kv: 1,
            head_dim: 576,
            head_dim_v: 512,
            page_size: 64,
            num_pages: 3,
            max_pages: 3,
            softmax_scale: SCALE,
            causal: false,
        };
        let plan = DenseDecodePlan::new(&problem, KvFormat::Bf16, device).unwrap();
        let halves =
            |value, len| DeviceBuffer::from_slice(device, &vec![bf16::from_f32(value); len]).unwrap();
        Self {
            q: halves(QUERY, 2 * 16 * 576),
            kv_cache: halves(KEY, 3 * 64 * 576),
            block_table: DeviceBuffer::from_slice(device, &[2, 0, 1, -1, -1, -1]).unwrap(),
            cache_seqlens: DeviceBuffer::from_slice(device, &[KEYS, 0]).unwrap(),
            out: DeviceBuffer::uninit(device, 2 * 16 * 512).unwrap(),
            lse: DeviceBuffer::uninit(device, 2 * 16).unwrap(),
            workspace: DeviceBuffer::uninit(device, plan.workspace_bytes()).unwrap(),
            plan,
        }
    }

    fn run(&mut self, stream: Stream) -> Result<(), Error> {
        let inputs = DenseDecodeInputs {
            q: TensorView::from_buffer("q", &self.q, [2, 1, 16, 576])?,
            kv_cache: TensorView::from_buffer("kv_cache", &self.kv_cache, [3, 64, 1, 576])?,
            block_table: TensorView::from_buffer("block_table", &self.block_table, [2, 3])?,
            cache_seqlens: TensorView::from_buffer("cache_seqlens", &self.cache_seqlens, [2])?,
        };
        let mut outputs = DenseDecodeOutputs {
            out: TensorViewMut::from_buffer("out", &mut self.out, [2, 1, 16, 512])?,
            lse: TensorViewMut::from_buffer("lse", &mut self.lse, [2, 16, 1])?,
        };
        self.plan.run(&stream, &inputs, &mut outputs, &mut Workspace::from_buffer(&mut self.workspace))
    }
}

#[test]
fn buffers_keep_what_is_written() {
    let device = emulated();
    let mut numbers = DeviceBuffer::from_slice(&device, &[1, -2, 3]).unwrap();
    let halves = DeviceBuffer::from_slice(&device, &[bf16::from_f32(1.5); 5]).unwrap();
    assert_eq!(numbers.to_vec().unwrap(), [1, -2, 3]);
    numbers.copy_from_slice(&[4, 5, 6]).unwrap();
    assert_eq!(numbers.to_vec().unwrap(), [4, 5, 6]);
    assert_eq!(halves.to_vec().unwrap(), [bf16::from_f32(1.5); 5]);
    assert_eq!(DeviceBuffer::<f32>::uninit(&device, 7).unwrap().to_vec().unwrap().len(), 7);

    let empty = DeviceBuffer::<u8>::from_slice(&device, &[]).unwrap();
    assert_eq!((empty.len(), empty.is_empty(), empty.address()), (0, true, 0));
    assert!(empty.to_vec().unwrap().is_empty());
}

#[test]
fn buffers_that_cannot_be_are_refused() {
    let device = emulated();
    let mut buffer = DeviceBuffer::from_slice(&device, &[0.0_f32; 3]).unwrap();
    let why = buffer.copy_from_slice(&[1.0; 2]).unwrap_err();
    assert_eq!(why.to_string(), "data is 2 elements; needed is 3 elements, as the buffer has");
    let why = DeviceBuffer::<f32>::uninit(&device, usize::MAX / 4).unwrap_err();
    assert!(matches!(&why, Error::InvalidProblem(why) if why.argument == "len"), "{why}");
    let why = DeviceBuffer::<f32>::uninit(&device, 1 << 60).unwrap_err();
    assert!(matches!(why, Error::Driver { call: "allocate", .. }), "{why}");
    let why = TensorView::from_buffer("q", &buffer, [2, 2]).unwrap_err();
    assert_eq!(why.argument, "q");
}

#[test]
fn options_are_checked() {
    for multiprocessors in [0, 65_536] {
        let options = EmulatedOptions { multiprocessors, ..EmulatedOptions::default() };
        let why = Device::emulated(options).unwrap_err();
        let expected = format!("multiprocessors is {multiprocessors}; needed is in 1..=65535");
        assert_eq!(why.to_string(), expected);
    }
}

#[test]
fn it_is_a_hopper_gpu() {
    let device = emulated();
    let (info, kernels) = (device.info().unwrap(), device.kernels().unwrap());
    assert_eq!((info.backend, info.name.as_str()), ("emulated", "emulated sm_90a"));
    assert_eq!((info.units, info.compute_capability, info.driver), (132, Some((9, 0)), None));
    assert!(kernels.iter().map(|kernel| kernel.entry).eq(ENTRIES.map(|(name, _)| name)));
    // 65,536 registers for the 640 threads of a dense decode, in multiples of 8.
    assert_eq!((kernels[0].threads, kernels[0].registers), (640, 96));
    assert!(kernels.iter().all(|kernel| kernel.registers >= 80 && kernel.local_bytes == 0));
}

#[test]
fn host_memory_is_refused() {
    let mut decode = Decode::new(&emulated());
    let q = vec![bf16::ZERO; 2 * 16 * 576];
    let inputs = DenseDecodeInputs {
        q: TensorView::from_slice("q", &q, [2, 1, 16, 576]).unwrap(),
        kv_cache: TensorView::from_buffer("kv_cache", &decode.kv_cache, [3, 64, 1, 576]).unwrap(),
        block_table: TensorView::from_buffer("block_table", &decode.block_table, [2, 3]).unwrap(),
        cache_seqlens: TensorView::from_buffer("cache_seqlens", &decode.cache_seqlens, [2]).unwrap(),
    };
    let mut outputs = DenseDecodeOutputs {
        out: TensorViewMut::from_buffer("out", &mut decode.out, [2, 1, 16, 512]).unwrap(),
        lse: TensorViewMut::from_buffer("lse", &mut decode.lse, [2, 16, 1]).unwrap(),
    };
    let mut workspace = Workspace::from_buffer(&mut decode.workspace);
    let why = decode.plan.run(&Stream::emulated(), &inputs, &mut outputs, &mut workspace).unwrap_err();
    assert_eq!(why.to_string(), "q is in host memory; needed is in device memory");

    let inputs =
        DenseDecodeInputs { q: TensorView::from_buffer("q", &decode.q, [2, 1, 16, 576]).unwrap(), ..inputs };
    let mut scratch = vec![0.0; decode.plan.workspace_bytes()];
    let mut workspace = Workspace::from_slice(&mut scratch);
    let why = decode.plan.run(&Stream::emulated(), &inputs, &mut outputs, &mut workspace).unwrap_err();
    assert_eq!(why.to_string(), "workspace is in host memory; needed is in device memory");
}

#[test]
fn streams_of_another_device_are_refused() {
    let why = Decode::new(&emulated()).run(Stream::host()).unwrap_err();
    let expected = "stream is the CPU's; needed is the emulated GPU's, as the plan is for one";
    assert_eq!(why.to_string(), expected);
}

#[cfg(feature = "cpu")]
#[test]
fn the_cpu_takes_neither_buffers_nor_the_emulated_stream() {
    let why = DeviceBuffer::from_slice(&Device::cpu(), &[0]).unwrap_err();
    assert!(matches!(why, Error::Unsupported { what: "a device buffer", .. }), "{why}");

    let mut decode = Decode::new(&emulated());
    decode.plan = DenseDecodePlan::new(decode.plan.problem(), KvFormat::Bf16, &Device::cpu()).unwrap();
    let why = decode.run(Stream::emulated()).unwrap_err();
    let expected = "stream is the emulated GPU's; needed is the CPU's, as the plan is for the CPU";
    assert_eq!(why.to_string(), expected);
    let why = decode.run(Stream::host()).unwrap_err();
    assert_eq!(why.to_string(), "q is in device memory; needed is in host memory");
}

#[test]
fn the_kernels_compute() {
    // Twelve multiprocessors are too few for a cluster that combines by itself.
    for (multiprocessors, launched) in [
        (12, &[("dense_decode_sm90_bf16", [1, 12]), ("combine_bf16", [combine::ctas(2, 16, 12), 1])][..]),
        (132, &[("dense_decode_fused_sm90_bf16", [1, 2 * 16])]),
    ] {
        let reports = EmulatedReports::default();
        let options = EmulatedOptions {
            multiprocessors,
            reports: Some(reports.clone()),
            profile: true,
            ..Default::default()
        };
        let mut decode = Decode::new(&Device::emulated(options).unwrap());
        decode.run(Stream::emulated()).unwrap();

        let (out, lse) = (decode.out.to_vec().unwrap(), decode.lse.to_vec().unwrap());
        let (expected_out, expected_lse) = (KEY, QUERY * KEY * 576.0 * SCALE + (KEYS as f32).ln());
        assert!(out[..16 * 512].iter().all(|x| (x.to_f32() - expected_out).abs() < 2e-3 * expected_out));
        assert!(lse[..16].iter().all(|x| (x - expected_lse).abs() < 1e-4 * expected_lse), "{lse:?}");
        assert!(out[16 * 512..].iter().all(|&x| x == bf16::ZERO));
        assert!(lse[16..].iter().all(|&x| x == f32::INFINITY));

        let launches = reports.take();
        assert!(launches.iter().map(|launch| (launch.entry, launch.grid)).eq(launched.iter().copied()));
        for launch in &launches {
            assert!(launch.report.diagnostics.is_empty());
            assert!(!launch.report.profile.instructions.is_empty(), "{}", launch.entry);
        }
        assert!(reports.take().is_empty());
    }
}

#[test]
fn findings_are_errors() {
    let reports = EmulatedReports::default();
    let options = EmulatedOptions {
        ptx: Some(module(&ENTRIES, "trap;\nret;")),
        reports: Some(reports.clone()),
        ..EmulatedOptions::default()
    };
    let why = Decode::new(&Device::emulated(options).unwrap()).run(Stream::emulated()).unwrap_err();
    let Error::Emulated { kernel, diagnostics } = &why else { panic!("{why}") };
    assert_eq!(*kernel, "dense_decode_fused_sm90_bf16");
    assert!(diagnostics.iter().any(|diagnostic| diagnostic.check == Check::Trap));
    let text = why.to_string();
    let first = format!("dense_decode_fused_sm90_bf16: {} finding", diagnostics.len());
    assert!(text.starts_with(&first), "{text}");
    assert!(diagnostics.iter().all(|diagnostic| text.contains(&format!("\n{diagnostic}"))), "{text}");

    let launches = reports.take();
    assert_eq!(launches.len(), 1, "nothing is launched after a finding");
    assert_eq!(launches[0].report.diagnostics, *diagnostics);
}

#[test]
fn modules_must_have_every_entry() {
    let ptx = Some(module(&ENTRIES[1..], "ret;"));
    let why = Device::emulated(EmulatedOptions { ptx, ..Default::default() }).unwrap_err();
    assert!(matches!(why, Error::Unsupported { what: "dense_decode_sm90_bf16", .. }), "{why}");
}

#[test]
fn modules_must_be_ptx() {
    let ptx = Some(module(&ENTRIES, "mov.u33 %r1, %r2;\nret;"));
    let why = Device::emulated(EmulatedOptions { ptx, ..Default::default() }).unwrap_err();
    assert!(matches!(&why, Error::Driver { call: "Module::load", .. }), "{why}");
}
