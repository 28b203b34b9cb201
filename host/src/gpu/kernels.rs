//! The kernels: the committed PTX, and launching under the contracts.

use super::driver::Driver;
use crate::Error;
use crate::device::StreamHandle;
use oximla_types::kernels::SM90A_CONTRACTS;
use oximla_types::launch::LaunchContract;

/// The committed PTX; `cargo xtask ptx` makes it from `kernels-gpu`. Its entries use nothing of each other.
pub(super) static SM90A_PTX: &str = include_str!("../../ptx/sm_90a.ptx");

/// Compute capability of the GPUs that the module is for: its features are of this one alone.
pub(super) const SM90A_CAPABILITY: (u32, u32) = (9, 0);

/// The CTAs of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// CTAs along x and y.
    pub(crate) ctas: [u32; 2],
    /// CTAs of a cluster along x and y, which divide those of the grid; 1 and 1 for none.
    pub(crate) cluster: [u32; 2],
    /// Whether they may begin while earlier launches of the stream run: kernels wait for those by themselves
    /// (`griddepcontrol.wait`), but for what they read of a schedule.
    pub(crate) overlaps: bool,
}

impl Grid {
    /// CTAs without clusters, which may overlap earlier launches.
    pub(super) fn of(ctas: [u32; 2]) -> Self {
        Self { ctas, cluster: [1, 1], overlaps: true }
    }
}

/// One entry of the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(super) contract: &'static LaunchContract,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.contract.entry)
    }
}

impl Kernel {
    /// Every entry of the module.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        SM90A_CONTRACTS.iter().map(|contract| Self { contract })
    }

    /// The kernel of a contract.
    pub(super) fn of(contract: &LaunchContract) -> Result<Self, Error> {
        Self::all().find(|kernel| kernel.contract == contract).ok_or_else(|| missing(contract.entry))
    }

    /// PTX of this entry alone: to compile all of them took a driver more than 20 seconds.
    #[cfg(feature = "cuda")]
    pub(super) fn ptx(self) -> Result<String, Error> {
        let (head, _) = SM90A_PTX.split_once(ENTRY).ok_or_else(|| self.missing())?;
        let begin =
            SM90A_PTX.find(&format!("{ENTRY}{}(", self.contract.entry)).ok_or_else(|| self.missing())?;
        let entry = &SM90A_PTX[begin..];
        let len = entry[ENTRY.len()..].find(ENTRY).map_or(entry.len(), |next| ENTRY.len() + next);
        Ok([head, &entry[..len]].concat())
    }

    /// The error of a module without this entry.
    pub(super) fn missing(self) -> Error {
        missing(self.contract.entry)
    }

    /// Launches the CTAs of `grid` on `stream` with `parameters` as the kernel's one parameter.
    ///
    /// # Safety
    /// As of [`Driver::launch`]; `P` is the parameter type of this kernel.
    pub(super) unsafe fn launch<P: bytemuck::Pod>(
        self,
        driver: &dyn Driver,
        stream: StreamHandle,
        grid: Grid,
        parameters: &P,
    ) -> Result<(), Error> {
        // SAFETY: as the caller promises.
        unsafe { driver.launch(self, grid, bytemuck::bytes_of(parameters), stream) }
    }
}

/// What an entry begins with.
#[cfg(feature = "cuda")]
const ENTRY: &str = "\n.visible .entry ";

fn missing(entry: &'static str) -> Error {
    Error::Unsupported {
        what: entry,
        need: "the kernel in the loaded module".into(),
        have: "none of that name".into(),
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_a_module_by_itself() {
        let (head, _) = SM90A_PTX.split_once(ENTRY).unwrap();
        let mut bytes = head.len();
        for kernel in Kernel::all() {
            let ptx = kernel.ptx().unwrap();
            let entry = ptx.strip_prefix(head).unwrap();
            assert!(entry.starts_with(&format!("{ENTRY}{}(", kernel.contract.entry)));
            assert_eq!(entry.matches(ENTRY).count(), 1);
            assert_eq!(entry.matches('{').count(), entry.matches('}').count(), "{kernel:?} is cut");
            #[cfg(feature = "emulated")]
            assert!(ptx_emulator::Module::load(&ptx).unwrap().entries().eq([kernel.contract.entry]));
            bytes += entry.len();
        }
        assert_eq!(bytes, SM90A_PTX.len(), "there is nothing besides");
    }
}
