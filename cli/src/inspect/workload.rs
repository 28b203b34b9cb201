//! What is run: the kernel that was asked for, on seeded data, in two sizes.

use clap::Args;
use half::{bf16, f16};
use oximla::case_file::{Case, DenseDecodeCase, HalfVec};
use oximla::{DenseDecode, Device, EmulatedOptions, Error, InvalidProblem, KvFormat};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, StandardNormal};

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
    /// Multiprocessors to divide the work among [default: 1; of combine: as many as the keys can be split over]
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

/// The kernels' sizes: keys of a block, query rows of a tile, rows that a CTA combines.
const BLOCK_KEYS: u32 = 64;
const TILE_ROWS: u32 = 64;
const HEAD_DIM: u32 = 576;
const HEAD_DIM_V: u32 = 512;

/// How the library cuts a batch into pieces: a request takes two units of the line and one a block, and a piece has at
/// least four units.
const REQUEST_OVERHEAD: u64 = 2;
const MIN_PIECE: u64 = 4;

/// How many units the second run has more, for each request.
const GROWTH: u64 = 4;

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
        let entries = Device::emulated(EmulatedOptions::default())?.info()?.kernels;
        let entries: Vec<&'static str> = entries.into_iter().map(|kernel| kernel.entry).collect();
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
            Operation::Combine => "one more partial result of each of a CTA's rows",
        }
    }

    /// CTAs that read the same keys, and so share what comes from memory.
    pub fn sharers(&self) -> u32 {
        match self.operation {
            Operation::DenseDecode => self.row_tiles() as u32,
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
    /// A column of a decode's grid computes all blocks of all requests for its rows; each CTA of the combination merges
    /// the partial results of one request.
    pub fn units(&self, run: &Run, [width, height]: [u32; 2]) -> f64 {
        let requests = match self.operation {
            Operation::DenseDecode => self.shape.batch,
            Operation::Combine => height,
        };
        run.units * f64::from(width) * f64::from(requests)
    }

    /// The smaller run and the larger.
    ///
    /// A decode gets more key blocks. The combination gets more partial results: blocks and multiprocessors grow
    /// together, which leaves the pieces' length what it was, and adds as many pieces to each request.
    pub fn runs(&self) -> [Run; 2] {
        let (partitions, piece) = (self.partitions(), self.piece());
        let (blocks, batch) = (self.blocks(), u64::from(self.shape.batch));
        [0, GROWTH].map(|more| {
            let (more_blocks, more_partitions, units) = match self.operation {
                Operation::DenseDecode => (more, 0, blocks + more),
                Operation::Combine => (more * piece, more * batch, more),
            };
            let splits: u64 = (0..batch).map(|request| self.splits(request)).sum();
            let before =
                if self.operation == Operation::Combine { splits as f64 / batch as f64 } else { 0.0 };
            let multiprocessors = match self.operation {
                Operation::DenseDecode => u64::from(self.shape.multiprocessors.unwrap_or(1)),
                Operation::Combine => self.columns() * (partitions + more_partitions),
            };
            let keys = u64::from(self.shape.keys) + more_blocks * u64::from(BLOCK_KEYS);
            Run {
                case: self.case(keys),
                multiprocessors: multiprocessors.min(u64::from(u32::MAX)) as u32,
                units: before + units as f64,
            }
        })
    }

    fn check(&self) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, .. } = self.shape;
        if !heads.is_multiple_of(kv_heads) {
            return Err(invalid("--heads", heads, format!("a multiple of --kv-heads {kv_heads}")));
        }
        let product =
            |factors: [u64; 4]| factors.into_iter().try_fold(1_u64, u64::checked_mul).unwrap_or(u64::MAX);
        let added = match self.operation {
            Operation::DenseDecode => GROWTH,
            Operation::Combine => GROWTH.saturating_mul(self.piece()),
        };
        let most_keys = u64::from(keys).saturating_add(added.saturating_mul(u64::from(BLOCK_KEYS)));
        let [batch, heads, kv_heads, queries] = [batch, heads, kv_heads, queries].map(u64::from);
        let sizes = [
            ("--batch · --queries · --heads · 576", product([batch, queries, heads, u64::from(HEAD_DIM)])),
            (
                "--batch · --keys · --kv-heads · 576",
                product([batch, most_keys, kv_heads, u64::from(HEAD_DIM)]),
            ),
        ];
        if let Some((name, elements)) = sizes.into_iter().find(|(_, elements)| *elements > MAX_ELEMENTS) {
            return Err(invalid(name, elements, format!("at most {MAX_ELEMENTS} in the emulator")));
        }
        let unsplit = || (0..batch).find(|request| self.splits(*request) < 2);
        if self.operation == Operation::Combine && (self.partitions() < 2 || unsplit().is_some()) {
            let needed = "enough keys and multiprocessors that every request is split: at least 3 blocks of 64 keys, and \
                          no --multiprocessors";
            return Err(invalid("--keys", keys, needed));
        }
        Ok(())
    }

    fn blocks(&self) -> u64 {
        u64::from(self.shape.keys.div_ceil(BLOCK_KEYS))
    }

    /// Tiles of the query rows that share a key/value head.
    fn row_tiles(&self) -> u64 {
        let rows = u64::from(self.shape.queries) * u64::from(self.shape.heads / self.shape.kv_heads);
        rows.div_ceil(u64::from(TILE_ROWS))
    }

    /// CTAs of a partition.
    fn columns(&self) -> u64 {
        self.row_tiles() * u64::from(self.shape.kv_heads)
    }

    fn total_work(&self) -> u64 {
        u64::from(self.shape.batch) * (REQUEST_OVERHEAD + self.blocks())
    }

    fn partitions(&self) -> u64 {
        match self.shape.multiprocessors {
            Some(multiprocessors) => (u64::from(multiprocessors) / self.columns()).max(1),
            None => self.total_work().div_ceil(MIN_PIECE),
        }
    }

    fn piece(&self) -> u64 {
        self.total_work().div_ceil(self.partitions()).max(MIN_PIECE)
    }

    /// Pieces that a request lies in.
    fn splits(&self, request: u64) -> u64 {
        let first = request * (REQUEST_OVERHEAD + self.blocks()) + REQUEST_OVERHEAD;
        (first + self.blocks() - 1) / self.piece() - first / self.piece() + 1
    }

    fn case(&self, keys: u64) -> Case {
        let Shape { batch, heads, kv_heads, queries, causal, seed, .. } = self.shape;
        let [batch, heads, kv_heads, queries] = [batch, heads, kv_heads, queries].map(|size| size as usize);
        let max_pages = keys.div_ceil(u64::from(BLOCK_KEYS)) as usize;
        let problem = DenseDecode {
            batch,
            s_q: queries,
            h_q: heads,
            h_kv: kv_heads,
            head_dim: HEAD_DIM as usize,
            head_dim_v: HEAD_DIM_V as usize,
            page_size: BLOCK_KEYS as usize,
            num_pages: batch * max_pages,
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
            block_table: (0..problem.num_pages as i32).collect(),
            cache_seqlens: vec![keys as i32; batch],
            problem,
            expected: None,
        })
    }
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
