//! Seeded decode steps in the shape of DeepSeek V3.2's attention.
//!
//! The data are made to show mistakes: requests of different lengths, pages in random order, and everything that no
//! query may see set to NaN or to numbers far outside the cache.

use half::bf16;
use oximla::case_file::{Case, DenseDecodeCase, HalfVec, ScopeCase, SparseDecodeCase};
use oximla::{DenseDecode, KvFormat, KvScopeShape, SparseDecode};
use oximla_reference::v32;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Normal};

use crate::pipeline::Pipeline;

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Requests.
    pub batch: usize,
    /// Keys of a request, on average.
    pub keys: usize,
}

impl Size {
    /// Seconds of work, reference included, for two processor cores.
    pub const CPU: Self = Self { batch: 4, keys: 4096 };
    /// Enough to fill a large GPU.
    pub const GPU: Self = Self { batch: 128, keys: 4096 };
    /// Seconds of work for the emulator.
    pub const EMULATED: Self = Self { batch: 2, keys: 512 };

    /// The size that suits a backend.
    pub fn of(backend: &str) -> Self {
        match backend {
            "cpu" => Self::CPU,
            "emulated" => Self::EMULATED,
            _ => Self::GPU,
        }
    }
}

const H_Q: usize = 128;
const HEAD_DIM: usize = v32::HEAD_DIM;
const HEAD_DIM_V: usize = 512;
const PAGE_SIZE: usize = 64;
const TOPK: usize = 2048;

/// Elements of a query before its head absorbed the key projection: the scale is made for these.
const QK_HEAD_DIM: f64 = 192.0;
/// How far YaRN stretches the context, and how much it sharpens attention in turn (DeepSeek V3.2's configuration).
const ROPE_FACTOR: f64 = 40.0;
const MSCALE: f64 = 0.1;

/// Spread of queries and keys. Scaled scores then have a standard deviation of 1.6: some hundred of 4096 keys matter.
const Q_SD: f32 = 1.0;
const KEY_SD: f32 = 0.5;

/// Different keys. Caches repeat them in random order: drawing every element anew would take most of the time.
const DISTINCT_KEYS: usize = 4096;
/// Pages that belong to no request.
const SPARE_PAGES: usize = 2;
/// Page-table entries that no request needs.
const SPARE_ENTRIES: usize = 2;

/// Outside every cache, and not a value that code would treat as a mark.
const FAR_OUTSIDE: i32 = 2_147_480_000;
/// Fills gaps in index lists.
const NO_KEY: i32 = -1;
/// NaN as e4m3, and a byte of NaN as f32 and as bf16.
const NAN_BYTE: u8 = 0xff;

/// A dense decode step over a bf16 cache.
pub fn dense_decode(size: Size, seed: u64) -> Case {
    let mut random = Random::new(seed);
    let pages = Pages::new(size, &mut random);
    let keys = random.bf16(KEY_SD, DISTINCT_KEYS * HEAD_DIM);

    let mut kv_cache = vec![bf16::NAN; pages.count * PAGE_SIZE * HEAD_DIM];
    for slot in pages.slots() {
        copy_row(&mut kv_cache, slot, &keys, random.below(DISTINCT_KEYS), HEAD_DIM);
    }

    let problem = DenseDecode {
        batch: size.batch,
        s_q: 1,
        h_q: H_Q,
        h_kv: 1,
        head_dim: HEAD_DIM,
        head_dim_v: HEAD_DIM_V,
        page_size: PAGE_SIZE,
        num_pages: pages.count,
        max_pages: pages.table_width,
        softmax_scale: softmax_scale(),
        causal: false,
    };
    Case::DenseDecode(DenseDecodeCase {
        problem,
        q: HalfVec::Bf16(random.bf16(Q_SD, size.batch * H_Q * HEAD_DIM)),
        kv_cache: HalfVec::Bf16(kv_cache),
        block_table: pages.table(),
        cache_seqlens: pages.lengths.iter().map(|&len| number(len)).collect(),
        expected: None,
    })
}

