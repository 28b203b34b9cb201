//! Running the kernels of `tests/ptx/wrappers_sm_90a.ptx`.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::LazyLock;

use cudarc::driver::{CudaContext, result, sys};
use oximla_conformance::backend::Backend;
use oximla_conformance::instructions::map::Map;
use ptx_emulator::diagnostic::Check;
use ptx_emulator::{Diagnostic, GlobalMemory, Launch, Module, Options, launch};
use serde_json::Value;

const PTX: &str = include_str!("../../ptx/wrappers_sm_90a.ptx");

const MANIFEST: &str = include_str!("../../ptx/manifest.json");

/// Orders of warps and asynchronous operations that the emulator tries.
const SEEDS: std::ops::Range<u64> = 0..4;

/// Instructions that a warp may execute on the emulator: far more than any of these kernels has.
const MAX_STEPS: u64 = 100_000;

/// What output words hold before a run.
pub const UNWRITTEN: u32 = 0xffff_fff1;

/// An entry of the module, as the manifest describes it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs of a cluster, 1 for none.
    pub cluster: u32,
    shared_bytes: u32,
}

/// A kernel on a GPU, real or emulated.
pub struct Kernel {
    /// What the manifest says of it.
    pub entry: Entry,
    /// `None` for the emulator.
    cuda: Option<Backend>,
}

/// What a kernel is given.
#[derive(Clone, Debug)]
pub struct Work {
    grid: [u32; 2],
    input: Vec<u32>,
    output_words: usize,
    /// A tensor, and the first element of a box of it.
    tensor: Option<(Map, [i32; 4])>,
    /// Whether the tensor is the output, not in the input.
    stores: bool,
}

impl Work {
    /// One CTA, with these words to read and so many to write.
    pub fn new(input: Vec<u32>, output_words: usize) -> Self {
        Self { grid: [1, 1], input, output_words, tensor: None, stores: false }
    }

    /// The same on a grid.
    pub fn on_grid(self, grid: [u32; 2]) -> Self {
        Self { grid, ..self }
    }

    /// The same with so many words to write.
    pub fn writing(self, output_words: usize) -> Self {
        Self { output_words, ..self }
    }

    /// The same with a tensor in the input, for kernels that fetch a box.
    pub fn fetching(self, map: Map, coordinates: [i32; 4]) -> Self {
        Self { tensor: Some((map, coordinates)), ..self }
    }

    /// The same where the output is a tensor, for kernels that store a box, which is in the input.
    pub fn storing(self, map: Map, coordinates: [i32; 4]) -> Self {
        Self { stores: true, ..self.fetching(map, coordinates) }
    }

    /// The bytes of each parameter, for buffers at these addresses and a tensor map in the device's form.
    fn parameters(&self, input: u64, output: u64, encode: impl Fn(&Map, u64) -> [u64; 16]) -> Vec<Vec<u8>> {
        match &self.tensor {
            None => [input, output].map(|address| address.to_le_bytes().to_vec()).to_vec(),
            Some((map, coordinates)) => {
                let (tensor, boxes) = if self.stores { (output, input) } else { (input, output) };
                let words = encode(map, tensor).into_iter().chain([boxes]).flat_map(u64::to_le_bytes);
                vec![words.chain(coordinates.iter().flat_map(|c| c.to_le_bytes())).collect()]
            }
        }
    }
}

impl Kernel {
    /// The kernel of this name on the emulator, then on the first GPU if there is one.
    ///
    /// # Panics
    /// If there is no such kernel, or the GPU does not work.
    pub fn on_each_gpu(name: &str) -> Vec<Self> {
        let entry = entries().iter().find(|entry| entry.name == name);
        let entry =
            entry.unwrap_or_else(|| panic!("the module lacks {name}; add it and run `cargo xtask ptx`"));
        let on = |cuda| Self { entry: entry.clone(), cuda };
        std::iter::once(None).chain(Backend::cuda().map(Some)).map(on).collect()
    }

    /// Whether it runs on the emulator.
    pub fn is_emulated(&self) -> bool {
        self.cuda.is_none()
    }

