//! Rows of partial results: in which order their columns lie.
//!
//! Each thread of an accumulator ([`fragment`](super::fragment)) has two of every eight neighbouring columns of a row. What it has of
//! 16 columns, a *group*, lies next to each other, so that it stores four f32 at a time:
//!
//! ```text
//! place   0 1 2 3   4 5 6  7    8 9 10 11   12 13 14 15
//! column  0 1 8 9   2 3 10 11   4 5 12 13   6  7  14 15
//! lane        q=0         q=1         q=2           q=3
//! ```

/// Columns of a group.
pub const GROUP_COLUMNS: u32 = 16;

/// Places of a thread in a group.
pub const THREAD_PLACES: u32 = 4;

/// Threads that share a group.
const GROUP_THREADS: u32 = GROUP_COLUMNS / THREAD_PLACES;

/// Registers of an accumulator that hold a thread's columns of a group, in two rows.
pub const GROUP_REGISTERS: usize = 8;

/// Which of these registers those of the first row are, in the order of places.
pub const REGISTERS: [usize; THREAD_PLACES as usize] = [0, 1, 4, 5];

/// The first place of a thread in each group.
pub const fn first_place(thread: u32) -> u32 {
    thread % GROUP_THREADS * THREAD_PLACES
}

/// The column at a place of a row.
pub const fn column(place: u32) -> u32 {
    let (group, within) = (place / GROUP_COLUMNS, place % GROUP_COLUMNS);
    let (thread, own) = (within / THREAD_PLACES, within % THREAD_PLACES);
    GROUP_COLUMNS * group + 8 * (own / 2) + 2 * thread + own % 2
}

/// The first of the four neighbouring columns that a thread has of a group at `place`, its own first one, when it has given two to the
/// thread before or behind and got two: those of even numbers have the first eight columns then.
pub const fn exchanged_column(place: u32) -> u32 {
    let (group, thread) = (place / GROUP_COLUMNS, place % GROUP_COLUMNS / THREAD_PLACES);
    GROUP_COLUMNS * group + 8 * (thread % 2) + 4 * (thread / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::fragment;

    #[test]
    fn a_thread_stores_what_it_has() {
        for (thread, group, half) in (0..128).flat_map(|t| (0..8).flat_map(move |g| [(t, g, 0), (t, g, 1)])) {
            for (own, register) in (0..).zip(REGISTERS) {
                let register = group * GROUP_REGISTERS as u32 + 2 * half + register as u32;
                let position = fragment::accumulator(thread, register);
                let place = group * GROUP_COLUMNS + first_place(thread) + own;
                assert_eq!(column(place), position.column, "{thread} {group} {half} {own}");
                assert_eq!(position.row, fragment::accumulator(thread, 2 * half).row);
            }
        }
    }

    #[test]
    fn neighbours_exchange_two_columns() {
        for place in (0..512).step_by(THREAD_PLACES as usize) {
            let is_odd = place / THREAD_PLACES % 2 == 1;
            let other = place ^ THREAD_PLACES;
            // The lower numbered thread keeps its first two columns, the other one its last two.
            let kept = if is_odd { [other + 2, place + 2] } else { [place, other] };
            let columns = kept.map(|first| [column(first), column(first + 1)]);
            let first = exchanged_column(place);
            assert_eq!(columns, [[first, first + 1], [first + 2, first + 3]]);
        }
    }
}
