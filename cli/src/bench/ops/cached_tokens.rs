//! Tokens that go into an FP8 cache, or come out of it.

use anyhow::ensure;
use half::bf16;
use oximla::{
    Device, Error, KvFormat, KvGather, KvGatherInputs, KvGatherPlan, KvInsert, KvInsertInputs, KvInsertPlan,
    TensorView, TensorViewMut,
};
use serde::{Deserialize, Serialize};

use super::{check_head_dim, fp8_format};
use crate::bench::{fp8_pages, inputs};

/// Standard deviation of the elements.
const SPREAD: f32 = 0.1;

/// An insertion or a gathering of whole pages: tokens of a page lie in order, pages in random order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CachedTokensShape {
    /// Tokens, as many as the cache has.
    pub tokens: usize,
    /// Elements of a token: 576 in V3.2's format, 512 in MODEL1's.
    pub d: usize,
    /// Tokens of a page.
    pub page: usize,
}

/// Some pages' tokens and their bytes in the cache.
pub struct Pages {
    /// NoPE elements `[tokens, nope_dim]`.
    pub latent: Vec<bf16>,
    /// RoPE elements `[tokens, rope_dim]`.
    pub rope: Vec<bf16>,
    /// The pages `[pages, page_bytes]`.
    pub bytes: Vec<u8>,
}

impl CachedTokensShape {
    /// The insertion as the library takes it.
    pub fn insertion(&self) -> KvInsert {
        let &Self { tokens, page, .. } = self;
        KvInsert { format: self.format(), num_pages: self.num_pages(), page_size: page, tokens }
    }

    /// The gathering as the library takes it.
    pub fn gathering(&self) -> KvGather {
        let &Self { tokens, page, .. } = self;
        KvGather { format: self.format(), num_pages: self.num_pages(), page_size: page, tokens }
    }

    /// The cache's format. A `d` that no format has counts as MODEL1's; [`Self::check`] refuses it.
    pub fn format(&self) -> KvFormat {
        fp8_format(self.d).unwrap_or(KvFormat::Model1Fp8)
    }

    /// Pages of the cache.
    pub fn num_pages(&self) -> usize {
        self.tokens / self.page
    }

    /// The cache's page of each page of tokens.
    pub fn page_table(&self) -> Vec<i32> {
        inputs::block_table(self.num_pages())
    }

    /// Where each token is in the cache: `page·page_size + offset`.
    pub fn slots<T: From<i32>>(&self, page_table: &[i32]) -> Vec<T> {
        let page_size = self.page as i32;
        page_table
            .iter()
            .flat_map(|page| (0..page_size).map(move |offset| T::from(page * page_size + offset)))
            .collect()
    }

    /// `count` pages to insert, and what the CPU makes of them.
    ///
    /// # Errors
    /// When the numbers do not describe a problem.
    pub fn inserted_pages(&self, count: usize) -> Result<Pages, Error> {
        let problem = Self { tokens: count * self.page, ..self.clone() }.insertion();
        let KvInsert { format, page_size, tokens, .. } = problem;
        let [nope_dim, rope_dim, token_bytes] =
            [format.nope_dim(), format.rope_dim(), format.bytes_per_token()].map(|size| size as usize);
        let latent = inputs::normal(SPREAD, tokens * nope_dim);
        let rope = inputs::normal(SPREAD, tokens * rope_dim);
        let slots: Vec<i64> = (0..tokens as i64).collect();
        let mut bytes = vec![0; tokens * token_bytes];
        let device = Device::cpu();
        KvInsertPlan::new(&problem, &device)?.run(
            &device.stream(),
            &KvInsertInputs {
                latent: TensorView::from_slice("latent", &latent, [tokens, nope_dim])?,
                rope: TensorView::from_slice("rope", &rope, [tokens, rope_dim])?,
                slot_mapping: TensorView::from_slice("slot_mapping", &slots, [tokens])?,
            },
            &mut TensorViewMut::from_slice("kv_cache", &mut bytes, [count, page_size, 1, token_bytes])?,
        )?;
        Ok(Pages { latent, rope, bytes })
    }

    /// The bytes of `count` pages, and the elements `[count·page_size, head_dim]` that the CPU makes of them.
    ///
    /// # Errors
    /// When the numbers do not describe a problem.
    pub fn gathered_pages(&self, count: usize) -> Result<(Vec<u8>, Vec<bf16>), Error> {
        let problem = Self { tokens: count * self.page, ..self.clone() }.gathering();
        let KvGather { format, page_size, tokens, .. } = problem;
        let [head_dim, token_bytes] = [format.head_dim(), format.bytes_per_token()].map(|size| size as usize);
        let bytes = fp8_pages::random(format, page_size, count);
        let slots: Vec<i32> = (0..).take(tokens).collect();
        let mut elements = vec![bf16::ZERO; tokens * head_dim];
        let device = Device::cpu();
        KvGatherPlan::new(&problem, &device)?.run(
            &device.stream(),
            &KvGatherInputs {
                kv_cache: TensorView::from_slice("kv_cache", &bytes, [count, page_size, 1, token_bytes])?,
                slots: TensorView::from_slice("slots", &slots, [tokens])?,
            },
            &mut TensorViewMut::from_slice("out", &mut elements, [tokens, head_dim])?,
        )?;
        Ok((bytes, elements))
    }

    /// Checks that there is a format for the tokens, and that they are whole pages.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_head_dim(self.d)?;
        let &Self { tokens, page, .. } = self;
        ensure!(tokens.is_multiple_of(page), "tokens is {tokens}; needed is a multiple of page, {page}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CachedTokensShape = CachedTokensShape { tokens: 24, d: 576, page: 4 };

    #[test]
    fn every_slot_stands_once_and_pages_are_in_order() {
        let slots: Vec<i64> = SHAPE.slots(&SHAPE.page_table());
        assert!(!slots.is_sorted());
        assert!(
            slots.chunks(4).all(|page| page[0] % 4 == 0 && page.windows(2).all(|two| two[1] == two[0] + 1))
        );
        let mut sorted = slots;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..24));
    }

    #[test]
    fn pages_are_what_the_references_make() {
        use oximla_reference::Fp8Format;
        for (d, format) in [(576, Fp8Format::V32), (512, Fp8Format::Model1)] {
            let shape = CachedTokensShape { d, ..SHAPE };
            let Pages { latent, rope, bytes } = shape.inserted_pages(2).unwrap();
            let tokens: Vec<bf16> = latent
                .chunks(d - 64)
                .zip(rope.chunks(64))
                .flat_map(|(latent, rope)| [latent, rope].concat())
                .collect();
            let expected: Vec<u8> =
                tokens.chunks(4 * d).flat_map(|page| format.quantise_page(page)).collect();
            assert_eq!(bytes, expected);

            let (bytes, elements) = shape.gathered_pages(2).unwrap();
            assert_eq!((bytes.len(), elements.len()), (expected.len(), tokens.len()));
            assert!(elements.iter().all(|element| element.is_finite()));
            assert!(elements.iter().any(|element| element.to_f32() > 1.0));
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(SHAPE.check().is_ok());
        let why = CachedTokensShape { d: 500, ..SHAPE }.check().unwrap_err().to_string();
        assert_eq!(why, "d is 500; needed is 576 or 512");
        let why = CachedTokensShape { tokens: 25, ..SHAPE }.check().unwrap_err().to_string();
        assert_eq!(why, "tokens is 25; needed is a multiple of page, 4");
    }
}
