//! The GPU architectures kernels are compiled for.

/// An architecture with its PTX version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Arch {
    /// Hopper with its architecture-specific instructions (`wgmma`, `setmaxnreg`): compute capability 9.0 and no other.
    Sm90a,
}

impl Arch {
    /// The name compilers and assemblers use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sm90a => "sm_90a",
        }
    }

    /// `.version` of the module: the oldest that has the instructions the kernels use.
    pub const fn ptx_version(self) -> (u32, u32) {
        match self {
            Self::Sm90a => (8, 4),
        }
    }

    /// What rustc needs to know.
    pub(crate) fn rustflags(self) -> [String; 2] {
        let (major, minor) = self.ptx_version();
        [format!("-Ctarget-cpu={}", self.name()), format!("-Ctarget-feature=+ptx{major}{minor}")]
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
