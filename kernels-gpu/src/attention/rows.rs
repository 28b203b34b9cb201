//! Query rows: how heads and tokens that share a key/value head are packed, and which keys each row sees.

use core::num::NonZeroU32;

/// The rows of one key/value head, token by token, head by head.
#[derive(Clone, Copy)]
pub struct QueryRows {
    /// Heads that share the key/value head.
    pub group: NonZeroU32,
    /// Rows: `s_q · group`.
    pub count: u32,
    /// Query tokens.
    pub s_q: u32,
    /// Whether later query tokens see more keys.
    pub causal: bool,
}

impl QueryRows {
    /// Query token of a row.
    #[inline(always)]
    pub fn token(self, row: u32) -> u32 {
        row / self.group
    }

    /// Head of a row within its group.
    #[inline(always)]
    pub fn head(self, row: u32) -> u32 {
        row % self.group
    }

    /// How many keys of a request of `len` keys a row sees. Rows past the end see what the last one sees.
    #[inline(always)]
    pub fn visible_keys(self, row: u32, len: u32) -> u32 {
        if !self.causal {
            return len;
        }
        let last = self.count - 1;
        let token = self.token(if row < last { row } else { last });
        len.saturating_sub(self.s_q - 1 - token)
    }
}
