//! Reading tokens of a paged FP8 cache.

use crate::Fp8Format;

/// Reads the tokens that slots name.
#[derive(Clone, Debug)]
pub struct KvGather<'a> {
    /// Format of the cache.
    pub format: Fp8Format,
    /// Pages of the cache.
    pub num_pages: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages, `page_stride` bytes apart; the last one may lack its padding.
    pub kv_cache: &'a [u8],
    /// Bytes from one page to the next.
    pub page_stride: usize,
    /// Each `page * page_size + offset`; any that names no token of the cache: zeros.
    pub slots: &'a [i32],
}

impl KvGather<'_> {
    /// The tokens `[slots, head_dim]`, bf16 values.
    pub fn run(&self) -> Vec<f64> {
        let page_bytes = self.format.page_bytes(self.page_size);
        let token = |&slot: &i32| {
            if slot < 0 || slot as usize >= self.num_pages * self.page_size {
                return vec![0.0; self.format.head_dim()];
            }
            let (page, offset) = (slot as usize / self.page_size, slot as usize % self.page_size);
            let page = &self.kv_cache[page * self.page_stride..][..page_bytes];
            self.format.dequantise_token(page, self.page_size, offset)
        };
        self.slots.iter().flat_map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn tokens_come_from_where_their_slots_are() {
        // Token n is all n, which both formats have exactly.
        for format in [Fp8Format::V32, Fp8Format::Model1] {
            let head_dim = format.head_dim();
            let tokens: Vec<bf16> =
                (0..6_u8).flat_map(|n| vec![bf16::from_f32(f32::from(n)); head_dim]).collect();
            let kv_cache: Vec<u8> =
                tokens.chunks(3 * head_dim).flat_map(|page| format.quantise_page(page)).collect();
            let slots = [5, -1, 0, 3, 6, 1];
            let gather = KvGather {
                format,
                num_pages: 2,
                page_size: 3,
                kv_cache: &kv_cache,
                page_stride: kv_cache.len() / 2,
                slots: &slots,
            };
            let rows: Vec<Vec<f64>> = gather.run().chunks(head_dim).map(<[f64]>::to_vec).collect();
            assert_eq!(rows, [5.0, 0.0, 0.0, 3.0, 0.0, 1.0].map(|n| vec![n; head_dim]));
        }
    }
}
