//! A kernel in a file, with a header that says how to launch it.

use std::path::{Path, PathBuf};

use ptx_emulator::diagnostic::Diagnostic;
use ptx_emulator::tensor_map::{ElementType, Swizzle, TensorMap};
use ptx_emulator::{GlobalMemory, Launch, LaunchError, Module, Options, Report, Start, Stream};

/// A kernel and its header.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub name: String,
    pub ptx: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared_bytes: u32,
    pub max_steps: u64,
    /// Entries to launch, each free to begin while those before it run; none for the first entry alone.
    pub launches: Vec<String>,
    pub parameters: Vec<Parameter>,
    /// Words that the buffers of parameters hold in the end.
    pub results: Vec<(usize, Vec<u32>)>,
    /// The check that must find something, and whether only some seeds have to show it.
    pub finds: Option<(String, bool)>,
}

#[derive(Clone, Debug)]
pub enum Parameter {
    /// The bytes of a number.
    Number(Vec<u8>),
    /// The address of a buffer of so many words; those that are given are written.
    Words(usize, Vec<u32>),
    /// A tensor map, by value, of a tensor of 32-bit numbers that count from 0.
    Map { dims: Vec<u64>, box_dims: Vec<u32>, swizzle: Swizzle },
}

/// Launches that have ended: what each reported, and what each parameter's buffer holds.
pub struct Outcome {
    pub reports: Vec<Report>,
    pub buffers: Vec<Vec<u32>>,
}

/// The cases of a folder beside this one, by name.
pub fn cases(folder: &str) -> Vec<Case> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ptx"))
            .collect();
    paths.sort();
    paths.iter().map(|path| Case::read(path)).collect()
}

impl Case {
    /// Reads a file.
    pub fn read(path: &Path) -> Self {
        let ptx = std::fs::read_to_string(path).unwrap();
        let mut case = Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            max_steps: 1_000_000,
            ..Self::default()
        };
        let header = ptx.lines().map_while(|line| line.strip_prefix("// "));
        for (key, value) in header.filter_map(|line| line.split_once(": ")) {
            match key {
                "launch" => value.split(", ").for_each(|setting| case.set(setting)),
                "launches" => case.launches = value.split(' ').map(str::to_owned).collect(),
                "parameter" => case.parameters.push(Parameter::read(value)),
                "result" => {
                    let (index, words) = value.split_once(" = ").unwrap();
                    case.results.push((index.parse().unwrap(), words_of(words)));
                }
                "finds" => {
                    let check = value.strip_suffix(", with some seeds");
                    case.finds = Some((check.unwrap_or(value).to_owned(), check.is_some()));
                }
                _ => {}
            }
        }
        Self { ptx, ..case }
    }

    fn set(&mut self, setting: &str) {
        let (key, value) = setting.split_once(' ').unwrap();
        match key {
            "grid" => self.grid = shape(value),
            "block" => self.block = shape(value),
            "cluster" => self.cluster = shape(value),
            "shared" => self.shared_bytes = value.parse().unwrap(),
            "steps" => self.max_steps = value.parse().unwrap(),
            _ => panic!("{}: {setting}", self.name),
        }
    }

    /// Loads and launches the kernel.
    pub fn run(&self, seed: u64) -> Result<Outcome, LaunchError> {
        self.run_with(&Options { seed, max_steps: self.max_steps, ..Options::default() })
    }

    /// As [`Self::run`].
    pub fn run_with(&self, options: &Options) -> Result<Outcome, LaunchError> {
        let module = Module::load(&self.ptx)?;
        let memory = GlobalMemory::new();
        let placed: Vec<(Vec<u8>, u64, usize)> =
            self.parameters.iter().map(|parameter| parameter.place(&memory)).collect();
        let parameters: Vec<&[u8]> = placed.iter().map(|(bytes, ..)| bytes.as_slice()).collect();
        let first = module.entries().next().unwrap_or_default().to_owned();
        let entries = if self.launches.is_empty() { std::slice::from_ref(&first) } else { &self.launches };
        let stream = Stream::new();
        let launch = |entry: &String| {
            let launch = Launch {
                entry,
                grid: self.grid,
                block: self.block,
                cluster: self.cluster,
                shared_bytes: self.shared_bytes,
                parameters: &parameters,
            };
            stream.launch(&module, &memory, &launch, options, Start::Programmatic)
        };
        let reports = entries.iter().map(launch).collect::<Result<_, _>>()?;
        let buffers = placed.iter().map(|(_, address, words)| {
            let mut bytes = vec![0; words * 4];
            memory.read(*address, &mut bytes).unwrap();
            bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
        });
        Ok(Outcome { buffers: buffers.collect(), reports })
    }
}

