//! Exchange between the lanes of a warp.

use super::warp::{WARP, lanes, to_mask};
use super::{Place, Unit};
use crate::arithmetic::{LANES, Lanes};
use crate::diagnostic::Check;
use crate::program::{Operation, Reduction, Shuffle, ShuffleMode, Source, Vote};

impl Unit<'_> {
    /// Instructions with a mask of lanes that have to execute them together.
    pub(super) fn exchange(&mut self, place: Place, mask: u32, operation: &Operation) -> bool {
        let named = match operation {
            Operation::WarpSync { mask }
            | Operation::Vote { mask, .. }
            | Operation::Match { mask, .. }
            | Operation::Reduce { mask, .. }
            | Operation::Elect { mask, .. } => *mask,
            Operation::Shuffle(shuffle) => shuffle.mask,
            _ => Source::Immediate(u64::from(u32::MAX)),
        };
        let required = self.read(place, named)[mask.trailing_zeros() as usize] as u32;
        if mask & !required != 0 {
            let message =
                format!("executed by the lanes {mask:#010x}, which the mask {required:#010x} does not name");
            self.report(place, None, Check::Diverged, message);
            return self.advance(place);
        }
        let Some(mut together) = self.gather(place, mask, required) else { return false };
        let warp = &self.ctas[place.cta].warps[place.warp];
        let all = together
            .iter()
            .filter(|fiber| **fiber != place.fiber)
            .fold(mask, |all, fiber| all | warp.fibers[*fiber].mask);
        self.exchange_among(place, all, operation);
        if together.len() == 1 {
            return self.advance(place);
        }
        together.sort_unstable();
        for fiber in together.into_iter().rev() {
            self.advance(Place { fiber, ..place });
        }
        false
    }

    fn exchange_among(&mut self, place: Place, mask: u32, operation: &Operation) {
        match operation {
            Operation::WarpSync { .. } => self.synchronize_warp(place, mask),
            Operation::Shuffle(shuffle) => self.shuffle(place, mask, shuffle),
            Operation::Vote { kind, result, predicate, .. } => {
                let holding = to_mask(&self.read(place, *predicate)) & mask;
                let value = match kind {
                    Vote::All => u64::from(holding == mask),
                    Vote::Any => u64::from(holding != 0),
                    Vote::Uniform => u64::from(holding == mask || holding == 0),
                    Vote::Ballot => u64::from(holding),
                };
                self.write(place, *result, &[value; LANES], mask);
            }
            Operation::Match { all, result, predicate, value, .. } => {
                let values = self.read(place, *value);
                let equal: Lanes = std::array::from_fn(|lane| {
                    lanes(mask)
                        .filter(|other| values[*other] == values[lane])
                        .fold(0, |set, other| set | 1 << other)
                });
                let together = |lane: usize| equal[lane] == u64::from(mask);
                let found = if *all {
                    std::array::from_fn(|lane| if together(lane) { equal[lane] } else { 0 })
                } else {
                    equal
                };
                self.write(place, *result, &found, mask);
                if let Some(predicate) = predicate {
                    let holds = std::array::from_fn(|lane| u64::from(together(lane)));
                    self.write(place, *predicate, &holds, mask);
                }
            }
            Operation::Reduce { operation, signed, result, value, .. } => {
                let values = self.read(place, *value);
                let reduced = lanes(mask).map(|lane| values[lane] as u32).reduce(|a, b| match operation {
                    Reduction::Add | Reduction::Count => a.wrapping_add(b),
                    Reduction::Min if *signed => (a as i32).min(b as i32) as u32,
                    Reduction::Max if *signed => (a as i32).max(b as i32) as u32,
                    Reduction::Min => a.min(b),
                    Reduction::Max => a.max(b),
                    Reduction::And => a & b,
                    Reduction::Or => a | b,
                    Reduction::Xor => a ^ b,
                });
                self.write(place, *result, &[u64::from(reduced.unwrap_or(0)); LANES], mask);
            }
            Operation::Elect { result, predicate, .. } => {
                let leader = mask.trailing_zeros();
                if let Some(result) = result {
                    self.write(place, *result, &[u64::from(leader); LANES], mask);
                }
                let elected = std::array::from_fn(|lane| u64::from(lane as u32 == leader));
                self.write(place, *predicate, &elected, mask);
            }
            _ => {}
        }
    }

    /// As in the ISA's pseudo-code ("shfl.sync").
    fn shuffle(&mut self, place: Place, mask: u32, shuffle: &Shuffle) {
        let values = self.read(place, shuffle.value);
        let (by, clamps) = (self.read(place, shuffle.lane), self.read(place, shuffle.clamp));
        let (mut result, mut in_range) = ([0; LANES], [0; LANES]);
        let mut outside = None;
        for lane in lanes(mask) {
            let own = lane as i64;
            let (amount, clamp) = ((by[lane] & 0x1f) as i64, (clamps[lane] & 0x1f) as i64);
            let segment = (clamps[lane] >> 8 & 0x1f) as i64;
            let upper = (own & segment) | (clamp & !segment);
            let lower = own & segment;
            let (source, valid) = match shuffle.mode {
                ShuffleMode::Up => (own - amount, own - amount >= upper),
                ShuffleMode::Down => (own + amount, own + amount <= upper),
                ShuffleMode::Butterfly => (own ^ amount, (own ^ amount) <= upper),
                ShuffleMode::Index => (lower | (amount & !segment), (lower | (amount & !segment)) <= upper),
            };
            let source = if valid { source as usize % WARP as usize } else { lane };
            if mask & 1 << source == 0 {
                outside = Some((lane, source));
            }
            result[lane] = values[source];
            in_range[lane] = u64::from(valid);
        }
        if let Some((lane, source)) = outside {
            let message = format!("lane {lane} reads from lane {source}, which does not take part");
            self.report(place, Some(lane), Check::Diverged, message);
        }
        if let Some(register) = shuffle.result {
            self.write(place, register, &result, mask);
        }
        if let Some(register) = shuffle.predicate {
            self.write(place, register, &in_range, mask);
        }
    }
}
