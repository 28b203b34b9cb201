//! Generated insertions into FP8 caches, their answers, and how to run them.

use half::bf16;
use oximla::{Error, KvInsert, KvInsertInputs, KvInsertPlan};
use oximla_reference::Fp8Format;

use crate::backend::Backend;
use crate::noise::Noise;
use crate::paged_cache::CacheLayout;
use crate::strided::{Input, Trap, Views};

/// Elements that every format's tiles are multiples of.
const TILE: usize = 64;

/// RoPE elements of a token.
const ROPE_DIM: usize = 64;

/// An insertion to generate.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Format of the cache.
    pub format: Fp8Format,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Tokens to insert.
    pub tokens: usize,
    /// One in this many tokens goes nowhere.
    pub one_skipped_in: usize,
    /// Of the random numbers.
    pub seed: u64,
}

/// Tokens, and where they go.
#[derive(Clone, Debug)]
pub struct InsertCase {
    /// Format of the cache.
    pub format: Fp8Format,
    /// Pages in the cache.
    pub num_pages: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// `[tokens, head_dim]`
    pub tokens: Vec<bf16>,
    /// `[tokens]`
    pub slots: Vec<i64>,
}

impl Spec {
    /// The tokens: tiles of all magnitudes, zeros, infinities, NaN and values between codes among them. Slots are distinct.
    pub fn case(&self) -> InsertCase {
        let mut noise = Noise::new(self.seed);
        let count = self.num_pages * self.page_size;
        let mut free = noise.permutation(count).into_iter();
        let slot = |_| match free.next() {
            Some(slot) if !noise.one_in(self.one_skipped_in) => slot as i64,
            _ => no_slot(&mut noise, count),
        };
        let slots = (0..self.tokens).map(slot).collect();
        let tiles = self.tokens * self.format.head_dim() / TILE;
        let tokens = (0..tiles).flat_map(|_| tile(&mut noise)).collect();
        let &Self { format, num_pages, page_size, .. } = self;
        InsertCase { format, num_pages, page_size, tokens, slots }
    }
}

/// A number that names no slot of `count`, the lower half of some would.
fn no_slot(noise: &mut Noise, count: usize) -> i64 {
    let count = count as i64;
    noise.pick(&[-1, i64::MIN, i64::MAX, count, count + 1, -123_456, 1 << 32, -(1 << 32), 1 << 31, i64::TRAP])
}

/// A tile's worth of elements.
fn tile(noise: &mut Noise) -> Vec<bf16> {
    let exponent = noise.below(40) as f32 - 20.0;
    match noise.below(8) {
        0 => vec![
            noise.pick(&[bf16::ZERO, bf16::NEG_ZERO, bf16::MIN_POSITIVE_SUBNORMAL, bf16::MIN_POSITIVE]);
            TILE
        ],
        // Not finite, which spoils the tile.
        1 => {
            let mut tile = noise.bf16(1.0, TILE);
            tile[noise.below(TILE)] = noise.pick(&[bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY]);
            tile
        }
        // The largest magnitude is just what the scale allows, or next to it, and many are halfway between codes.
        2 | 3 => {
            let amax = noise.pick(&[446.0, 448.0, 450.0]);
            let mut tile: Vec<bf16> = (0..TILE)
                .map(|_| noise.below(64) as f32 * noise.pick(&[-3.5, 0.5, 1.0, 7.0]))
                .map(|x| bf16::from_f32(x * exponent.exp2()))
                .collect();
            tile[noise.below(TILE)] = bf16::from_f32(amax * exponent.exp2());
            tile
        }
        4 => vec![noise.pick(&[bf16::MAX, bf16::MIN]); TILE],
        // Magnitudes far apart.
        5 => {
            let magnitudes = noise.normal(8.0, TILE);
            noise
                .bf16(1.0, TILE)
                .iter()
                .zip(magnitudes)
                .map(|(x, m)| bf16::from_f32(x.to_f32() * m.exp2()))
                .collect()
        }
        _ => noise.bf16(exponent.exp2(), TILE),
    }
}

/// What the buffer of a cache of that layout, full of traps at first, holds afterwards.
pub fn answer(case: &InsertCase, layout: &CacheLayout) -> Vec<u8> {
    let mut buffer = layout.buffer();
    let insert = oximla_reference::KvInsert {
        format: case.format,
        num_pages: case.num_pages,
        page_size: case.page_size,
        page_stride: layout.page_stride,
        tokens: &case.tokens,
        slots: &case.slots,
    };
    insert.run(&mut buffer[layout.offset..]);
    buffer
}

/// Inserts into a cache of that layout, full of traps at first. Returns its buffer.
///
/// # Errors
/// What planning or running says; the cache was untouched then.
pub fn run(
    backend: &Backend,
    case: &InsertCase,
    layout: &CacheLayout,
    views: Views,
) -> Result<Vec<u8>, Error> {
    let tokens = case.slots.len();
    let problem =
        KvInsert { format: layout.kv_format(), num_pages: case.num_pages, page_size: case.page_size, tokens };
    let plan = KvInsertPlan::new(&problem, &backend.device)?;
    let head_dim = case.format.head_dim();
    let nope_dim = head_dim - ROPE_DIM;
    let part = |range: std::ops::Range<usize>| -> Vec<bf16> {
        case.tokens.chunks(head_dim).flat_map(|token| &token[range.clone()]).copied().collect()
    };
    let latent = Input::new(backend, &part(0..nope_dim), [tokens, nope_dim], views);
    let rope = Input::new(backend, &part(nope_dim..head_dim), [tokens, ROPE_DIM], views);
    let slots = Input::new(backend, &case.slots, [tokens], views);
    let mut buffer = backend.upload(layout.buffer());
    let inputs = KvInsertInputs { latent: latent.view(), rope: rope.view(), slot_mapping: slots.view() };
    if let Err(why) = plan.run(&backend.stream(), &inputs, &mut layout.view_mut(&mut buffer)) {
        assert_eq!(buffer.download(), layout.buffer(), "the cache touched by a run that failed: {why}");
        return Err(why);
    }
    Ok(buffer.download())
}
