//! Launches one after the other, and which of them may overlap.

use std::sync::{Arc, Mutex, PoisonError};

use crate::arithmetic::LANES;
use crate::diagnostic::Site;
use crate::launch::{Launch, LaunchError, Module, Options, Ran, Report, run};
use crate::memory::GlobalMemory;
use crate::order::{Footprint, Toucher};
use crate::program::Program;

/// Earlier grids that are remembered. More could overlap, if each of them lets the next one begin before it waits.
const MOST_EARLIER: usize = 8;

/// A queue of launches, as a CUDA stream.
///
/// A launch runs to its end at once. If it starts as [`Start::Programmatic`], it is judged as one that overlaps the
/// launches before it: its accesses of global memory race with theirs wherever they conflict, until a thread has executed
/// `griddepcontrol.wait`. Whom that waits for, and who may still be running when a launch begins, follows from where the
/// launches between have executed `griddepcontrol.wait` and `griddepcontrol.launch_dependents`.
///
/// ```
/// use ptx_emulator::{GlobalMemory, Launch, Module, Options, Start, Stream};
///
/// let module = Module::load(
///     ".version 8.0
///      .target sm_90a
///      .address_size 64
///      .visible .entry set(.param .u64 number)
///      {
///          .reg .b64 %rd<2>;
///          ld.param.u64 %rd0, [number];
///          st.global.u32 [%rd0], 7;
///          griddepcontrol.wait;
///          ret;
///      }",
/// )?;
/// let memory = GlobalMemory::new();
/// let parameter = memory.allocate(4).to_le_bytes();
/// let call = Launch {
///     entry: "set",
///     grid: [1, 1, 1],
///     block: [1, 1, 1],
///     cluster: [1, 1, 1],
///     shared_bytes: 0,
///     parameters: &[&parameter],
/// };
/// let stream = Stream::new();
/// let run = |start| stream.launch(&module, &memory, &call, &Options::default(), start);
/// assert!(run(Start::Programmatic)?.diagnostics.is_empty(), "there is nothing before it");
/// assert!(run(Start::AfterAll)?.diagnostics.is_empty(), "it begins when the first has ended");
/// let report = run(Start::Programmatic)?;
/// assert!(report.diagnostics[0].to_string().starts_with("data race: a write of global memory"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Stream {
    next: Mutex<Overlap>,
}

/// When a launch may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// When all launches before it have ended.
    AfterAll,
    /// When all CTAs of the launch before it have executed `griddepcontrol.launch_dependents` or have ended
    /// (`CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`).
    Programmatic,
}

/// A grid that has run, as far as later ones are concerned.
#[derive(Debug)]
pub(crate) struct Grid {
    program: Arc<Program>,
    /// `%ctaid`s of the CTAs that ran together.
    units: Vec<Vec<[u32; 3]>>,
    /// Of a CTA.
    threads: u32,
    pub(crate) footprint: Footprint,
}

/// A grid that may still be running when another one begins.
#[derive(Clone, Debug)]
pub(crate) struct Earlier {
    pub(crate) grid: Arc<Grid>,
    /// Whether `griddepcontrol.wait` waits for its end.
    pub(crate) is_over_after_wait: bool,
}

/// The grids, the earliest first, that a programmatic launch may overlap.
type Overlap = Vec<Earlier>;

impl Stream {
    /// A queue with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs an entry to its end, as [`crate::launch`] does.
    ///
    /// # Errors
    /// As of [`crate::launch`].
    pub fn launch(
        &self,
        module: &Module,
        memory: &GlobalMemory,
        launch: &Launch<'_>,
        options: &Options,
        start: Start,
    ) -> Result<Report, LaunchError> {
        let earlier = match start {
            Start::AfterAll => Overlap::new(),
            Start::Programmatic => self.next.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        // Not locked while the grid runs: its threads may do other work of the caller's meanwhile.
        let Ran { report, program, units, footprint, dependency } =
            run(module, memory, launch, options, &earlier)?;
        let threads = launch.block.iter().product();
        let grid = Grid { program, units, threads, footprint };

        let mut next = Overlap::new();
        for Earlier { grid, is_over_after_wait: is_awaited } in earlier {
            let is_over_at_start = is_awaited && dependency.waited_before_release;
            let is_over_after_wait = is_awaited && dependency.waited;
            if !is_over_at_start {
                next.push(Earlier { grid, is_over_after_wait });
            }
        }
        next.push(Earlier { grid: Arc::new(grid), is_over_after_wait: true });
        next.drain(..next.len().saturating_sub(MOST_EARLIER));
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(report)
    }

    /// Waits for all launches, as the host does: the next one overlaps none of them.
    pub fn synchronize(&self) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Grid {
    pub(crate) fn entry(&self) -> &str {
        &self.program.name
    }

    /// Where something touched memory.
    pub(crate) fn site(&self, toucher: &Toucher) -> Site {
        site(&self.program, &self.units, self.threads, toucher)
    }
}

/// Where a CTA of a grid touched memory.
pub(crate) fn site(program: &Program, units: &[Vec<[u32; 3]>], threads: u32, toucher: &Toucher) -> Site {
    let instruction = program.instructions.get(toucher.at as usize);
    let thread = u32::from(toucher.agent) % threads;
    Site {
        instruction: instruction.map_or_else(String::new, |instruction| instruction.text.clone()),
        position: instruction.map(|instruction| instruction.position).unwrap_or_default(),
        cta: units[toucher.group as usize].get(usize::from(toucher.cta)).copied().unwrap_or_default(),
        warp: thread / LANES as u32,
        thread,
    }
}