/// A sparse decode step over an FP8 cache, and what the cache and the indices are made from: each query has its own selection
/// of its request's keys, and only those are in the cache.
pub fn sparse_pipeline(size: Size, seed: u64) -> Pipeline {
    let mut random = Random::new(seed);
    let pages = Pages::new(size, &mut random);
    let format = KvFormat::V32Fp8;
    let keys = random.bf16(KEY_SD, DISTINCT_KEYS * HEAD_DIM);
    let quantised = v32::quantise_page(&keys);

    let mut kv_cache = vec![NAN_BYTE; pages.count * PAGE_SIZE * v32::TOKEN_BYTES];
    let (mut latent, mut rope, mut slot_mapping) = (Vec::new(), Vec::new(), Vec::new());
    let (mut indices, mut positions) = (Vec::new(), Vec::new());
    for request in 0..size.batch {
        let slots: Vec<usize> = pages.slots_of(request).collect();
        let mut order: Vec<usize> = (0..slots.len()).collect();
        let (selected, _) = order.partial_shuffle(&mut random.0, TOPK);
        let mut list = vec![(NO_KEY, NO_KEY); TOPK];
        for (entry, &mut position) in list.iter_mut().zip(selected) {
            let (slot, key) = (slots[position], random.below(DISTINCT_KEYS));
            copy_row(&mut kv_cache, slot, &quantised, key, v32::TOKEN_BYTES);
            let (nope, rotary) = keys[key * HEAD_DIM..][..HEAD_DIM].split_at(HEAD_DIM_V);
            latent.extend_from_slice(nope);
            rope.extend_from_slice(rotary);
            slot_mapping.push(i64::from(number(slot)));
            *entry = (number(slot), number(position));
        }
        list.shuffle(&mut random.0);
        indices.extend(list.iter().map(|(slot, _)| slot));
        positions.extend(list.iter().map(|(_, position)| position));
    }

    let scope = KvScopeShape { num_pages: pages.count, page_size: PAGE_SIZE, topk: TOPK };
    let problem = SparseDecode {
        batch: size.batch,
        s_q: 1,
        h_q: H_Q,
        format,
        scope,
        extra: None,
        softmax_scale: softmax_scale(),
        inverse_rope: None,
    };
    let case = SparseDecodeCase {
        problem,
        q: random.bf16(Q_SD, size.batch * H_Q * HEAD_DIM),
        scope: ScopeCase { shape: scope, kv_cache, indices, topk_length: None },
        extra: None,
        attn_sink: None,
        inverse_rope: None,
        expected: None,
    };
    Pipeline {
        case,
        untouched: NAN_BYTE,
        latent,
        rope,
        slot_mapping,
        positions,
        page_table: pages.table(),
        seqlens: pages.lengths.iter().map(|&len| number(len)).collect(),
    }
}

/// `QK_HEAD_DIM^-0.5 · mscale²`, with `mscale = MSCALE · ln ROPE_FACTOR + 1`.
fn softmax_scale() -> f32 {
    let mscale = MSCALE * ROPE_FACTOR.ln() + 1.0;
    (mscale * mscale / QK_HEAD_DIM.sqrt()) as f32
}

/// Which request owns which pages.
#[derive(Debug)]
struct Pages {
    /// Keys of each request.
    lengths: Vec<usize>,
    /// Pages of each request.
    owned: Vec<Vec<usize>>,
    /// Pages in the cache.
    count: usize,
    table_width: usize,
}

impl Pages {
    fn new(size: Size, random: &mut Random) -> Self {
        let lengths: Vec<usize> = (0..size.batch).map(|request| length(request, size.keys)).collect();
        let pages_of = |len: &usize| len.div_ceil(PAGE_SIZE);
        let count = lengths.iter().map(pages_of).sum::<usize>() + SPARE_PAGES;
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut random.0);
        let mut order = order.into_iter();
        let owned: Vec<Vec<usize>> =
            lengths.iter().map(|len| order.by_ref().take(pages_of(len)).collect()).collect();
        let table_width = owned.iter().map(Vec::len).max().unwrap_or(0) + SPARE_ENTRIES;
        Self { lengths, owned, count, table_width }
    }

    /// Slots of a request's keys, `page · PAGE_SIZE + offset`.
    fn slots_of(&self, request: usize) -> impl Iterator<Item = usize> {
        let slots =
            self.owned[request].iter().flat_map(|page| (0..PAGE_SIZE).map(move |at| page * PAGE_SIZE + at));
        slots.take(self.lengths[request])
    }

    /// Slots of all keys.
    fn slots(&self) -> impl Iterator<Item = usize> {
        (0..self.lengths.len()).flat_map(|request| self.slots_of(request))
    }

    /// The page table `[batch, table_width]`.
    fn table(&self) -> Vec<i32> {
        let padded = |pages: &Vec<usize>| {
            let mut row: Vec<i32> = pages.iter().map(|&page| number(page)).collect();
            row.resize(self.table_width, FAR_OUTSIDE);
            row
        };
        self.owned.iter().flat_map(padded).collect()
    }
}

