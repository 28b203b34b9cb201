//! What a kernel needs from whoever launches it.

/// Shared memory one CTA may use on Hopper and on data-centre Blackwell, in bytes
/// (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
pub const MAX_SHARED_BYTES: u32 = 232_448;

/// Registers of one multiprocessor; the compiler divides them among the threads of a CTA.
pub const REGISTERS_PER_SM: u32 = 65_536;

/// Parts of a multiprocessor, each with a quarter of the registers, that a CTA's warps are dealt out to in turn.
pub const SM_PARTITIONS: u32 = 4;

/// Threads in a warp.
pub const WARP_THREADS: u32 = 32;

/// Threads in a warpgroup, the unit that issues `wgmma`.
pub const WARPGROUP_THREADS: u32 = 128;

/// The launch contract of one kernel entry.
///
/// It stands once: the PTX build writes it into the module as directives, the manifest repeats it, the host launches
/// with it and the kernel's own constants are asserted against it at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchContract {
    /// Name of the `.entry` in the PTX module.
    pub entry: &'static str,
    /// Threads of a CTA (`.maxntid`).
    pub threads: u32,
    /// CTAs that must fit on one multiprocessor (`.minnctapersm`).
    pub min_ctas_per_sm: u32,
    /// CTAs of a cluster (`.reqnctapercluster`), 1 for none.
    pub cluster: u32,
    /// Dynamic shared memory, in bytes.
    pub shared_bytes: u32,
    /// Alignment of the parameter block, in bytes: 64 where it holds a tensor map, else 8.
    pub param_align: u32,
}

impl LaunchContract {
    /// Registers a thread has at entry: what ptxas may allocate under these launch bounds. The partition with the most warps
    /// has the fewest for each.
    pub const fn registers_at_entry(&self) -> u32 {
        let warps = (self.threads * self.min_ctas_per_sm).div_ceil(WARP_THREADS).div_ceil(SM_PARTITIONS);
        let even = REGISTERS_PER_SM / SM_PARTITIONS / (warps * WARP_THREADS);
        let rounded = even / 8 * 8;
        if rounded > 255 { 255 } else { rounded }
    }

    /// Checks the contract against the device's limits; meant for `const` contexts, where a violation stops the build.
    pub const fn checked(self) -> Self {
        assert!(self.threads > 0 && self.threads <= 1024, "a CTA has 1..=1024 threads");
        assert!(self.threads.is_multiple_of(WARP_THREADS), "a CTA is a whole number of warps");
        assert!(self.min_ctas_per_sm > 0, "at least one CTA per multiprocessor");
        assert!(self.cluster > 0 && self.cluster <= 8, "the portable cluster size is at most 8");
        assert!(
            self.shared_bytes * self.min_ctas_per_sm <= MAX_SHARED_BYTES,
            "more shared memory than an SM has"
        );
        assert!(self.param_align == 8 || self.param_align == 64, "parameters are aligned to 8 or 64 bytes");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_partition_sets_the_registers() {
        let registers = |threads, min_ctas_per_sm| {
            let contract = LaunchContract {
                entry: "",
                threads,
                min_ctas_per_sm,
                cluster: 1,
                shared_bytes: 0,
                param_align: 8,
            };
            contract.registers_at_entry()
        };
        let expected = [(128, 255), (384, 168), (512, 128), (544, 96), (576, 96), (640, 96), (1024, 64)];
        for (threads, count) in expected {
            assert_eq!(registers(threads, 1), count, "{threads} threads");
        }
        assert_eq!(registers(128, 6), 80);
    }
}
