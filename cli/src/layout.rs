//! Where the rows of an answer lie.

use oximla::case_file::Case;

/// The shapes of a case's outputs.
///
/// An output *row* belongs to one query token and one head. Prefill counts as one request per query token: its outputs
/// `[s_q, h_q, …]` then lie as those of a decode with `s_q` = 1 do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub batch: usize,
    /// Query tokens of a request.
    pub s_q: usize,
    pub h_q: usize,
    pub head_dim_v: usize,
    pub out_shape: Vec<usize>,
    /// Of `lse`, and of `max_logits` where there are any.
    pub lse_shape: Vec<usize>,
}

/// A row of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number in `out`.
    pub out: usize,
    /// Its place in `lse` and `max_logits`.
    pub lse: usize,
}

impl Layout {
    /// The layout of this case's outputs.
    pub fn of(case: &Case) -> Self {
        match case {
            Case::DenseDecode(case) => {
                let p = &case.problem;
                Self::decode(p.batch, p.s_q, p.h_q, p.head_dim_v)
            }
            Case::SparseDecode(case) => {
                let p = &case.problem;
                Self::decode(p.batch, p.s_q, p.h_q, p.format.head_dim_v() as usize)
            }
            Case::SparsePrefill(case) => {
                let p = &case.problem;
                Self::prefill(p.s_q, p.h_q, p.head_dim_v)
            }
            Case::SparsePrefillFp8(case) => {
                let p = &case.problem;
                Self::prefill(p.s_q, p.h_q, p.format.head_dim_v() as usize)
            }
        }
    }

    /// The layout of a prefill's outputs.
    fn prefill(s_q: usize, h_q: usize, head_dim_v: usize) -> Self {
        let (out_shape, lse_shape) = (vec![s_q, h_q, head_dim_v], vec![s_q, h_q]);
        Self { batch: s_q, s_q: 1, h_q, head_dim_v, out_shape, lse_shape }
    }

    /// The layout of a decode's outputs.
    pub fn decode(batch: usize, s_q: usize, h_q: usize, head_dim_v: usize) -> Self {
        let (out_shape, lse_shape) = (vec![batch, s_q, h_q, head_dim_v], vec![batch, h_q, s_q]);
        Self { batch, s_q, h_q, head_dim_v, out_shape, lse_shape }
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.batch * self.s_q * self.h_q
    }

    /// The row of one query token and head.
    pub fn row(&self, request: usize, query: usize, head: usize) -> Row {
        let out = (request * self.s_q + query) * self.h_q + head;
        let lse = (request * self.h_q + head) * self.s_q + query;
        Row { out, lse }
    }

    /// All rows, in the order of `out`.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        (0..self.row_count()).map(|out| {
            let (query_token, head) = (out / self.h_q, out % self.h_q);
            self.row(query_token / self.s_q, query_token % self.s_q, head)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lse_is_transposed_in_each_request() {
        let rows: Vec<Row> = Layout::decode(2, 2, 3, 512).rows().collect();
        assert!(rows.iter().map(|row| row.out).eq(0..12));
        assert!(rows.iter().map(|row| row.lse).eq([0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]));
    }
}
