//! Random inputs like those of other programs' benchmarks.

use half::bf16;
use rand::rngs::StdRng;
use rand::seq::{SliceRandom, index};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Normal, StandardNormal};
use rayon::prelude::*;

/// Elements that one generator draws.
const CHUNK: usize = 1 << 16;

/// Draw the order of pages, index lists and sinks. Elements have the seeds below.
const TABLE_SEED: u64 = 1 << 32;
const INDEX_SEED: u64 = 2 << 32;
const SINK_SEED: u64 = 3 << 32;

/// `len` elements, normally distributed with the standard deviation `spread`, drawn on all threads; the same ones every
/// time.
pub fn normal(spread: f32, len: usize) -> Vec<bf16> {
    let distribution = Normal::new(0.0, spread).expect("a finite standard deviation");
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

/// `len` numbers below `bound`, or below 2³¹, with repetitions.
pub fn below(bound: usize, len: usize) -> Vec<i32> {
    let bound = i32::try_from(bound).unwrap_or(i32::MAX);
    let mut numbers = vec![0; len];
    numbers.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, numbers)| {
        let mut random = StdRng::seed_from_u64(INDEX_SEED + chunk as u64);
        numbers.fill_with(|| random.random_range(0..bound));
    });
    numbers
}

/// `count` lists of `len` different numbers below `bound`, in random order. There are at least `len` such numbers.
pub fn selections(bound: usize, len: usize, count: usize) -> Vec<i32> {
    let mut numbers = vec![0; len * count];
    numbers.par_chunks_mut(len).enumerate().for_each(|(list, numbers)| {
        let mut random = StdRng::seed_from_u64(INDEX_SEED + list as u64);
        for (number, drawn) in numbers.iter_mut().zip(index::sample(&mut random, bound, len)) {
            *number = i32::try_from(drawn).unwrap_or(i32::MAX);
        }
    });
    numbers
}

/// An attention sink for each head: normally distributed.
pub fn attn_sink(heads: usize) -> Vec<f32> {
    StandardNormal.sample_iter(StdRng::seed_from_u64(SINK_SEED)).take(heads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_the_spread_and_do_not_repeat() {
        let elements = normal(0.1, 3 * CHUNK);
        let mean_square: f64 =
            elements.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / elements.len() as f64;
        assert!((mean_square.sqrt() - 0.1).abs() < 0.001, "{mean_square}");
        assert_ne!(elements[..CHUNK], elements[CHUNK..2 * CHUNK]);
        assert_eq!(elements, normal(0.1, 3 * CHUNK));
    }

    #[test]
    fn the_table_names_every_page_once() {
        let table = block_table(100);
        assert!(!table.is_sorted());
        let mut pages = table;
        pages.sort_unstable();
        assert!(pages.into_iter().eq(0..100));
    }
    #[test]
    fn indices_are_below_their_bound() {
        let numbers = below(10, 2 * CHUNK);
        let counts = numbers.iter().fold([0; 10], |mut counts, &number| {
            counts[number as usize] += 1;
            counts
        });
        // A tenth of 131072 each; the standard deviation is 109.
        assert!(counts.iter().all(|count| (12_500..13_700).contains(count)), "{counts:?}");
        assert_ne!(numbers[..CHUNK], numbers[CHUNK..]);
    }

    #[test]
    fn selections_have_no_number_twice() {
        let numbers = selections(20, 15, 3);
        for list in numbers.chunks(15) {
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert!(sorted.len() == 15 && sorted.iter().all(|number| (0..20).contains(number)), "{list:?}");
            assert!(!list.is_sorted());
        }
        assert_ne!(numbers[..15], numbers[15..30]);
    }
}
