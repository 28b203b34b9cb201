//! What stops a fiber.

/// Why a fiber does not go on.
#[derive(Clone, Debug)]
pub(super) enum Wait {
    /// It has arrived at a named barrier and goes on behind the instruction when this round is over.
    Barrier { id: u32, round: u64 },
    /// Likewise, at the cluster's barrier.
    Cluster { round: u64 },
    /// The rest of the lanes named in the instruction's mask have to execute it as well.
    Lanes { mask: u32 },
    /// It tries again when one of the barriers has gone on to another phase: CTA, address, phase.
    Mbarrier { barriers: Vec<(usize, u32, u32)> },
    /// It tries again when the other warps have issued what it waits for.
    Warpgroup { issued: u64 },
    /// It tries again when the CTA has that many registers to give away.
    Registers { needed: u32 },
}
