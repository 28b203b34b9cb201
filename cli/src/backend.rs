//! Which device computes a case.

use clap::ValueEnum;
use oximla::{Device, EmulatedOptions, Error};

/// What `--backend` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The first GPU if there is one, and the CPU for what that cannot compute
    Auto,
    /// The first GPU
    Cuda,
    /// The CPU
    Cpu,
    /// The GPU kernels on an emulated GPU, which checks them while they run; thousands of times slower
    Emulated,
}

/// A device that may be asked.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// `"cpu"`, `"cuda"` or `"emulated"`.
    pub backend: &'static str,
    /// The name of its processor.
    pub name: String,
    pub device: Device,
}

/// What a candidate made of a problem, and what kept those before it from it.
#[derive(Debug)]
pub struct Found<'a, T> {
    pub by: &'a Candidate,
    pub value: T,
    /// One sentence for each candidate that could not.
    pub passed_over: Vec<String>,
}

impl Backend {
    /// The devices to ask, best first.
    ///
    /// # Errors
    /// When a backend that was asked for by name is not there.
    pub fn candidates(self) -> Result<Vec<Candidate>, Error> {
        match self {
            Self::Cpu => Ok(vec![Candidate::new(Device::cpu())?]),
            Self::Cuda => Ok(vec![Candidate::new(Device::cuda(0)?)?]),
            Self::Emulated => Ok(vec![Candidate::new(Device::emulated(EmulatedOptions::default())?)?]),
            Self::Auto => {
                let gpu = Device::cuda(0).and_then(Candidate::new).ok();
                Ok(gpu.into_iter().chain([Candidate::new(Device::cpu())?]).collect())
            }
        }
    }
}

impl Candidate {
    fn new(device: Device) -> Result<Self, Error> {
        let info = device.info()?;
        Ok(Self { backend: info.backend, name: info.name, device })
    }
}

/// Asks the candidates in order until one supports what is asked.
///
/// # Errors
/// The first error other than [`Error::Unsupported`], or the last one.
pub fn first_able<T>(
    candidates: &[Candidate],
    mut ask: impl FnMut(&Candidate) -> Result<T, Error>,
) -> Result<Found<'_, T>, Error> {
    let mut passed_over = Vec::new();
    let mut last = None;
    for by in candidates {
        match ask(by) {
            Ok(value) => return Ok(Found { by, value, passed_over }),
            Err(why @ Error::Unsupported { .. }) => {
                passed_over.push(format!("unsupported on {}: {why}", by.backend));
                last = Some(why);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::Unsupported {
        what: "attention",
        need: "a device".into(),
        have: "none".into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        ["first", "second"]
            .map(|backend| Candidate { backend, name: String::new(), device: Device::cpu() })
            .to_vec()
    }

    fn unsupported() -> Error {
        Error::Unsupported { what: "it", need: "more".into(), have: "less".into() }
    }

    #[test]
    fn what_one_does_not_support_the_next_is_asked() {
        let candidates = candidates();
        let ask = |c: &Candidate| if c.backend == "first" { Err(unsupported()) } else { Ok(7) };
        let found = first_able(&candidates, ask).unwrap();
        assert_eq!((found.by.backend, found.value), ("second", 7));
        assert_eq!(found.passed_over, ["unsupported on first: it needs more; there is less"]);
    }

    #[test]
    fn other_errors_end_the_search() {
        let asked = candidates();
        let result = first_able::<()>(&asked, |c| {
            assert_eq!(c.backend, "first");
            Err(Error::File { path: "a".into(), reason: "b".into() })
        });
        assert!(matches!(result, Err(Error::File { .. })));
        assert!(matches!(first_able::<()>(&asked, |_| Err(unsupported())), Err(Error::Unsupported { .. })));
    }
}
