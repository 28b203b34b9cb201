//! How long work takes at least, by each resource alone.

use serde::Serialize;

use super::quantity::{Quantity, Tally};
use crate::gpu::{Gpu, ISSUES_PER_CYCLE, SECTOR_BYTES, SHARED_BYTES_PER_CYCLE, SPECIAL_FUNCTIONS_PER_CYCLE};

/// What one resource has to do, and how long that takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Resource {
    /// Which.
    pub resource: &'static str,
    /// How much work.
    pub work: f64,
    /// What the work is counted in.
    pub unit: &'static str,
    /// Work that an SM does in a cycle.
    pub per_cycle: f64,
    /// Time, in cycles of an SM.
    pub cycles: f64,
}

/// The resources of an SM and what they have to do for a tally. `sharers` CTAs, each of another cluster, take the same bytes
/// from memory.
pub fn resources(tally: &Tally, sharers: u32, gpu: &Gpu) -> [Resource; 5] {
    let resource = |resource, work: f64, unit, per_cycle| Resource {
        resource,
        work,
        unit,
        per_cycle,
        cycles: work / per_cycle,
    };
    let conflict_bytes = tally.get(Quantity::BankConflicts) * SHARED_BYTES_PER_CYCLE;
    let memory_bytes = tally.get(Quantity::Sectors) * SECTOR_BYTES / f64::from(sharers);
    // The assembler renames registers instead of moving them, so moves may cost nothing.
    let issued = tally.get(Quantity::Instructions) - tally.get(Quantity::Move);
    [
        resource("tensor cores", tally.get(Quantity::TensorFlop), "FLOP", gpu.tensor_per_cycle()),
        resource(
            "shared memory",
            tally.get(Quantity::SharedBytes) + conflict_bytes,
            "bytes",
            SHARED_BYTES_PER_CYCLE,
        ),
        resource("global memory", memory_bytes, "bytes", gpu.memory_per_cycle()),
        resource("issue slots", issued, "instructions", ISSUES_PER_CYCLE),
        resource(
            "special functions",
            tally.get(Quantity::Special),
            "instructions",
            SPECIAL_FUNCTIONS_PER_CYCLE,
        ),
    ]
}

/// The resource that takes longest.
pub fn bound(resources: &[Resource; 5]) -> Resource {
    let longer = |one: Resource, other: &Resource| if other.cycles > one.cycles { *other } else { one };
    resources.iter().fold(resources[0], longer)
}

/// A lower bound of the time of a whole launch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LaunchBound {
    /// CTAs.
    pub ctas: u32,
    /// In microseconds.
    pub us: f64,
    /// The resource that takes so long.
    pub bound: &'static str,
}

impl LaunchBound {
    /// Of CTAs that together do what a tally says. They have as many SMs as they can use, and all of the memory's
    /// bandwidth.
    pub fn new(total: &Tally, ctas: u32, sharers: u32, gpu: &Gpu) -> Self {
        let used = f64::from(ctas).min(gpu.multiprocessors);
        let resources = resources(total, sharers, gpu).map(|resource| {
            let at_once = if resource.resource == "global memory" { gpu.multiprocessors } else { used };
            Resource { cycles: resource.cycles / at_once, ..resource }
        });
        let bound = bound(&resources);
        Self { ctas, us: bound.cycles / gpu.clock * 1e6, bound: bound.resource }
    }
}

#[cfg(test)]
mod tests {
    use oximla::ptx_emulator::profile::Counts;

    use super::*;
    use crate::gpu::GpuName;

    #[test]
    fn work_is_divided_by_rates() {
        let gpu = GpuName::H100.ceilings();
        let counts = Counts {
            warps: 8,
            shared_bytes: 1280,
            bank_conflicts: 2,
            sectors: 10,
            tensor_flop: 1 << 20,
            ..Counts::default()
        };
        let tally = Tally::new(Quantity::Special, &counts);
        let cycles = resources(&tally, 2, &gpu).map(|resource| resource.cycles);
        // 989e12 / 132 / 1.98e9 = 3784 FLOP a cycle; 3.35e12 / 132 / 1.98e9 = 12.82 bytes a cycle.
        let expected = [277.1, 12.0, 160.0 / 12.82, 2.0, 16.0];
        let near =
            cycles.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.01 * expected);
        assert!(near, "{cycles:?}");
        assert_eq!(bound(&resources(&tally, 2, &gpu)).resource, "tensor cores");
    }

    #[test]
    fn a_launch_cannot_use_more_than_the_gpu_has() {
        let gpu = GpuName::H100.ceilings();
        let tally = Tally::new(Quantity::Tensor, &Counts { tensor_flop: 989_000_000, ..Counts::default() });
        // A millionth of the peak's second on the whole GPU.
        assert!((LaunchBound::new(&tally, 1000, 1, &gpu).us - 1.0).abs() < 1e-6);
        assert!((LaunchBound::new(&tally, 66, 1, &gpu).us - 2.0).abs() < 1e-6);
    }
}
