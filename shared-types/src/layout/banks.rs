//! Bank conflicts of shared memory.
//!
//! Shared memory has 32 banks of 4-byte words and serves one word of each bank a cycle. A warp's access takes as many
//! *phases* as its bytes need at least: all 32 lanes at once for up to 4 bytes a lane, 16 lanes for 8 bytes, 8 lanes for 16
//! bytes. `ldmatrix` and `stmatrix` take 8 lanes a phase too: the rows of one 8×8 matrix. Lanes of one phase conflict
//! where they want different words of one bank.

use crate::launch::WARP_THREADS;

/// Banks of shared memory.
pub const BANKS: u32 = 32;

/// Bytes of a bank's word.
pub const WORD_BYTES: u32 = 4;

/// The conflict degree of a warp's access to `bytes` consecutive bytes at each lane's address: the largest number of
/// different words that a phase wants of one bank. 1 is free of conflicts.
///
/// # Panics
/// If `bytes` is not 2, 4, 8 or 16: there is no such access.
pub const fn conflict_degree(addresses: &[u32; WARP_THREADS as usize], bytes: u32) -> u32 {
    assert!(matches!(bytes, 2 | 4 | 8 | 16), "an access has 2, 4, 8 or 16 bytes");
    let words = bytes.div_ceil(WORD_BYTES);
    let lanes_per_phase = WARP_THREADS / words;
    let mut worst = 0;
    let mut first_lane = 0;
    while first_lane < WARP_THREADS {
        let mut bank = 0;
        while bank < BANKS {
            let wanted = words_wanted(addresses, first_lane, lanes_per_phase, words, bank);
            if wanted > worst {
                worst = wanted;
            }
            bank += 1;
        }
        first_lane += lanes_per_phase;
    }
    worst
}

/// Different words of `bank` that `lanes` lanes want.
const fn words_wanted(
    addresses: &[u32; WARP_THREADS as usize],
    first_lane: u32,
    lanes: u32,
    words: u32,
    bank: u32,
) -> u32 {
    let mut seen = [0; WARP_THREADS as usize];
    let mut count = 0;
    let mut lane = first_lane;
    while lane < first_lane + lanes {
        let mut word = addresses[lane as usize] / WORD_BYTES;
        let end = word + words;
        while word < end {
            if word % BANKS == bank && !contains(&seen, count, word) {
                seen[count] = word;
                count += 1;
            }
            word += 1;
        }
        lane += 1;
    }
    count as u32
}

const fn contains(words: &[u32], len: usize, word: u32) -> bool {
    let mut i = 0;
    while i < len {
        if words[i] == word {
            return true;
        }
        i += 1;
    }
    false
}