    /// The words it writes: on the emulator without findings, and the same in every order of events.
    ///
    /// # Panics
    /// If there are findings, or the driver fails.
    pub fn run(&self, work: &Work) -> Vec<u32> {
        if let Some(backend) = &self.cuda {
            return self.run_cuda(backend, work);
        }
        let mut outputs = SEEDS.map(|seed| {
            let (output, findings) = self.emulate(&MODULE, work, seed);
            let findings: Vec<_> = findings.iter().map(Diagnostic::to_string).collect();
            assert!(findings.is_empty(), "{}, seed {seed}: {}", self.entry.name, findings.join("\n"));
            output
        });
        let first = outputs.next().expect("at least one seed");
        outputs.for_each(|output| assert_eq!(output, first, "{} depends on the seed", self.entry.name));
        first
    }

    /// Runs it on the emulator, which must have a finding in every order of events. Nothing on a GPU.
    ///
    /// # Panics
    /// If there is no such finding.
    pub fn must_fail(&self, work: &Work, check: Check) {
        self.must_find(&MODULE, work, check, "");
    }

    /// The same with the kernel's instructions that begin like this taken out.
    ///
    /// # Panics
    /// If it has no such instruction, or without it there is no such finding.
    pub fn must_fail_without(&self, instruction: &str, work: &Work, check: Check) {
        let ptx = without(PTX, &self.entry.name, instruction);
        let module = Module::load(&ptx).unwrap_or_else(|error| panic!("without {instruction}: {error}"));
        self.must_find(&module, work, check, &format!(" without {instruction}"));
    }

    fn must_find(&self, module: &Module, work: &Work, check: Check, how: &str) {
        for seed in SEEDS.filter(|_| self.is_emulated()) {
            let (_, findings) = self.emulate(module, work, seed);
            let found: Vec<_> = findings.iter().map(|finding| finding.check).collect();
            let name = &self.entry.name;
            assert!(found.contains(&check), "{name}{how}, seed {seed}: found {found:?}; needed is {check:?}");
        }
    }

    fn emulate(&self, module: &Module, work: &Work, seed: u64) -> (Vec<u32>, Vec<Diagnostic>) {
        let memory = GlobalMemory::new();
        let upload = |words: &[u32]| {
            let bytes: &[u8] = bytemuck::cast_slice(words);
            let address = memory.allocate(bytes.len());
            memory.write(address, bytes).expect("the allocation");
            address
        };
        let mut words = vec![UNWRITTEN; work.output_words];
        let (input, output) = (upload(&work.input), upload(&words));
        let parameters =
            work.parameters(input, output, |map, at| map.emulated(at).expect("a map that can be encoded"));
        let what = Launch {
            entry: &self.entry.name,
            grid: [work.grid[0], work.grid[1], 1],
            block: [self.entry.threads, 1, 1],
            cluster: [self.entry.cluster, 1, 1],
            shared_bytes: self.entry.shared_bytes,
            parameters: &parameters.iter().map(Vec::as_slice).collect::<Vec<_>>(),
        };
        let options = Options { seed, max_steps: MAX_STEPS, ..Options::default() };
        let report = launch(module, &memory, &what, &options).expect("a launch that fits the entry");
        memory.read(output, bytemuck::cast_slice_mut(&mut words)).expect("the allocation");
        (words, report.diagnostics)
    }

