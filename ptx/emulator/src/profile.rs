//! What a kernel did: how often each instruction ran, and what it moved.

/// Counts of one instruction in one warp, summed over the CTAs of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times a warp executed it.
    pub warps: u64,
    /// Threads that executed it.
    pub threads: u64,
    /// Bytes of shared memory that threads or asynchronous operations read or wrote.
    pub shared_bytes: u64,
    /// Shared-memory cycles beyond the fewest that these bytes take: bank conflicts.
    pub bank_conflicts: u64,
    /// Bytes of global memory that threads or asynchronous operations read or wrote.
    pub global_bytes: u64,
    /// 32-byte sectors of global memory touched.
    pub sectors: u64,
    /// Sectors beyond the fewest that these bytes take: uncoalesced access.
    pub excess_sectors: u64,
    /// Floating-point operations of matrix instructions.
    pub tensor_flop: u64,
    /// Times a warp had to wait here.
    pub waits: u64,
}

/// Counts of one launch.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The entry's instructions: their text and line.
    pub instructions: Vec<(String, u32)>,
    /// For each warp of a CTA, counts in the order of `instructions`.
    pub warps: Vec<Vec<Counts>>,
}