impl Outcome {
    /// All findings.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.reports.iter().flat_map(|report| &report.diagnostics)
    }

    /// All findings, as they are printed.
    pub fn text(&self) -> String {
        self.diagnostics().map(|diagnostic| format!("{diagnostic}\n")).collect()
    }
}

impl Parameter {
    fn read(text: &str) -> Self {
        let (kind, value) = text.split_once(' ').unwrap();
        match kind {
            "u32" => Self::Number(number(value).to_le_bytes().to_vec()),
            "u64" => Self::Number(u64::from(number(value)).to_le_bytes().to_vec()),
            "words" => match value.split_once(" = ") {
                None => Self::Words(value.parse().unwrap(), Vec::new()),
                Some((count, words)) => Self::Words(count.parse().unwrap(), words_of(words)),
            },
            "map" => {
                let parts: Vec<&str> = value.split(' ').collect();
                let swizzle = match parts.get(2) {
                    None => Swizzle::None,
                    Some(span) => {
                        *Swizzle::ALL.iter().find(|swizzle| swizzle.span() == number(span)).unwrap()
                    }
                };
                let dims = |text: &str| text.split('x').map(number).collect::<Vec<u32>>();
                let box_dims = dims(parts[1]);
                Self::Map { dims: dims(parts[0]).into_iter().map(u64::from).collect(), box_dims, swizzle }
            }
            _ => panic!("no parameter: {text}"),
        }
    }

    /// The parameter's bytes, and address and words of its buffer.
    fn place(&self, memory: &GlobalMemory) -> (Vec<u8>, u64, usize) {
        let allocate = |words: &[u32], count: usize| {
            let address = memory.allocate(count * 4);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            memory.write(address, &bytes).unwrap();
            address
        };
        match self {
            Self::Number(bytes) => (bytes.clone(), allocate(&[], 0), 0),
            Self::Words(count, words) => {
                let address = allocate(words, *count);
                (address.to_le_bytes().to_vec(), address, *count)
            }
            Self::Map { dims, box_dims, swizzle } => {
                let count = dims.iter().product::<u64>() as usize;
                let address = allocate(&(0..count as u32).collect::<Vec<_>>(), count);
                let strides = dims.iter().scan(4, |stride, dim| {
                    *stride *= dim;
                    Some(*stride)
                });
                let map = TensorMap {
                    element: ElementType::U32,
                    address,
                    dims: dims.clone(),
                    strides: strides.take(dims.len() - 1).collect(),
                    box_dims: box_dims.clone(),
                    element_strides: vec![1; dims.len()],
                    swizzle: *swizzle,
                    fill_nan: false,
                };
                let bytes = map.encode().unwrap().iter().flat_map(|word| word.to_le_bytes()).collect();
                (bytes, address, count)
            }
        }
    }
}

fn shape(text: &str) -> [u32; 3] {
    let mut shape = [1; 3];
    shape.iter_mut().zip(text.split('x')).for_each(|(axis, size)| *axis = size.parse().unwrap());
    shape
}

/// `3`, `7*32` (32 times 7), `0..64` (counting).
fn words_of(text: &str) -> Vec<u32> {
    text.split(' ')
        .flat_map(|item| match (item.split_once(".."), item.split_once('*')) {
            (Some((first, end)), _) => (number(first)..number(end)).collect(),
            (_, Some((value, count))) => vec![number(value); count.parse().unwrap()],
            _ => vec![number(item)],
        })
        .collect()
}

fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}
