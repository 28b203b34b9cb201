//! What the emulator finds wrong with a kernel.

use std::fmt;

use ptx_syntax::ast::Position;

/// One finding: what went wrong, where, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The check that found it.
    pub check: Check,
    /// One sentence with the values that were wrong and what was expected.
    pub message: String,
    /// Where it happened; none for what concerns a whole launch.
    pub site: Option<Site>,
    /// Other places that matter, such as the other access of a race, with what happened there.
    pub related: Vec<(String, Site)>,
}

/// The checks, one for each class of mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Check {
    /// An access outside every allocation, or outside the shared memory of the launch.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A read of memory that nothing has written.
    Uninitialized,
    /// Two accesses of one location, at least one a write, with nothing that orders them.
    DataRace,
    /// An access of the asynchronous proxy to what was written by the generic proxy, without a proxy fence between.
    MissingProxyFence,
    /// A register of a `wgmma` in flight that is read, written or moved before `wgmma.wait_group`.
    AccumulatorInFlight,
    /// A register of a `wgmma` that was accessed before, with no `wgmma.fence` since.
    MissingWgmmaFence,
    /// A descriptor, shape or operand of a matrix instruction that makes no sense.
    MatrixOperand,
    /// An mbarrier used against its rules.
    Mbarrier,
    /// A named or cluster barrier used against its rules.
    Barrier,
    /// An instruction that needs its whole warp, executed by a part of it.
    Diverged,
    /// A bulk copy or tensor map that makes no sense.
    BulkCopy,
    /// Everything left is waiting.
    Deadlock,
    /// More instructions than the launch may execute.
    StepLimit,
    /// Registers beyond what the warpgroup has since `setmaxnreg`, or a `setmaxnreg` against its rules.
    Registers,
    /// `trap` was executed.
    Trap,
}

/// A place in a running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The instruction as it is printed.
    pub instruction: String,
    /// Where it stands in the PTX.
    pub position: Position,
    /// `%ctaid`
    pub cta: [u32; 3],
    /// `%warpid`
    pub warp: u32,
    /// Number in the CTA of the thread concerned, or of the first one of several.
    pub thread: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instruction, position, cta: [x, y, z], warp, thread } = self;
        write!(f, "line {position}: {instruction}  (CTA {x},{y},{z} warp {warp} thread {thread})")
    }
}

impl Check {
    /// Every check with its name.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::OutOfBounds, "out of bounds"),
        (Self::Misaligned, "misaligned access"),
        (Self::Uninitialized, "uninitialised read"),
        (Self::DataRace, "data race"),
        (Self::MissingProxyFence, "missing proxy fence"),
        (Self::AccumulatorInFlight, "accumulator in flight"),
        (Self::MissingWgmmaFence, "missing wgmma.fence"),
        (Self::MatrixOperand, "matrix operand"),
        (Self::Mbarrier, "mbarrier misuse"),
        (Self::Barrier, "barrier misuse"),
        (Self::Diverged, "diverged warp"),
        (Self::BulkCopy, "bulk copy"),
        (Self::Deadlock, "deadlock"),
        (Self::StepLimit, "step limit"),
        (Self::Registers, "register budget"),
        (Self::Trap, "trap"),
    ];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(check, _)| *check == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check.name(), self.message)?;
        if let Some(site) = &self.site {
            write!(f, "\n  at {site}")?;
        }
        for (what, site) in &self.related {
            write!(f, "\n  {what} {site}")?;
        }
        Ok(())
    }
}
