//! What is run: the kernel that was asked for, on seeded data, in two sizes.

use clap::Args;
use half::{bf16, f16};
use oximla::case_file::{Case, DenseDecodeCase, HalfVec};
use oximla::{DenseDecode, Determinism, Device, EmulatedOptions, Error, InvalidProblem, KvFormat};
use oximla_types::kernels::combine;
use oximla_types::kernels::decode::{FUSED_CTAS, GridShape, HEAD_DIM_V};
use oximla_types::kernels::dense_decode::{HEAD_DIM, MAX_FUSED_BLOCKS};
use oximla_types::schedule::{self, BLOCK_KEYS, MIN_PAYLOAD, SplitKv};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};
use std::num::NonZeroU32;

/// The problem.
#[derive(Args, Clone, Debug)]
pub struct Shape {
    /// Requests
    #[arg(long, default_value_t = 1, value_parser = positive())]
    pub batch: u32,
    /// Query heads
    #[arg(long, default_value_t = 64, value_parser = positive())]
    pub heads: u32,
    /// Key/value heads
    #[arg(long, default_value_t = 1, value_parser = positive())]
    pub kv_heads: u32,
    /// Query tokens of a request
    #[arg(long, default_value_t = 1, value_parser = positive())]
    pub queries: u32,
    /// Keys of a request
    #[arg(long, default_value_t = 256, value_parser = positive())]
    pub keys: u32,
    /// Format of queries and keys: bf16 (the default) or fp16
    #[arg(long, value_parser = ["bf16", "fp16"])]
    pub format: Option<String>,
    /// Query i of n sees all but the last n - i - 1 keys
    #[arg(long)]
    pub causal: bool,
    /// Seed of the data and of the order in which warps proceed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Multiprocessors to divide the work among [default: 1; of combine: as many as the keys can be split over, or its rows need to be few]
    #[arg(long, value_parser = positive())]
    pub multiprocessors: Option<u32>,
}

fn positive() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// What a kernel is a part of, and what its work grows with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    DenseDecode,
    Combine,
}

const OPERATIONS: [(&str, Operation); 2] =
    [("dense_decode", Operation::DenseDecode), ("combine", Operation::Combine)];

const FORMATS: [(&str, KvFormat); 2] = [("bf16", KvFormat::Bf16), ("fp16", KvFormat::Fp16)];

/// How many units the second run has more, for each request.
const GROWTH: u32 = 4;

/// Elements of the largest tensor: 256 MiB.
const MAX_ELEMENTS: u64 = 1 << 27;

/// Spread of the keys, so that some matter more than others.
const KEY_SD: f32 = 0.5;

/// A kernel with a problem that runs it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The kernel.
    pub entry: &'static str,
    operation: Operation,
    format: KvFormat,
    shape: Shape,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// The problem, with data.
    pub case: Case,
    /// Multiprocessors of the emulated GPU.
    pub multiprocessors: u32,
    /// Units of work of a request, on average.
    pub units: f64,
}

impl Workload {
    /// Finds the kernel by the name of an entry or of an operation.
    ///
    /// # Errors
    /// [`InvalidProblem`] for a name that there is not, and for shapes that the kernel cannot have or that are too large
    /// to be emulated.
    pub fn new(kernel: &str, shape: &Shape) -> Result<Self, Error> {
        let entries = Device::emulated(EmulatedOptions::default())?.kernels()?;
        // How many rows the kernels for many take at a time follows from the splits, and fused kernels combine as many as there are blocks,
        // so that their work does not grow with either evenly.
        let grows_evenly = |entry: &str| !entry.starts_with("combine_rows") && !entry.contains("_fused_");
        let of_format =
            |entry: &&str| FORMATS.iter().any(|(name, _)| entry.ends_with(name)) && grows_evenly(entry);
        let entries: Vec<&'static str> =
            entries.into_iter().map(|kernel| kernel.entry).filter(of_format).collect();
        let wanted = shape.format.as_deref();
        let named = |entry: &str| entry == kernel;
        let of_operation = |entry: &str| {
            OPERATIONS.iter().any(|(name, _)| *name == kernel)
                && entry.starts_with(kernel)
                && entry.ends_with(wanted.unwrap_or(FORMATS[0].0))
        };
        let entry = entries.iter().copied().find(|entry| named(entry) || of_operation(entry));
        let operation = |entry: &str| OPERATIONS.iter().find(|(name, _)| entry.starts_with(name));
        let Some((entry, (_, operation))) = entry.and_then(|entry| Some((entry, operation(entry)?))) else {
            let operations = OPERATIONS.iter().map(|(name, _)| *name);
            let known = entries.iter().copied().filter(|entry| operation(entry).is_some());
            let names: Vec<&str> = operations.chain(known).collect();
            return Err(invalid("KERNEL", kernel, format!("one of {}", names.join(", "))));
        };
        let format = FORMATS.into_iter().find(|(name, _)| entry.ends_with(name));
        let (name, format) = format.unwrap_or(FORMATS[0]);
        if wanted.is_some_and(|wanted| wanted != name) {
            return Err(invalid("--format", wanted.unwrap_or_default(), format!("{name}, as {entry} has")));
        }
        let workload = Self { entry, operation: *operation, format, shape: shape.clone() };
        workload.check()?;
        Ok(workload)
    }

