//! Random inputs like those of other programs' benchmarks.

use half::bf16;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Normal};
use rayon::prelude::*;

/// Standard deviation of queries and keys.
const SPREAD: f32 = 0.1;

/// Elements that one generator draws.
const CHUNK: usize = 1 << 16;

/// Draws the order of pages.
const TABLE_SEED: u64 = 1 << 32;

/// `len` normally distributed elements, drawn on all threads; the same ones every time.
pub fn normal(len: usize) -> Vec<bf16> {
    let distribution = Normal::new(0.0, SPREAD).expect("a finite standard deviation");
    let mut elements = vec![bf16::ZERO; len];
    elements.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, elements)| {
        let draws = distribution.sample_iter(StdRng::seed_from_u64(chunk as u64));
        for (element, draw) in elements.iter_mut().zip(draws) {
            *element = bf16::from_f32(draw);
        }
    });
    elements
}

/// Every page once, in random order: the page table `[batch, max_pages]`.
pub fn block_table(num_pages: usize) -> Vec<i32> {
    let mut pages: Vec<i32> = (0..).take(num_pages).collect();
    pages.shuffle(&mut StdRng::seed_from_u64(TABLE_SEED));
    pages
}

/// Lengths as the library takes them.
pub fn cache_seqlens(lengths: &[usize]) -> Vec<i32> {
    lengths.iter().map(|&len| i32::try_from(len).unwrap_or(i32::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_the_spread_and_do_not_repeat() {
        let elements = normal(3 * CHUNK);
        let mean_square: f64 =
            elements.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / elements.len() as f64;
        assert!((mean_square.sqrt() - 0.1).abs() < 0.001, "{mean_square}");
        assert_ne!(elements[..CHUNK], elements[CHUNK..2 * CHUNK]);
        assert_eq!(elements, normal(3 * CHUNK));
    }

    #[test]
    fn the_table_names_every_page_once() {
        let table = block_table(100);
        assert!(!table.is_sorted());
        let mut pages = table;
        pages.sort_unstable();
        assert!(pages.into_iter().eq(0..100));
    }
}
