//! What GPUs can do at best.

use clap::ValueEnum;
use serde::Serialize;

/// Bytes a cycle that an SM's shared memory reads or writes: 32 banks of 4 bytes (CUDA C++ Programming Guide, "Shared
/// Memory").
pub const SHARED_BYTES_PER_CYCLE: f64 = 128.0;

/// Warp instructions that an SM issues in a cycle: one from each of its four schedulers (CUDA C++ Programming Guide,
/// "Compute Capability 9.0").
pub const ISSUES_PER_CYCLE: f64 = 4.0;

/// Warp instructions of exponentials, logarithms and reciprocals that an SM finishes in a cycle: 16 results, half a
/// warp (CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions").
pub const SPECIAL_FUNCTIONS_PER_CYCLE: f64 = 0.5;

/// Bytes of a sector, the unit in which global memory moves.
pub const SECTOR_BYTES: f64 = 32.0;

/// A GPU whose ceilings are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GpuName {
    /// H200 SXM, ceilings as measured
    H200,
    /// H100 SXM, ceilings of the data sheet
    H100,
    /// A chip with the ceilings of B200's data sheet, if it ran this kernel
    B200Like,
}

/// Ceilings of a GPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub multiprocessors: f64,
    /// Highest clock of an SM, in Hz.
    pub clock: f64,
    /// Dense bf16 tensor operations of the whole GPU, in FLOP/s.
    pub tensor_flops: f64,
    /// Bandwidth of global memory, in bytes/s.
    pub bandwidth: f64,
    /// Where the last two come from.
    pub source: &'static str,
}

impl GpuName {
    /// The GPU that a driver calls so; `None` where no ceilings are known.
    pub fn of_device(name: &str) -> Option<Self> {
        match name {
            "NVIDIA H200" => Some(Self::H200),
            "NVIDIA H100 80GB HBM3" => Some(Self::H100),
            _ => None,
        }
    }

    /// Its ceilings. Clocks are the highest that the driver lists for the card.
    pub fn ceilings(self) -> Gpu {
        match self {
            // Tensor peak in a run of 12 ms, bandwidth of a reduction that only reads; November 2026. The data sheet
            // says 989 TFLOP/s and 4.8 TB/s.
            Self::H200 => Gpu {
                name: "H200",
                multiprocessors: 132.0,
                clock: 1.98e9,
                tensor_flops: 966e12,
                bandwidth: 4.42e12,
                source: "measured with a Rust wgmma kernel, driver 580",
            },
            Self::H100 => Gpu {
                name: "H100 SXM",
                multiprocessors: 132.0,
                clock: 1.98e9,
                tensor_flops: 989e12,
                bandwidth: 3.35e12,
                source: "data sheet",
            },
            Self::B200Like => Gpu {
                name: "B200-like",
                multiprocessors: 148.0,
                clock: 1.965e9,
                tensor_flops: 2.25e15,
                bandwidth: 8e12,
                source: "data sheet",
            },
        }
    }
}

impl Gpu {
    /// Tensor operations of an SM, in FLOP a cycle.
    pub fn tensor_per_cycle(&self) -> f64 {
        self.tensor_flops / self.multiprocessors / self.clock
    }

    /// An SM's share of the bandwidth, in bytes a cycle.
    pub fn memory_per_cycle(&self) -> f64 {
        self.bandwidth / self.multiprocessors / self.clock
    }
}
