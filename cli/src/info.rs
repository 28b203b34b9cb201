//! `oximla info`: what can run here.

use std::fmt::{self, Display};

use clap::Args;
use oximla::{Device, EmulatedOptions, Error, KernelInfo};
use serde::Serialize;

use crate::Outcome;
use crate::report::Reporter;

#[derive(Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows the backends.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(reporter: &mut Reporter) -> anyhow::Result<Outcome> {
    let backends = vec![
        Entry::new("cuda", Device::cuda(0)),
        Entry::new("cpu", Ok(Device::cpu())),
        Entry::new("emulated", Device::emulated(EmulatedOptions::default())),
    ];
    reporter.emit(&Report { version: env!("CARGO_PKG_VERSION"), backends })?;
    Ok(Outcome::Passed)
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    backends: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    backend: &'static str,
    available: bool,
    /// Why it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    device: Option<DeviceEntry>,
}

#[derive(Serialize)]
struct DeviceEntry {
    device: String,
    /// Multiprocessors of a GPU, threads on the CPU.
    units: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    compute_capability: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    kernels: Vec<KernelEntry>,
}

#[derive(Serialize)]
struct KernelEntry {
    entry: &'static str,
    registers: u32,
    local_bytes: u32,
    shared_bytes: u32,
    threads: u32,
}

impl Entry {
    fn new(backend: &'static str, device: Result<Device, Error>) -> Self {
        match device.and_then(DeviceEntry::of) {
            Ok(device) => Self { backend, available: true, reason: None, device: Some(device) },
            Err(why) => Self { backend, available: false, reason: Some(why.to_string()), device: None },
        }
    }
}

impl DeviceEntry {
    fn of(device: Device) -> Result<Self, Error> {
        let info = device.info()?;
        Ok(Self {
            device: info.name,
            units: info.units,
            compute_capability: info.compute_capability.map(|(major, minor)| format!("{major}.{minor}")),
            driver: info.driver,
            kernels: device.kernels()?.into_iter().map(KernelEntry::from).collect(),
        })
    }
}

impl From<KernelInfo> for KernelEntry {
    fn from(kernel: KernelInfo) -> Self {
        let KernelInfo { entry, registers, local_bytes, shared_bytes, threads } = kernel;
        Self { entry, registers, local_bytes, shared_bytes, threads }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oximla {}", self.version)?;
        for entry in &self.backends {
            match (&entry.device, &entry.reason) {
                (Some(device), _) => write!(f, "\n{:<8} {device}", entry.backend)?,
                (None, reason) => {
                    write!(
                        f,
                        "\n{:<8} not available: {}",
                        entry.backend,
                        reason.as_deref().unwrap_or("unknown")
                    )?;
                }
            }
        }
        Ok(())
    }
}

impl Display for DeviceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        match &self.compute_capability {
            Some(capability) => {
                write!(f, ", compute capability {capability}, {} multiprocessors", self.units)?
            }
            None => write!(f, ", {} threads", self.units)?,
        }
        if let Some(driver) = &self.driver {
            write!(f, ", driver {driver}")?;
        }
        for kernel in &self.kernels {
            let KernelEntry { entry, registers, local_bytes, shared_bytes, threads } = kernel;
            write!(
                f,
                "\n         {entry}: {threads} threads, {registers} registers, {shared_bytes} bytes of shared memory"
            )?;
            if *local_bytes > 0 {
                write!(f, ", {local_bytes} bytes of local memory a thread")?;
            }
        }
        Ok(())
    }
}
