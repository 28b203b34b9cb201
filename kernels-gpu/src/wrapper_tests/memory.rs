//! Kernels for [`ptx::memory`](crate::ptx::memory). Each lane loads what belongs to the lane opposite, or stores there.

use super::kernel;
use crate::ptx::barrier::barrier_cta_sync;
use crate::ptx::memory::*;
use crate::ptx::special::dynamic_shared;
use oximla_types::launch::WARP_THREADS;

/// The lane opposite.
#[inline(always)]
fn opposite(lane: usize) -> usize {
    WARP_THREADS as usize - 1 - lane
}

macro_rules! load_global {
    ($name:ident, $load:path, $bits:expr) => {
        kernel!($name, |lane, input, output| {
            *output.add(lane) = $bits($load(input.add(opposite(lane)) as u64))
        });
    };
}

macro_rules! store_global {
    ($name:ident, $store:path, $value:path) => {
        kernel!($name, |lane, input, output| {
            $store(output.add(opposite(lane)) as u64, $value(*input.add(lane)))
        });
    };
}

macro_rules! store_global_pair {
    ($name:ident, $store:path, $value:path) => {
        kernel!($name, |lane, input, output| {
            let pair = [0, 1].map(|word| $value(*input.add(2 * lane + word)));
            $store(output.add(2 * opposite(lane)) as u64, pair)
        });
    };
}

// Divided, so that the sign shows.
load_global!(wrapper_ld_global_i32, ld_global_i32, |value: i32| (value / 2) as u32);
load_global!(wrapper_ld_global_u32, ld_global_u32, |value: u32| value / 2);
load_global!(wrapper_ld_global_f32, ld_global_f32, |value: f32| (value / 2.0).to_bits());
store_global!(wrapper_st_global_u32, st_global_u32, u32::from);
store_global!(wrapper_st_global_f32, st_global_f32, f32::from_bits);
store_global_pair!(wrapper_st_global_u32x2, st_global_u32x2, u32::from);
store_global_pair!(wrapper_st_global_f32x2, st_global_f32x2, f32::from_bits);

kernel!(wrapper_ld_global_f32x4, |lane, input, output| {
    let values = ld_global_f32x4(input.add(4 * opposite(lane)) as u64);
    for (word, value) in values.into_iter().enumerate() {
        *output.add(4 * lane + word) = value.to_bits();
    }
});

kernel!(wrapper_ld_global_i64, |lane, input, output| {
    // Divided, so that the sign shows, and the upper word.
    let value = ld_global_i64(input.add(2 * opposite(lane)) as u64) / 2;
    *output.add(2 * lane) = value as u32;
    *output.add(2 * lane + 1) = (value >> 32) as u32;
});

kernel!(wrapper_ld_global_u32x2, |lane, input, output| {
    let words = ld_global_u32x2(input.add(2 * opposite(lane)) as u64);
    for (number, word) in words.into_iter().enumerate() {
        *output.add(2 * lane + number) = word;
    }
});

kernel!(wrapper_ld_global_u32x4, |lane, input, output| {
    let words = ld_global_u32x4(input.add(4 * opposite(lane)) as u64);
    for (number, word) in words.into_iter().enumerate() {
        *output.add(4 * lane + number) = word;
    }
});

kernel!(wrapper_ld_shared_u8, |lane, input, output| {
    let shared = dynamic_shared();
    st_shared_u32(shared + 4 * lane as u32, *input.add(lane));
    barrier_cta_sync::<0>(WARP_THREADS);
    for byte in 0..4 {
        *output.add(4 * lane + byte) = ld_shared_u8(shared + (4 * opposite(lane) + byte) as u32);
    }
});

kernel!(wrapper_ld_shared_u16, |lane, input, output| { pass_halves(lane, input, output) });
kernel!(wrapper_st_shared_u16, |lane, input, output| { pass_halves(lane, input, output) });

/// Lanes pass both halves of a word on to the lanes opposite through shared memory, which write a word for each.
#[inline(always)]
unsafe fn pass_halves(lane: usize, input: *const u32, output: *mut u32) {
    let shared = dynamic_shared();
    // SAFETY: a word a lane lies in shared memory and input, two in the output; the whole warp is here.
    unsafe {
        let word = *input.add(lane);
        st_shared_u16(shared + 4 * lane as u32, word as u16);
        st_shared_u16(shared + 4 * lane as u32 + 2, (word >> 16) as u16);
        barrier_cta_sync::<0>(WARP_THREADS);
        for half in 0..2 {
            *output.add(2 * lane + half) = ld_shared_u16(shared + (4 * opposite(lane) + 2 * half) as u32);
        }
    }
}

kernel!(wrapper_ld_shared_u64, |lane, input, output| {
    pass_pairs(
        lane,
        input,
        output,
        |address, words| store_words(address, words),
        |address| {
            let pair = ld_shared_u64(address);
            [pair as u32, (pair >> 32) as u32]
        },
    )
});
kernel!(wrapper_ld_shared_u32x2, |lane, input, output| {
    pass_pairs(
        lane,
        input,
        output,
        |address, words| store_words(address, words),
        |address| ld_shared_u32x2(address),
    )
});
kernel!(wrapper_st_shared_u64, |lane, input, output| {
    let store = |address, [low, high]: [u32; 2]| st_shared_u64(address, (high as u64) << 32 | low as u64);
    pass_pairs(lane, input, output, store, |address| ld_shared_u32x2(address))
});