/// Keys of a request: from half of `keys` to one and a half.
fn length(request: usize, keys: usize) -> usize {
    /// Prime, so that requests spread over the range.
    const STEP: usize = 7919;
    (keys / 2 + request * STEP % keys).max(1)
}

fn copy_row<T: Copy>(to: &mut [T], to_row: usize, from: &[T], from_row: usize, len: usize) {
    to[to_row * len..][..len].copy_from_slice(&from[from_row * len..][..len]);
}

fn number(value: usize) -> i32 {
    i32::try_from(value).expect("sizes are constants of this file")
}

struct Random(StdRng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    fn bf16(&mut self, sd: f32, count: usize) -> Vec<bf16> {
        let normal = Normal::new(0.0, sd).expect("a finite standard deviation");
        normal.sample_iter(&mut self.0).take(count).map(bf16::from_f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { batch: 3, keys: 3000 };

    fn dense(seed: u64) -> DenseDecodeCase {
        let Case::DenseDecode(case) = dense_decode(SMALL, seed) else { unreachable!("asked for dense") };
        case
    }

    #[test]
    fn the_scale_is_deepseeks() {
        assert!((softmax_scale() - 0.135_233_8).abs() < 1e-7, "{}", softmax_scale());
    }

    #[test]
    fn a_seed_stands_for_its_data() {
        let bits = |case: DenseDecodeCase| match case.q {
            HalfVec::Bf16(q) => q.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            HalfVec::Fp16(_) => Vec::new(),
        };
        assert_eq!(bits(dense(1)), bits(dense(1)));
        assert_ne!(bits(dense(1)), bits(dense(2)));
    }

    #[test]
    fn exactly_the_keys_in_use_are_numbers() {
        let case = dense(1);
        let HalfVec::Bf16(kv_cache) = &case.kv_cache else { panic!("bf16 was asked for") };
        let mut used = vec![false; case.problem.num_pages * PAGE_SIZE];
        for (row, &len) in case.block_table.chunks(case.problem.max_pages).zip(&case.cache_seqlens) {
            for position in 0..len as usize {
                let slot = row[position / PAGE_SIZE] as usize * PAGE_SIZE + position % PAGE_SIZE;
                assert!(!used[slot], "no two requests share a key");
                used[slot] = true;
            }
            assert!(row[(len as usize).div_ceil(PAGE_SIZE)..].iter().all(|&entry| entry == FAR_OUTSIDE));
        }
        assert!(case.cache_seqlens.iter().all(|len| (1500..4500).contains(len)));
        for (key, used) in kv_cache.chunks(HEAD_DIM).zip(used) {
            assert!(key.iter().all(|x| x.is_finite() == used));
        }
    }

    #[test]
    fn exactly_the_selected_tokens_are_numbers() {
        let case = sparse_pipeline(SMALL, 1).case;
        let mut selected = vec![false; case.problem.scope.num_pages * PAGE_SIZE];
        for list in case.scope.indices.chunks(TOPK) {
            for &index in list.iter().filter(|&&index| index != NO_KEY) {
                assert!(!selected[index as usize], "a key is selected once");
                selected[index as usize] = true;
            }
        }
        assert!(selected.iter().filter(|&&s| s).count() > 2 * TOPK);
        assert!(case.scope.indices.contains(&NO_KEY), "the first request is shorter than topk");
        for (token, selected) in case.scope.kv_cache.chunks(v32::TOKEN_BYTES).zip(selected) {
            let key = v32::dequantise_token(token);
            assert!(key.iter().all(|x| x.is_finite() == selected));
        }
    }
}
