//! Writing tokens into a paged FP8 cache.

use half::bf16;

use crate::Fp8Format;

/// Puts each token where its slot is.
#[derive(Clone, Debug)]
pub struct KvInsert<'a> {
    /// Format of the cache.
    pub format: Fp8Format,
    /// Pages of the cache.
    pub num_pages: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Bytes from one page to the next.
    pub page_stride: usize,
    /// `[tokens, head_dim]`
    pub tokens: &'a [bf16],
    /// `[tokens]`, each `page * page_size + offset`; a token with any that names no slot of the cache goes nowhere.
    pub slots: &'a [i64],
}

impl KvInsert<'_> {
    /// Writes the tokens into the cache, one after the other.
    pub fn run(&self, kv_cache: &mut [u8]) {
        let head_dim = self.format.head_dim();
        assert_eq!(self.tokens.len(), self.slots.len() * head_dim, "tokens");
        let page_bytes = self.format.page_bytes(self.page_size);
        for (token, &slot) in self.tokens.chunks(head_dim).zip(self.slots) {
            if slot < 0 || slot >= (self.num_pages * self.page_size) as i64 {
                continue;
            }
            let (page, offset) = (slot as usize / self.page_size, slot as usize % self.page_size);
            let page = &mut kv_cache[page * self.page_stride..][..page_bytes];
            self.format.write_token(page, self.page_size, offset, token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_where_their_slots_are() {
        let tokens: Vec<bf16> = [1.0, 2.0, 3.0].iter().flat_map(|&x| vec![bf16::from_f32(x); 576]).collect();
        let mut cache = vec![7; 2 * 2000];
        let insert = KvInsert {
            format: Fp8Format::V32,
            num_pages: 2,
            page_size: 3,
            page_stride: 2000,
            tokens: &tokens,
            slots: &[4, -1, 6],
        };
        insert.run(&mut cache);
        let mut expected = vec![7; 4000];
        expected[2000 + 656..][..656].copy_from_slice(&crate::v32::quantise_token(&tokens[..576]));
        assert_eq!(cache, expected, "one slot written; the others are none");
    }
}
