//! From positions in a request to slots of the cache.

/// Looks the positions of top-k lists up in a page table.
#[derive(Clone, Debug)]
pub struct TopkToSlots<'a> {
    /// Requests.
    pub batch: usize,
    /// Queries of a request.
    pub s_q: usize,
    /// Positions of a query.
    pub topk: usize,
    /// Columns of the page table.
    pub max_pages: usize,
    /// Pages of the cache.
    pub num_pages: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// `[batch, s_q, topk]`; any outside the request or the page table: none.
    pub positions: &'a [i32],
    /// `[batch, max_pages]`; a page that the cache does not have: none.
    pub page_table: &'a [i32],
    /// `[batch]`, tokens of each request.
    pub seqlens: &'a [i32],
}

/// What positions lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// `[batch, s_q, topk]`, each `page * page_size + offset`, or −1 for none.
    pub slots: Vec<i32>,
    /// `[batch, s_q]`, those of each list that are not −1.
    pub counts: Vec<i32>,
}

impl TopkToSlots<'_> {
    /// Translates all lists.
    pub fn run(&self) -> Translation {
        assert_eq!(self.positions.len(), self.batch * self.s_q * self.topk, "positions");
        let mut translation = Translation { slots: Vec::new(), counts: Vec::new() };
        for request in 0..self.batch {
            for query in 0..self.s_q {
                let mut count = 0;
                for rank in 0..self.topk {
                    let position = self.positions[(request * self.s_q + query) * self.topk + rank];
                    let slot = self.slot(request, position);
                    count += i32::from(slot.is_some());
                    translation.slots.push(slot.unwrap_or(-1));
                }
                translation.counts.push(count);
            }
        }
        translation
    }

    fn slot(&self, request: usize, position: i32) -> Option<i32> {
        if position < 0 || position >= self.seqlens[request] {
            return None;
        }
        let (entry, offset) = (position as usize / self.page_size, position as usize % self.page_size);
        if entry >= self.max_pages {
            return None;
        }
        let page = self.page_table[request * self.max_pages + entry];
        if page < 0 || page as usize >= self.num_pages {
            return None;
        }
        Some(page * self.page_size as i32 + offset as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_lead_through_the_page_table() {
        let translation = TopkToSlots {
            batch: 2,
            s_q: 1,
            topk: 4,
            max_pages: 2,
            num_pages: 5,
            page_size: 10,
            // Of the first request: both pages, none, and past its end. Of the second: a page that is not there.
            positions: &[3, 12, -1, 15, 0, 10, 11, 20],
            page_table: &[4, 1, 5, 0],
            seqlens: &[15, 99],
        }
        .run();
        assert_eq!(translation.slots, [43, 12, -1, -1, -1, 0, 1, -1]);
        assert_eq!(translation.counts, [2, 2]);
    }
}