/// Stores a lane's two words one after the other.
#[inline(always)]
unsafe fn store_words(address: u32, [low, high]: [u32; 2]) {
    // SAFETY: as `pass_pairs` promises.
    unsafe {
        st_shared_u32(address, low);
        st_shared_u32(address + 4, high);
    }
}

/// Lanes pass two words on to the lanes opposite through shared memory.
#[inline(always)]
unsafe fn pass_pairs(
    lane: usize,
    input: *const u32,
    output: *mut u32,
    store: impl Fn(u32, [u32; 2]),
    load: impl Fn(u32) -> [u32; 2],
) {
    let shared = dynamic_shared();
    // SAFETY: two words a lane lie in shared memory, input and output; the whole warp is here.
    unsafe {
        store(shared + 8 * lane as u32, [*input.add(2 * lane), *input.add(2 * lane + 1)]);
        barrier_cta_sync::<0>(WARP_THREADS);
        let pair = load(shared + 8 * opposite(lane) as u32);
        for (number, word) in pair.into_iter().enumerate() {
            *output.add(2 * lane + number) = word;
        }
    }
}

kernel!(wrapper_st_global_u32x4, |lane, input, output| {
    let words = [0, 1, 2, 3].map(|word| *input.add(4 * lane + word));
    st_global_u32x4(output.add(4 * opposite(lane)) as u64, words)
});

kernel!(wrapper_st_global_u32x4_if, |lane, input, output| {
    let words = [0, 1, 2, 3].map(|word| *input.add(4 * lane + word));
    let to = output.add(4 * opposite(lane)) as u64;
    st_global_u32x4_if(lane % 2 == 0, to, words);
    st_global_u32x4_if(lane % 2 == 1, to, words.map(|word| !word))
});

kernel!(wrapper_ld_shared_u32, |lane, input, output| { pass_words(lane, input, output) });
kernel!(wrapper_st_shared_u32, |lane, input, output| { pass_words(lane, input, output) });
kernel!(wrapper_ld_shared_f32, |lane, input, output| { pass_numbers(lane, input, output) });
kernel!(wrapper_st_shared_f32, |lane, input, output| { pass_numbers(lane, input, output) });
kernel!(wrapper_ld_shared_u32x4, |lane, input, output| { pass_vectors(lane, input, output) });
kernel!(wrapper_st_shared_u32x4, |lane, input, output| { pass_vectors(lane, input, output) });

/// Lanes pass words on to the lanes opposite through shared memory.
#[inline(always)]
unsafe fn pass_words(lane: usize, input: *const u32, output: *mut u32) {
    let shared = dynamic_shared();
    // SAFETY: a word a lane lies in shared memory, input and output; the whole warp is here.
    unsafe {
        st_shared_u32(shared + 4 * lane as u32, *input.add(lane));
        barrier_cta_sync::<0>(WARP_THREADS);
        *output.add(lane) = ld_shared_u32(shared + 4 * opposite(lane) as u32);
    }
}

/// The same, with words as floating-point numbers.
#[inline(always)]
unsafe fn pass_numbers(lane: usize, input: *const u32, output: *mut u32) {
    let shared = dynamic_shared();
    // SAFETY: as for `pass_words`.
    unsafe {
        st_shared_f32(shared + 4 * lane as u32, f32::from_bits(*input.add(lane)));
        barrier_cta_sync::<0>(WARP_THREADS);
        *output.add(lane) = ld_shared_f32(shared + 4 * opposite(lane) as u32).to_bits();
    }
}

/// The same, with four words a lane.
#[inline(always)]
unsafe fn pass_vectors(lane: usize, input: *const u32, output: *mut u32) {
    let shared = dynamic_shared();
    // SAFETY: as for `pass_words`, with four words a lane.
    unsafe {
        st_shared_u32x4(shared + 16 * lane as u32, [0, 1, 2, 3].map(|word| *input.add(4 * lane + word)));
        barrier_cta_sync::<0>(WARP_THREADS);
        let words = ld_shared_u32x4(shared + 16 * opposite(lane) as u32);
        for (number, word) in words.into_iter().enumerate() {
            *output.add(4 * lane + number) = word;
        }
    }
}

// Lanes pass pairs on to the lanes opposite through shared memory.
kernel!(wrapper_st_shared_f32x2, |lane, input, output| {
    let pair = [*input.add(2 * lane), *input.add(2 * lane + 1)].map(f32::from_bits);
    st_shared_f32x2(dynamic_shared() + 8 * lane as u32, pair);
    barrier_cta_sync::<0>(WARP_THREADS);
    for word in 0..2 {
        let address = dynamic_shared() + (8 * opposite(lane) + 4 * word) as u32;
        *output.add(2 * lane + word) = ld_shared_u32(address);
    }
});

// Four words a lane; odd lanes zero theirs afterwards.
kernel!(wrapper_st_shared_zero_x4, |lane, input, output| {
    let shared = dynamic_shared() + 16 * lane as u32;
    for word in 0..4 {
        st_shared_u32(shared + 4 * word as u32, *input.add(4 * lane + word));
    }
    if lane % 2 == 1 {
        st_shared_zero_x4(shared);
    }
    for word in 0..4 {
        *output.add(4 * lane + word) = ld_shared_u32(shared + 4 * word as u32);
    }
});
