//! Running a case on the emulator.

use std::sync::Arc;

use ptx_emulator::{GlobalMemory, Launch, Module, Options, launch};

use super::case::{Case, UNWRITTEN};

/// An emulator with the module that it ran last.
#[derive(Debug, Default)]
pub struct Emulator {
    loaded: Option<(Arc<str>, Result<Module, String>)>,
}

impl Emulator {
    /// The output of a case.
    ///
    /// # Errors
    /// What the emulator refuses, or finds wrong.
    pub fn run(&mut self, case: &Case, seed: u64) -> Result<Vec<u8>, String> {
        let module = self.load(&case.ptx).as_ref().map_err(String::clone)?;
        let memory = GlobalMemory::new();
        let upload = |bytes: &[u8]| {
            let address = memory.allocate(bytes.len());
            memory.write(address, bytes).map(|()| address).map_err(|error| error.to_string())
        };
        let input = upload(&case.input)?;
        let mut result = vec![UNWRITTEN; case.output_bytes];
        let output = upload(&result)?;
        let mut parameters = vec![input.to_le_bytes().to_vec(), output.to_le_bytes().to_vec()];
        for map in &case.maps {
            let words = map.emulated(if map.of_output { output } else { input })?;
            parameters.push(words.into_iter().flat_map(u64::to_le_bytes).collect());
        }
        let parameters: Vec<&[u8]> = parameters.iter().map(Vec::as_slice).collect();
        let what = Launch {
            entry: &case.entry,
            grid: [case.launch.grid, 1, 1],
            block: [case.launch.threads, 1, 1],
            cluster: [case.launch.cluster, 1, 1],
            shared_bytes: case.launch.shared,
            parameters: &parameters,
        };
        let options = Options { seed, max_steps: 1_000_000, ..Options::default() };
        let report = launch(module, &memory, &what, &options).map_err(|error| error.to_string())?;
        if let Some(first) = report.diagnostics.first() {
            return Err(format!("{} findings, the first: {first}", report.diagnostics.len()));
        }
        memory.read(output, &mut result).map_err(|error| error.to_string())?;
        Ok(result)
    }

    fn load(&mut self, ptx: &Arc<str>) -> &Result<Module, String> {
        if self.loaded.as_ref().is_some_and(|(loaded, _)| !Arc::ptr_eq(loaded, ptx)) {
            self.loaded = None;
        }
        let load = || (Arc::clone(ptx), Module::load(ptx).map_err(|error| error.to_string()));
        &self.loaded.get_or_insert_with(load).1
    }
}
