//! Turning outputs back by the position of their query.

/// Elements at the end of a row that RoPE turns, in pairs of neighbours.
const ROPE_DIM: usize = 64;

/// By which angles RoPE turns the pairs of a position.
#[derive(Clone, Copy, Debug)]
pub enum RopeAngles<'a> {
    /// Pair `i` by `position · theta^(−2i / 64)`.
    Theta(f64),
    /// By those whose cosines, one a pair, then sines each position has here, `[positions, 64]`. NaN for any other position.
    Table(&'a [f32]),
}

/// The angles of query tokens.
#[derive(Clone, Copy, Debug)]
pub struct QueryAngles<'a> {
    /// `[batch, s_q]`
    pub positions: &'a [i32],
    /// Where they lead to.
    pub angles: RopeAngles<'a>,
}

/// The inverse of RoPE on the last 64 elements of each row.
#[derive(Clone, Debug)]
pub struct InverseRope<'a> {
    /// Requests.
    pub batch: usize,
    /// Queries of a request.
    pub s_q: usize,
    /// Query heads.
    pub h_q: usize,
    /// Elements of a row.
    pub head_dim_v: usize,
    /// `[batch, s_q, h_q, head_dim_v]`
    pub out: &'a [f64],
    /// Of the queries.
    pub queries: QueryAngles<'a>,
}

impl InverseRope<'_> {
    /// Computes what takes the place of `out`.
    pub fn run(&self) -> Vec<f64> {
        let tokens = self.batch * self.s_q;
        assert_eq!(self.out.len(), tokens * self.h_q * self.head_dim_v, "out");
        assert_eq!(self.queries.positions.len(), tokens, "positions");
        let mut out = self.out.to_vec();
        for token in 0..tokens {
            for head in 0..self.h_q {
                let row = &mut out[(token * self.h_q + head) * self.head_dim_v..][..self.head_dim_v];
                self.queries.turn_back(token, row);
            }
        }
        out
    }
}

impl QueryAngles<'_> {
    /// Turns the end of a row of a query token back: multiplies each pair, as a complex number, by `e^(−iφ)`.
    pub(crate) fn turn_back(&self, token: usize, row: &mut [f64]) {
        let first = row.len() - ROPE_DIM;
        for pair in 0..ROPE_DIM / 2 {
            let (cos, sin) = self.angles.cos_sin(self.positions[token], pair);
            let (re, im) = (row[first + 2 * pair], row[first + 2 * pair + 1]);
            row[first + 2 * pair] = re * cos + im * sin;
            row[first + 2 * pair + 1] = im * cos - re * sin;
        }
    }
}

impl RopeAngles<'_> {
    fn cos_sin(self, position: i32, pair: usize) -> (f64, f64) {
        match self {
            Self::Theta(theta) => {
                let exponent = -2.0 * pair as f64 / ROPE_DIM as f64;
                let angle = f64::from(position) * theta.powf(exponent);
                (angle.cos(), angle.sin())
            }
            Self::Table(table) => {
                let rows = table.len() / ROPE_DIM;
                let Some(position) = usize::try_from(position).ok().filter(|&position| position < rows)
                else {
                    return (f64::NAN, f64::NAN);
                };
                let row = &table[position * ROPE_DIM..][..ROPE_DIM];
                (f64::from(row[pair]), f64::from(row[ROPE_DIM / 2 + pair]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn_back(row: &[f64], position: i32, angles: RopeAngles<'_>) -> Vec<f64> {
        let queries = QueryAngles { positions: &[position], angles };
        InverseRope { batch: 1, s_q: 1, h_q: 1, head_dim_v: row.len(), out: row, queries }.run()
    }

    fn ramp(len: usize, seed: usize) -> Vec<f64> {
        (0..len).map(|index| ((index * 7919 + seed * 104_729) % 1009) as f64 / 251.0 - 2.0).collect()
    }

    fn assert_close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    }

    #[test]
    fn turned_by_hand() {
        // The first pair by a radian a position, the last one by theta^(−62/64).
        let theta = 10.0_f64.powf(64.0 / 62.0);
        let mut row = vec![0.0; 66];
        (row[0], row[1], row[2], row[64]) = (5.0, 6.0, 1.0, 1.0);
        let turned = turn_back(&row, 2, RopeAngles::Theta(theta));
        let mut expected = row.clone();
        (expected[2], expected[3]) = (2.0_f64.cos(), -2.0_f64.sin());
        (expected[64], expected[65]) = (0.2_f64.cos(), -0.2_f64.sin());
        assert_close(&turned, &expected);
    }

    #[test]
    fn tables_are_cosines_then_sines() {
        let mut table = vec![0.0; 2 * 64];
        // At position 1: a quarter of a turn for pair 3, none for the others.
        table[64..96].fill(1.0);
        (table[64 + 3], table[96 + 3]) = (0.0, 1.0);
        let row = ramp(64, 1);
        let mut expected = row.clone();
        (expected[6], expected[7]) = (row[7], -row[6]);
        assert_close(&turn_back(&row, 1, RopeAngles::Table(&table)), &expected);
        for outside in [-1, 2, i32::MIN, i32::MAX] {
            assert!(turn_back(&row, outside, RopeAngles::Table(&table)).iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn positions_take_each_other_back() {
        let row = ramp(70, 2);
        let angles = RopeAngles::Theta(1e4);
        assert_close(&turn_back(&row, 0, angles), &row);
        assert_close(&turn_back(&turn_back(&row, 123, angles), -123, angles), &row);
    }

    /// What it is for: sums of values that were turned by their positions depend on distances only.
    #[test]
    fn only_distances_matter() {
        let angles = RopeAngles::Theta(1e4);
        let sum_seen_from = |query: i32, distances: [i32; 3]| {
            let mut sum = vec![0.0; 64];
            for (key, distance) in distances.into_iter().enumerate() {
                // RoPE itself is its inverse at the opposite position.
                let value = turn_back(&ramp(64, key), distance - query, angles);
                sum.iter_mut().zip(value).for_each(|(sum, x)| *sum += x);
            }
            turn_back(&sum, query, angles)
        };
        assert_close(&sum_seen_from(1000, [3, 20, 500]), &sum_seen_from(77, [3, 20, 500]));
    }
}
