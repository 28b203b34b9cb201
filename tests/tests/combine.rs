//! The combine kernels by themselves, on more partial results than a decode makes in a test's time.

use half::{bf16, f16};
use oximla_types::kernels::combine::{BF16, CombineParams};
use oximla_types::kernels::decode::{HEAD_DIM_V, PartialResults, PartialSide, SIDES, SplitRecord, side};
use oximla_types::kernels::sparse_decode::Divisor;
use oximla_types::launch::LaunchContract;
use oximla_types::layout::partial;
use oximla_types::schedule::EqualSplit;
use ptx_emulator::diagnostic::{Check, Diagnostic};
use ptx_emulator::{GlobalMemory, Launch, Module, Options, Report, launch};

const PTX: &str = include_str!("../../host/ptx/sm_90a.ptx");

/// Query heads, with one token each: pieces of four and of two of them leave a rest.
const ROWS: u32 = 7;

const COLUMNS: usize = HEAD_DIM_V as usize;

/// What lies in outputs that nobody writes.
const UNWRITTEN: f32 = 77.0;

/// Splits of some requests, in the order of their slots: so few that several rows are taken at once, one to many rounds, more
/// than a warp takes at once, and rows of one slice between those of several. Between them are requests that are not split,
/// more than are looked at together.
const SPLITS: [(usize, u32); 9] =
    [(0, 2), (1, 40), (2, 5), (3, 10), (4, 11), (127, 3), (128, 132), (131, 161), (132, 300)];

const BATCH: usize = 134;

/// Few enough that each takes several pieces, but not of each request: one that takes none of the last request looked at together
/// is ordered by no barrier before it looks at the next ones.
const CTAS: u32 = 9;

struct Partial {
    records: Vec<SplitRecord>,
    sides: Vec<[PartialSide; SIDES as usize]>,
    out: Vec<f16>,
}

impl Partial {
    fn lse(&self, row: usize) -> f32 {
        self.sides[row][0].lse
    }

    fn value(&self, row: usize, place: usize) -> f64 {
        let side = side(partial::column(place as u32)) as usize;
        f64::from(self.sides[row][side].scale) * f64::from(self.out[row * COLUMNS + place].to_f32())
    }
}

/// Every ninth split has no keys, and something that is no number where its output and its scales would be. The others have scales of
/// their own on each side.
fn partial() -> Partial {
    let mut records = vec![SplitRecord { first: 0, count: 1 }; BATCH];
    let mut slots = 0;
    for (request, count) in SPLITS {
        records[request] = SplitRecord { first: slots, count };
        slots += count;
    }
    // What a schedule of other lengths may have left.
    records[133] = SplitRecord { first: slots - 1, count: 2 };
    let rows = (slots * ROWS) as usize;
    let number = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9) as f32 / u32::MAX as f32;
    let is_empty = |row: usize| row / ROWS as usize % 9 == 4;
    let sides = (0..rows).map(|row| {
        let lse = if is_empty(row) { f32::NEG_INFINITY } else { 8.0 * number(row) - 300.0 };
        [1, 2].map(|i| {
            let scale = if is_empty(row) { f32::NAN } else { (0.5 + number(2 * row + i)) / 4096.0 };
            PartialSide { lse, scale }
        })
    });
    let out = (0..rows * COLUMNS)
        .map(|i| f16::from_f32(if is_empty(i / COLUMNS) { f32::NAN } else { 4096.0 * (number(i) - 0.25) }));
    Partial { records, sides: sides.collect(), out: out.collect() }
}

fn run(ptx: &str, kernel: &LaunchContract, partial: &Partial, seed: u64) -> (Report, Vec<bf16>, Vec<f32>) {
    let memory = GlobalMemory::new();
    let upload = |bytes: &[u8]| {
        let address = memory.allocate(bytes.len());
        memory.write(address, bytes).unwrap();
        address
    };
    let rows = BATCH * ROWS as usize;
    let (mut out, mut lse) = (vec![bf16::from_f32(UNWRITTEN); rows * COLUMNS], vec![UNWRITTEN; rows]);
    let params = CombineParams {
        partial: PartialResults {
            out: upload(bytemuck::cast_slice(&partial.out)),
            sides: upload(bytemuck::cast_slice(partial.sides.as_flattened())),
            splits: upload(bytemuck::cast_slice(&partial.records)),
        },
        out: upload(bytemuck::cast_slice(&out)),
        lse: upload(bytemuck::cast_slice(&lse)),
        out_strides: [(ROWS * HEAD_DIM_V).into(), 0, HEAD_DIM_V.into()],
        lse_strides: [ROWS.into(), 1, 1],
        batch: BATCH as u32,
        rows: Divisor::new(ROWS),
        group: Divisor::new(ROWS),
        total_rows: ROWS,
        slots: partial.sides.len() as u32 / ROWS,
        ctas: CTAS,
        attn_sink: 0,
        attn_sink_stride: 0,
        queries: Divisor::new(1),
        equal: EqualSplit::UNKNOWN,
        is_scheduled: 0,
    };
    let what = Launch {
        entry: kernel.entry,
        grid: [CTAS, 1, 1],
        block: [kernel.threads, 1, 1],
        cluster: [1; 3],
        shared_bytes: kernel.shared_bytes,
        parameters: &[bytemuck::bytes_of(&params)],
    };
    let module = Module::load(ptx).unwrap();
    let report = launch(&module, &memory, &what, &Options { seed, ..Options::default() }).unwrap();
    memory.read(params.out, bytemuck::cast_slice_mut(&mut out)).unwrap();
    memory.read(params.lse, bytemuck::cast_slice_mut(&mut lse)).unwrap();
    (report, out, lse)
}

