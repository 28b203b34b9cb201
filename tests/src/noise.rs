//! Seeded random numbers.

use half::bf16;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Normal};

/// Keys are drawn from N(0, `KEY_SD`²).
pub const KEY_SD: f32 = 0.1;

/// Distinct places at which a row of noise can begin.
const WINDOWS: usize = 1 << 16;

/// Independent draws for one generated case.
#[derive(Debug)]
pub struct Noise(StdRng);

impl Noise {
    /// The draws that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `count` draws from N(0, `sd`²).
    pub fn normal(&mut self, sd: f32, count: usize) -> Vec<f32> {
        let normal = Normal::new(0.0, sd).expect("a finite standard deviation");
        normal.sample_iter(&mut self.0).take(count).collect()
    }

    /// `count` draws from N(0, `sd`²), rounded to bf16.
    pub fn bf16(&mut self, sd: f32, count: usize) -> Vec<bf16> {
        self.normal(sd, count).into_iter().map(bf16::from_f32).collect()
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// `0..count` in random order.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(&mut self.0);
        order
    }

    /// Attention sinks: ordinary logits, among them both infinities.
    pub fn sinks(&mut self, heads: usize) -> Vec<f32> {
        let ordinary = self.normal(1.0, heads);
        let infinite = [f32::INFINITY, f32::NEG_INFINITY];
        ordinary.into_iter().map(|sink| if self.one_in(3) { self.pick(&infinite) } else { sink }).collect()
    }
}

/// Rows of keys, cheap enough for caches of many megabytes: each row is a window into one stretch of noise.
#[derive(Debug)]
pub struct Rows<T> {
    stretch: Vec<T>,
    row_len: usize,
}

impl<T: Copy> Rows<T> {
    /// Rows of `row_len` elements of N(0, [`KEY_SD`]²), made by `convert`.
    pub fn new(noise: &mut Noise, row_len: usize, convert: impl Fn(f32) -> T) -> Self {
        let stretch = noise.normal(KEY_SD, WINDOWS + row_len).into_iter().map(convert).collect();
        Self { stretch, row_len }
    }

    /// A random row.
    pub fn draw(&self, noise: &mut Noise) -> &[T] {
        &self.stretch[noise.below(WINDOWS)..][..self.row_len]
    }
}
