//! Shapes of the tensors in a file.

use crate::{DenseDecode, KvScopeShape, RopeAngles, SparseDecode, SparsePrefill, SparsePrefillFp8};

pub(super) struct DenseDecodeShapes {
    pub(super) q: [usize; 4],
    pub(super) kv_cache: [usize; 4],
    pub(super) block_table: [usize; 2],
    pub(super) cache_seqlens: [usize; 1],
    pub(super) out: [usize; 4],
    pub(super) lse: [usize; 3],
}

pub(super) struct ScopeShapes {
    pub(super) kv_cache: [usize; 4],
    pub(super) indices: [usize; 3],
}

pub(super) struct SparseDecodeShapes {
    pub(super) q: [usize; 4],
    pub(super) attn_sink: [usize; 1],
    pub(super) positions: [usize; 2],
    /// Without positions where there is no table.
    pub(super) cos_sin: [usize; 2],
    pub(super) out: [usize; 4],
    pub(super) lse: [usize; 3],
}

pub(super) struct SparsePrefillShapes {
    pub(super) q: [usize; 3],
    pub(super) kv: [usize; 3],
    pub(super) indices: [usize; 3],
    pub(super) topk_length: [usize; 1],
    pub(super) attn_sink: [usize; 1],
    pub(super) out: [usize; 3],
    /// Of `max_logits` too.
    pub(super) lse: [usize; 2],
}

pub(super) struct SparsePrefillFp8Shapes {
    pub(super) q: [usize; 3],
    /// Those of a decode, whose other inputs have the same shapes.
    pub(super) decode: SparseDecodeShapes,
    pub(super) out: [usize; 3],
    /// Of `max_logits` too.
    pub(super) lse: [usize; 2],
}

impl DenseDecodeShapes {
    pub(super) fn of(p: &DenseDecode) -> Self {
        Self {
            q: [p.batch, p.s_q, p.h_q, p.head_dim],
            kv_cache: [p.num_pages, p.page_size, p.h_kv, p.head_dim],
            block_table: [p.batch, p.max_pages],
            cache_seqlens: [p.batch],
            out: [p.batch, p.s_q, p.h_q, p.head_dim_v],
            lse: [p.batch, p.h_q, p.s_q],
        }
    }
}

impl ScopeShapes {
    pub(super) fn of(p: &SparseDecode, scope: &KvScopeShape) -> Self {
        Self {
            kv_cache: [scope.num_pages, scope.page_size, 1, p.format.bytes_per_token() as usize],
            indices: [p.batch, p.s_q, scope.topk],
        }
    }

    /// That of so many lengths of lists: by request and query token, or by request alone.
    pub(super) fn topk_length(&self, lengths: usize) -> [usize; 2] {
        let [batch, s_q, _] = self.indices;
        if lengths == batch { [batch, 1] } else { [batch, s_q] }
    }
}

impl SparseDecodeShapes {
    pub(super) fn of(p: &SparseDecode) -> Self {
        Self {
            q: [p.batch, p.s_q, p.h_q, p.format.head_dim() as usize],
            attn_sink: [p.h_q],
            positions: [p.batch, p.s_q],
            cos_sin: [p.inverse_rope.map_or(0, table_positions), p.format.rope_dim() as usize],
            out: [p.batch, p.s_q, p.h_q, p.format.head_dim_v() as usize],
            lse: [p.batch, p.h_q, p.s_q],
        }
    }
}

fn table_positions(angles: RopeAngles) -> usize {
    match angles {
        RopeAngles::Theta(_) => 0,
        RopeAngles::Table { max_positions } => max_positions,
    }
}

impl SparsePrefillShapes {
    pub(super) fn of(p: &SparsePrefill) -> Self {
        Self {
            q: [p.s_q, p.h_q, p.head_dim],
            kv: [p.s_kv, 1, p.head_dim],
            indices: [p.s_q, 1, p.topk],
            topk_length: [p.s_q],
            attn_sink: [p.h_q],
            out: [p.s_q, p.h_q, p.head_dim_v],
            lse: [p.s_q, p.h_q],
        }
    }
}

impl SparsePrefillFp8Shapes {
    pub(super) fn of(p: &SparsePrefillFp8) -> Self {
        let decode = SparseDecodeShapes::of(&p.as_decode());
        let ([s_q, _, h_q, head_dim], [.., head_dim_v]) = (decode.q, decode.out);
        Self { q: [s_q, h_q, head_dim], out: [s_q, h_q, head_dim_v], lse: [s_q, h_q], decode }
    }
}