#[test]
fn any_number_of_splits_is_combined() {
    check(&BF16.few);
    check(&BF16.many);
}

fn check(kernel: &LaunchContract) {
    let partial = partial();
    let (report, out, lse) = run(PTX, kernel, &partial, 0);
    assert!(report.diagnostics.is_empty(), "{}", report.diagnostics[0]);
    let rows = ROWS as usize;
    for request in 0..BATCH {
        let splits = SPLITS.iter().find(|(split, _)| *split == request);
        for row in 0..rows {
            let place = request * rows + row;
            let (out, lse) = (&out[place * COLUMNS..][..COLUMNS], lse[place]);
            let Some((_, count)) = splits else {
                assert!(lse == UNWRITTEN && out.iter().all(|x| x.to_f32() == UNWRITTEN), "{request}");
                continue;
            };
            let first = partial.records[request].first as usize;
            let parts = (first..first + *count as usize).map(|slot| slot * rows + row);
            let weights: Vec<(usize, f64)> = parts
                .filter(|&part| partial.lse(part) != f32::NEG_INFINITY)
                .map(|part| (part, f64::from(partial.lse(part)).exp2()))
                .collect();
            let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
            assert!((f64::from(lse) - sum.ln()).abs() < 1e-4, "{count} splits: {lse}, not {}", sum.ln());
            for place in 0..COLUMNS {
                let value = out[partial::column(place as u32) as usize];
                let term = |&(part, weight): &(usize, f64)| weight * partial.value(part, place);
                let expected = weights.iter().map(term).sum::<f64>() / sum;
                // Half a unit in the last place of a bf16, and a little for sums that end up near zero.
                let error = (f64::from(value.to_f32()) - expected).abs();
                assert!(error <= expected.abs() / 256.0 + 1e-5, "{count} splits: {value}, not {expected}");
            }
        }
    }
    let (_, again, _) = run(PTX, kernel, &partial, 1);
    assert_eq!(again, out, "the order of events shows");
}

/// For what requests are looked at, the lse of a round, the teams' sums, and the next requests.
#[test]
fn threads_must_meet_at_each_barrier() {
    check_barriers(&BF16.few);
    check_barriers(&BF16.many);
}

fn check_barriers(kernel: &LaunchContract) {
    let barriers = places(kernel, "bar.sync");
    assert_eq!(barriers.len(), 4);
    for barrier in barriers {
        let behind = barrier + PTX[barrier..].find('\n').unwrap();
        let ptx = [&PTX[..barrier], &PTX[behind..]].concat();
        let (report, ..) = run(&ptx, kernel, &partial(), 0);
        let is_race = |found: &Diagnostic| found.check == Check::DataRace;
        assert!(report.diagnostics.iter().any(is_race), "{barrier}: {:?}", report.diagnostics);
    }
}

/// Columns of neighbours, the sums of many splits, and what a warp counts together: none may keep its own.
#[test]
fn lanes_must_exchange_what_they_have() {
    let (partial, kernel) = (partial(), &BF16.many);
    let (_, out, lse) = run(PTX, kernel, &partial, 0);
    let sums = places(kernel, "shfl.sync.bfly").into_iter().map(|exchange| (exchange, ", 31,"));
    let counts = places(kernel, "shfl.sync.up").into_iter().map(|exchange| (exchange, ", 0,"));
    let exchanges: Vec<_> = sums.chain(counts).collect();
    assert!(
        exchanges.len() >= 10 + 6 + 5,
        "two sums over a warp, columns of four rows and of two, and a count"
    );
    for (exchange, behind) in exchanges {
        let end = exchange + PTX[exchange..].find(behind).unwrap();
        let mask = exchange + PTX[exchange..end].rfind(' ').unwrap();
        let ptx = [&PTX[..mask], " 0", &PTX[end..]].concat();
        let (report, own_out, own_lse) = run(&ptx, kernel, &partial, 0);
        let shows = !report.diagnostics.is_empty() || own_out != out || own_lse != lse;
        assert!(shows, "{} changes nothing", PTX[exchange..end].trim());
    }
}

/// Where a kernel's instructions that begin like this are in the PTX.
fn places(kernel: &LaunchContract, instruction: &str) -> Vec<usize> {
    let begin = PTX.find(&format!(".entry {}(", kernel.entry)).unwrap();
    let end = begin + PTX[begin..].find("\n}").unwrap();
    PTX[begin..end].match_indices(instruction).map(|(at, _)| begin + at).collect()
}
