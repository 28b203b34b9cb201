//! Decodes whose requests were divided beforehand.

use half::bf16;
use oximla::case_file::{Expected, HalfVec};
use oximla::{
    DenseDecode, DenseDecodeInputs, DenseDecodeOutputs, DenseDecodePlan, Determinism, Device, DeviceBuffer,
    EmulatedOptions, Error, KvFormat, Stream, TensorView, TensorViewMut, Workspace,
};
use oximla_conformance::backend::Backend;
use oximla_conformance::dense_decode::{Settings, Spec, run_with};

const MODES: [Determinism; 2] = [Determinism::RunToRun, Determinism::BatchInvariant];

fn bits(answer: &Expected) -> Vec<u32> {
    [&answer.out, &answer.lse].into_iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn a_schedule_changes_no_bit() {
    let spec = Spec { lengths: vec![70, 0, 1100, 130], h_q: 4, score_sd: 1.0, ..Spec::default() };
    let case = spec.case();
    for backend in Backend::all() {
        for determinism in MODES {
            let run = |scheduled| {
                let settings = Settings { determinism, scheduled, ..Settings::default() };
                bits(&run_with(&backend, &case, settings).unwrap())
            };
            assert!(run(true) == run(false), "{}, {determinism:?}", backend.name());
        }
    }
}

/// Lengths that have changed since do not count.
#[test]
fn a_schedule_keeps_the_lengths() {
    let case = Spec { lengths: vec![1100, 0, 130, 70], h_q: 4, ..Spec::default() }.case();
    let problem = &case.problem;
    let (HalfVec::Bf16(q), HalfVec::Bf16(kv_cache)) = (&case.q, &case.kv_cache) else {
        panic!("the default format")
    };
    let lengths = [[1100, 0, 130, 70], [70, 1100, 0, 0], [1, 1, 1, 1], [1100; 4], [0, 0, 0, 1100]];
    let options = EmulatedOptions { multiprocessors: 12, races: false, ..EmulatedOptions::default() };
    let device = Device::emulated(options).unwrap();
    let upload = |elements: &[bf16]| DeviceBuffer::from_slice(&device, elements).unwrap();
    let (q, kv_cache) = (upload(q), upload(kv_cache));
    // Every request may have all of the pages.
    let pages = case.block_table[..problem.max_pages - 2].iter().chain(&[0, 0]).copied();
    let table: Vec<i32> = (0..problem.batch).flat_map(|_| pages.clone()).collect();
    let block_table = DeviceBuffer::from_slice(&device, &table).unwrap();
    for determinism in MODES {
        let builder = DenseDecodePlan::builder(problem, KvFormat::Bf16).determinism(determinism);
        let plan = builder.build(&device).unwrap();
        // With the lengths of a schedule, if there is one, and those that the run is given.
        let run = |scheduled: Option<[i32; 4]>, given: [i32; 4]| {
            // Written, so that only where accesses go matters: as records of splits, they name slots that there are not.
            let trap = 200_u32.to_ne_bytes().repeat(plan.workspace_bytes().div_ceil(4));
            let mut workspace = DeviceBuffer::from_slice(&device, &trap).unwrap();
            let mut memory = DeviceBuffer::<u8>::uninit(&device, plan.schedule_bytes()).unwrap();
            let rows = problem.batch * problem.h_q;
            let mut out = DeviceBuffer::<bf16>::uninit(&device, rows * problem.head_dim_v).unwrap();
            let mut lse = DeviceBuffer::<f32>::uninit(&device, rows).unwrap();

            let stream = Stream::emulated();
            let lengths = scheduled.map(|lengths| DeviceBuffer::from_slice(&device, &lengths).unwrap());
            let schedule = lengths.as_ref().map(|lengths| {
                let view = TensorView::from_buffer("cache_seqlens", lengths, [problem.batch]).unwrap();
                plan.schedule(&stream, &view, Workspace::from_buffer(&mut memory)).unwrap()
            });
            let given = DeviceBuffer::from_slice(&device, &given).unwrap();
            let DenseDecode { batch, h_q, num_pages, max_pages, .. } = *problem;
            let inputs = DenseDecodeInputs {
                q: TensorView::from_buffer("q", &q, [batch, 1, h_q, 576]).unwrap(),
                kv_cache: TensorView::from_buffer("kv_cache", &kv_cache, [num_pages, 64, 1, 576]).unwrap(),
                block_table: TensorView::from_buffer("block_table", &block_table, [batch, max_pages])
                    .unwrap(),
                cache_seqlens: TensorView::from_buffer("cache_seqlens", &given, [batch]).unwrap(),
            };
            let mut outputs = DenseDecodeOutputs {
                out: TensorViewMut::from_buffer("out", &mut out, [batch, 1, h_q, 512]).unwrap(),
                lse: TensorViewMut::from_buffer("lse", &mut lse, [batch, h_q, 1]).unwrap(),
            };
            let mut workspace = Workspace::from_buffer(&mut workspace);
            match &schedule {
                // Both read it before the launches before them have ended.
                Some(schedule) => (0..2).try_for_each(|_| {
                    plan.run_scheduled(&stream, schedule, &inputs, &mut outputs, &mut workspace)
                }),
                None => plan.run(&stream, &inputs, &mut outputs, &mut workspace),
            }
            .unwrap_or_else(|why| panic!("{determinism:?}, {scheduled:?}, {given:?}: {why}"));
            let lse: Vec<u32> = lse.to_vec().unwrap().into_iter().map(f32::to_bits).collect();
            (out.to_vec().unwrap(), lse)
        };
        for (index, &then) in lengths.iter().enumerate() {
            let fresh = run(None, then);
            for now in [lengths[(index + 1) % 5], lengths[(index + 3) % 5]] {
                assert!(run(Some(then), now) == fresh, "{determinism:?}, from {then:?} to {now:?}");
            }
        }
    }
}

#[test]
fn schedules_that_do_not_fit_are_refused() {
    let problem = Spec { h_q: 4, ..Spec::default() }.case().problem;
    let device = Backend::emulated().device;
    let plan = |problem: &DenseDecode, determinism| {
        DenseDecodePlan::builder(problem, KvFormat::Bf16).determinism(determinism).build(&device).unwrap()
    };
    let own = plan(&problem, Determinism::RunToRun);
    let seqlens = DeviceBuffer::from_slice(&device, &[5]).unwrap();
    let view = TensorView::from_buffer("cache_seqlens", &seqlens, [1]).unwrap();
    let mut places = DeviceBuffer::<u8>::uninit(&device, own.schedule_bytes()).unwrap();
    let names = |why: Error| match why {
        Error::InvalidProblem(why) => why.argument,
        other => panic!("{other}"),
    };

    let mut small = DeviceBuffer::<u8>::uninit(&device, own.schedule_bytes() - 1).unwrap();
    let why = own.schedule(&Stream::emulated(), &view, Workspace::from_buffer(&mut small)).unwrap_err();
    assert_eq!(names(why), "schedule");

    let wider = DenseDecode { max_pages: problem.max_pages + 1, ..problem.clone() };
    for other in [plan(&problem, Determinism::BatchInvariant), plan(&wider, Determinism::RunToRun)] {
        let memory = Workspace::from_buffer(&mut places);
        let schedule = own.schedule(&Stream::emulated(), &view, memory).unwrap();
        let (q, kv) = (vec![bf16::ZERO; 4 * 576], vec![bf16::ZERO; problem.num_pages * 64 * 576]);
        let (table, mut out, mut lse) =
            (vec![0; other.problem().max_pages], vec![bf16::ZERO; 4 * 512], [0.0; 4]);
        let inputs = DenseDecodeInputs {
            q: TensorView::from_slice("q", &q, [1, 1, 4, 576]).unwrap(),
            kv_cache: TensorView::from_slice("kv_cache", &kv, [problem.num_pages, 64, 1, 576]).unwrap(),
            block_table: TensorView::from_slice("block_table", &table, [1, table.len()]).unwrap(),
            cache_seqlens: view,
        };
        let mut outputs = DenseDecodeOutputs {
            out: TensorViewMut::from_slice("out", &mut out, [1, 1, 4, 512]).unwrap(),
            lse: TensorViewMut::from_slice("lse", &mut lse, [1, 4, 1]).unwrap(),
        };
        let (stream, mut workspace) = (Stream::emulated(), Workspace::none());
        let why = other.run_scheduled(&stream, &schedule, &inputs, &mut outputs, &mut workspace).unwrap_err();
        assert_eq!(names(why), "schedule");
    }
}