    fn run_cuda(&self, backend: &Backend, work: &Work) -> Vec<u32> {
        let context = CudaContext::new(0).expect("the context that the backend uses");
        context.bind_to_thread().expect("a current context");
        let (input, mut output) =
            (backend.upload(work.input.clone()), backend.upload(vec![UNWRITTEN; work.output_words]));
        let address = input.address();
        let mut parameters = work.parameters(address, output.address_mut(), |map, at| {
            map.cuda(at).expect("a map that can be encoded")
        });
        let mut arguments: Vec<*mut c_void> =
            parameters.iter_mut().map(|bytes| bytes.as_mut_ptr().cast()).collect();
        context.synchronize().expect("the buffers");
        let mut cluster = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                    x: self.entry.cluster,
                    y: 1,
                    z: 1,
                },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: work.grid[0],
            gridDimY: work.grid[1],
            gridDimZ: 1,
            blockDimX: self.entry.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.entry.shared_bytes,
            hStream: std::ptr::null_mut(),
            attrs: &mut cluster,
            numAttrs: u32::from(self.entry.cluster > 1),
        };
        // SAFETY: the context is current; the entry takes these parameters, as the emulator has checked, and is
        // launched as the manifest says; attribute, parameters and buffers outlive the launch, which is waited for.
        unsafe {
            let function = CUDA_FUNCTIONS[&self.entry.name].0;
            sys::cuLaunchKernelEx(&config, function, arguments.as_mut_ptr(), std::ptr::null_mut())
                .result()
                .unwrap_or_else(|error| panic!("{}: {error:?}", self.entry.name));
        }
        context.synchronize().unwrap_or_else(|error| panic!("{}: {error:?}", self.entry.name));
        output.download()
    }
}

/// The entries, as the manifest lists them.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// As many words of every kind, none of them small.
pub fn words(count: usize) -> Vec<u32> {
    // The golden ratio's fraction, whose multiples are spread evenly.
    (1..=count as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect()
}

static MODULE: LazyLock<Module> = LazyLock::new(|| Module::load(PTX).expect("PTX that the emulator runs"));

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let manifest: Value = serde_json::from_str(MANIFEST).expect("a manifest");
    let entries = manifest["sm_90a"]["entries"].as_array().expect("its entries");
    let number = |entry: &Value, key| entry[key].as_u64().expect("a number") as u32;
    let read = |entry: &Value| Entry {
        name: entry["name"].as_str().expect("a name").to_owned(),
        threads: number(entry, "threads"),
        cluster: number(entry, "cluster"),
        shared_bytes: number(entry, "shared_bytes"),
    };
    entries.iter().map(read).collect()
});

/// A loaded function, which any thread may launch.
struct Function(sys::CUfunction);

// SAFETY: the driver API may be called from any thread.
unsafe impl Send for Function {}
// SAFETY: likewise; nothing of a function is changed once it is loaded.
unsafe impl Sync for Function {}

/// The module on the first GPU, loaded for as long as the process lives into the context that is current.
static CUDA_FUNCTIONS: LazyLock<BTreeMap<String, Function>> = LazyLock::new(|| {
    let image = CString::new(PTX).expect("PTX without a zero byte");
    // SAFETY: the image is PTX text that ends in 0.
    let module =
        unsafe { result::module::load_data(image.as_ptr().cast()) }.expect("PTX that the driver takes");
    let load = |entry: &Entry| {
        let name = CString::new(entry.name.as_str()).expect("a name without a zero byte");
        let shared = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the module is loaded and stays so.
        let function = unsafe {
            let function = result::module::get_function(module, name).expect("the entry");
            result::function::set_function_attribute(function, shared, entry.shared_bytes as i32)
                .expect("the shared memory");
            function
        };
        (entry.name.clone(), Function(function))
    };
    entries().iter().map(load).collect()
});

/// A module with some instructions of an entry taken out: the lines that begin with one.
fn without(ptx: &str, entry: &str, instruction: &str) -> String {
    let begin = ptx.find(&format!(".entry {entry}(")).expect("the entry");
    let end = begin + ptx[begin..].find("\n}").expect("the entry's end");
    let (kept, taken_out): (Vec<&str>, Vec<&str>) =
        ptx[begin..end].split_inclusive('\n').partition(|line| !line.trim_start().starts_with(instruction));
    assert!(!taken_out.is_empty(), "{entry} has no {instruction}");
    [&ptx[..begin], &kept.concat(), &ptx[end..]].concat()
}

#[test]
fn instructions_are_taken_out_of_one_entry() {
    let ptx = "\
.entry one(
)
{
\tbar.sync 0;
\tret;
}
.entry two(
)
{
\tbar.sync 0;
\tret;
}
";
    let expected = ".entry one(\n)\n{\n\tbar.sync 0;\n\tret;\n}\n.entry two(\n)\n{\n\tret;\n}\n";
    assert_eq!(without(ptx, "two", "bar.sync"), expected);
}