    /// What the kernel's work grows with.
    pub fn unit(&self) -> &'static str {
        match self.operation {
            Operation::DenseDecode => "block",
            Operation::Combine => "split",
        }
    }

    /// What a unit is.
    pub fn unit_description(&self) -> &'static str {
        match self.operation {
            Operation::DenseDecode => "64 keys of one CTA",
            Operation::Combine => "one more partial result of a row",
        }
    }

    /// CTAs of a cluster. Each fetches a part of what all of them get.
    pub fn cluster(&self) -> u32 {
        match self.operation {
            Operation::DenseDecode => self.grid(1).cluster(),
            Operation::Combine => 1,
        }
    }

    /// Clusters that read the same keys, and so share what comes from memory.
    pub fn sharers(&self) -> u32 {
        match self.operation {
            Operation::DenseDecode => self.grid(1).row_tiles / self.cluster(),
            Operation::Combine => 1,
        }
    }

    /// The problem in words.
    pub fn description(&self) -> String {
        let Shape { batch, heads, kv_heads, queries, keys, causal, .. } = self.shape;
        let causal = if causal { ", causal" } else { "" };
        format!(
            "b {batch}, s_q {queries}, h_q {heads}, h_kv {kv_heads}, {}, {keys} keys{causal}",
            self.format
        )
    }

    /// Units of work that all CTAs of a run did together.
    ///
    /// A column of a decode's grid computes all blocks of all requests for its rows; the combination merges the partial
    /// results of every row of every request.
    pub fn units(&self, run: &Run, [width, _]: [u32; 2]) -> f64 {
        let columns = match self.operation {
            Operation::DenseDecode => width,
            Operation::Combine => self.grid(run.multiprocessors).total_rows,
        };
        run.units * f64::from(columns) * f64::from(self.shape.batch)
    }

    /// The smaller run and the larger.
    ///
    /// A decode gets more key blocks. The combination gets more partial results: blocks and multiprocessors grow
    /// together, which leaves the pieces' length what it was, and adds as many pieces to each request.
    pub fn runs(&self) -> [Run; 2] {
        [0, GROWTH].map(|growth| {
            let (keys, multiprocessors) = self.size(growth);
            let blocks = schedule::key_blocks(keys);
            let units = match self.operation {
                Operation::DenseDecode => f64::from(blocks),
                Operation::Combine => mean(&self.splits(blocks, multiprocessors)),
            };
            Run { case: self.case(keys), multiprocessors, units }
        })
    }

    fn check(&self) -> Result<(), Error> {
        let Shape { heads, kv_heads, keys, .. } = self.shape;
        if !heads.is_multiple_of(kv_heads) {
            return Err(invalid("--heads", heads, format!("a multiple of --kv-heads {kv_heads}")));
        }
        self.check_elements(keys)?;
        self.check_elements(self.size(GROWTH).0)?;
        if self.operation == Operation::Combine {
            let least = self.least_multiprocessors();
            if let Some(found) = self.shape.multiprocessors.filter(|&found| found < least) {
                let needed =
                    format!("at least {least}: on fewer, so many rows are combined by another kernel");
                return Err(invalid("--multiprocessors", found, needed));
            }
            let [few, many] = [0, GROWTH].map(|growth| {
                let (keys, multiprocessors) = self.size(growth);
                self.splits(schedule::key_blocks(keys), multiprocessors)
            });
            if few.iter().chain(&many).any(|splits| *splits < 2) || mean(&few) >= mean(&many) {
                let needed = "enough keys and multiprocessors that every request is split: at least 3 blocks of 64 keys, \
                              and no --multiprocessors";
                return Err(invalid("--keys", keys, needed));
            }
        }
        Ok(())
    }

    /// Checks that requests of `keys` keys are not too many elements to be emulated.
    fn check_elements(&self, keys: u32) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, .. } = self.shape;
        let product = |factors: [u32; 4]| {
            factors.into_iter().map(u64::from).try_fold(1, u64::checked_mul).unwrap_or(u64::MAX)
        };
        let sizes = [
            ("--batch · --queries · --heads · 576", product([batch, queries, heads, HEAD_DIM])),
            ("--batch · --keys · --kv-heads · 576", product([batch, keys, kv_heads, HEAD_DIM])),
        ];
        match sizes.into_iter().find(|(_, elements)| *elements > MAX_ELEMENTS) {
            Some((name, elements)) => {
                Err(invalid(name, elements, format!("at most {MAX_ELEMENTS} in the emulator")))
            }
            None => Ok(()),
        }
    }

    /// Keys of a request and multiprocessors, where each request has `growth` units more than was asked for.
    fn size(&self, growth: u32) -> (u32, u32) {
        let Shape { batch, keys, multiprocessors, .. } = self.shape;
        match (self.operation, multiprocessors) {
            (Operation::DenseDecode, _) => (keys + growth * BLOCK_KEYS, multiprocessors.unwrap_or(1)),
            // As many partitions as there can be pieces of the larger run.
            (Operation::Combine, None) => {
                let blocks = schedule::key_blocks(keys) + GROWTH * MIN_PAYLOAD.get();
                let pieces = (batch * Determinism::RunToRun.request_work(blocks)).div_ceil(MIN_PAYLOAD.get());
                let multiprocessors =
                    self.grid(1).columns.saturating_mul(pieces).max(self.least_multiprocessors());
                (keys + growth * MIN_PAYLOAD.get() * BLOCK_KEYS, multiprocessors)
            }
            (Operation::Combine, Some(multiprocessors)) => {
                let GridShape { columns, partitions, .. } = self.grid(multiprocessors);
                let piece = self.division(schedule::key_blocks(keys), partitions).payload();
                (keys + growth * piece * BLOCK_KEYS, columns.saturating_mul(partitions + growth * batch))
            }
        }
    }

    /// Multiprocessors on which the problem's rows are few enough for the kernel that combines few.
    fn least_multiprocessors(&self) -> u32 {
        let rows = u64::from(self.shape.batch) * u64::from(self.grid(1).total_rows);
        u32::try_from(rows.div_ceil(combine::few_rows(1))).unwrap_or(u32::MAX)
    }

    fn grid(&self, multiprocessors: u32) -> GridShape {
        let Shape { heads, kv_heads, queries, .. } = self.shape;
        let kv_heads = NonZeroU32::new(kv_heads).unwrap_or(NonZeroU32::MIN);
        GridShape::new(queries, heads, kv_heads, multiprocessors)
    }

    /// How requests of `blocks` blocks are divided.
    fn division(&self, blocks: u32, partitions: u32) -> SplitKv {
        let (batch, determinism) = (self.shape.batch, Determinism::RunToRun);
        let longest = determinism.request_work(blocks);
        let total = batch * longest;
        SplitKv::new(
            schedule::Workload {
                chunk_slots: determinism.chunk_slots(blocks),
                total,
                longest,
                min_payload: MIN_PAYLOAD.get(),
                batch,
            },
            partitions,
        )
    }

    /// Partial results of each request.
    fn splits(&self, blocks: u32, multiprocessors: u32) -> Vec<u32> {
        let split = self.division(blocks, self.grid(multiprocessors).partitions);
        let start = |request: u32| request * split.request_work(blocks);
        (0..self.shape.batch).map(|request| split.splits(request, start(request), blocks).count).collect()
    }

    fn case(&self, keys: u32) -> Case {
        let Shape { batch, heads, kv_heads, queries, causal, seed, .. } = self.shape;
        let [batch, heads, kv_heads, queries] = [batch, heads, kv_heads, queries].map(|size| size as usize);
        let pages = schedule::key_blocks(keys) as usize;
        // More than a cluster would combine, however many multiprocessors there are.
        let max_pages = pages.max((FUSED_CTAS * MAX_FUSED_BLOCKS) as usize + 1);
        let table = (0..batch * pages).flat_map(|page| {
            let unused = if (page + 1) % pages == 0 { max_pages - pages } else { 0 };
            std::iter::once(page as i32).chain(std::iter::repeat_n(0, unused))
        });
        let problem = DenseDecode {
            batch,
            s_q: queries,
            h_q: heads,
            h_kv: kv_heads,
            head_dim: HEAD_DIM as usize,
            head_dim_v: HEAD_DIM_V as usize,
            page_size: BLOCK_KEYS as usize,
            num_pages: batch * pages,
            max_pages,
            softmax_scale: (HEAD_DIM as f32).sqrt().recip(),
            causal,
        };
        let mut random = StdRng::seed_from_u64(seed);
        let q = batch * queries * heads * HEAD_DIM as usize;
        let cache = problem.num_pages * BLOCK_KEYS as usize * kv_heads * HEAD_DIM as usize;
        Case::DenseDecode(DenseDecodeCase {
            q: normal(&mut random, self.format, 1.0, q),
            kv_cache: normal(&mut random, self.format, KEY_SD, cache),
            block_table: table.collect(),
            cache_seqlens: vec![keys as i32; batch],
            problem,
            expected: None,
        })
    }
}

fn mean(counts: &[u32]) -> f64 {
    counts.iter().map(|&count| f64::from(count)).sum::<f64>() / counts.len() as f64
}

fn normal(random: &mut StdRng, format: KvFormat, sd: f32, count: usize) -> HalfVec {
    let values = StandardNormal.sample_iter(random).take(count).map(|value: f32| value * sd);
    match format {
        KvFormat::Fp16 => HalfVec::Fp16(values.map(f16::from_f32).collect()),
        _ => HalfVec::Bf16(values.map(bf16::from_f32).collect()),
    }
}

fn invalid(argument: &str, found: impl ToString, needed: impl ToString) -> Error {
    let (argument, found, needed) = (argument.to_owned(), found.to_string(), needed.to_string());
    InvalidProblem { argument, found, needed }.into()
}
