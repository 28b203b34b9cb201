//! Query rows: how heads and tokens that share a key/value head are packed into tiles, and which keys each row sees.

use core::num::NonZeroU32;

/// The rows of one tile: some heads of each of some tokens, token by token, head by head.
#[derive(Clone, Copy)]
pub struct QueryTile {
    /// Number among the tiles that share the key/value head.
    pub number: u32,
    /// Tiles side by side along the heads.
    pub head_tiles: NonZeroU32,
    /// Heads that share the key/value head.
    pub group: u32,
    /// Query tokens of the request.
    pub s_q: u32,
    /// Whether later query tokens see more keys.
    pub causal: bool,
    /// Heads of the tile.
    pub heads: NonZeroU32,
    /// Tokens of the tile.
    pub tokens: u32,
    /// Whether that is 1 in any launch of the kernel, so that no row need be divided by anything. A constant.
    pub is_single_token: bool,
    /// The first of its heads, counted from the first that shares the key/value head.
    pub first_head: u32,
    /// The first of its tokens.
    pub first_token: u32,
}

impl QueryTile {
    /// Query token of a row.
    #[inline(always)]
    pub fn token(&self, row: u32) -> u32 {
        self.first_token + if self.is_single_token { 0 } else { row / self.heads }
    }

    /// Head of a row within those that share the key/value head.
    #[inline(always)]
    pub fn head(&self, row: u32) -> u32 {
        self.first_head + if self.is_single_token { row } else { row % self.heads }
    }

    /// Rows that the copy engine writes, which exist or not.
    #[inline(always)]
    pub fn rows(&self) -> u32 {
        self.heads.get() * self.tokens
    }

    /// Whether a row is one of the request's.
    #[inline(always)]
    pub fn has(&self, row: u32) -> bool {
        row < self.rows() && self.token(row) < self.s_q && self.head(row) < self.group
    }

    /// Number of a row among all that share the key/value head, token by token, head by head.
    #[inline(always)]
    pub fn number(&self, row: u32) -> u32 {
        self.token(row) * self.group + self.head(row)
    }

    /// How many keys of a request of `len` keys a query token sees. Tokens past the last see what the last one sees.
    #[inline(always)]
    pub fn visible_keys(&self, token: u32, len: u32) -> u32 {
        if !self.causal {
            return len;
        }
        let last = self.s_q - 1;
        let token = if token < last { token } else { last };
        len.saturating_sub(last - token)
    }
}
