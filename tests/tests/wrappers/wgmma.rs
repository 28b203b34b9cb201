//! [`ptx/wgmma.rs`](../../../kernels-gpu/src/ptx/wgmma.rs)

use half::{bf16, f16};
use ptx_emulator::diagnostic::Check;

use crate::kernel::{Kernel, Work};

/// Rows of A, C and D.
const ROWS: usize = 64;

/// Columns of A: four steps of 16.
const DEPTH: usize = 64;

/// Bytes of a row in shared memory, whatever the matrix.
const ROW_BYTES: usize = 128;

/// Bytes of 64 rows.
const PANEL_BYTES: usize = 64 * ROW_BYTES;

const THREADS: usize = 128;

/// Type of the elements of A and B.
#[derive(Clone, Copy)]
pub enum Element {
    Bf16,
    F16,
}

/// D = C + A·B of small integers, which every format holds exactly.
#[derive(Clone, Copy)]
pub struct Product {
    /// Columns of B: 64, K-major, or 256, N-major.
    pub columns: usize,
    pub element: Element,
}

const BF16_64: Product = Product { columns: 64, element: Element::Bf16 };
const BF16_256: Product = Product { columns: 256, element: Element::Bf16 };

pub fn wgmma_fence(kernel: &Kernel) {
    BF16_256.check(kernel);
    kernel.must_fail_without("wgmma.fence", &BF16_256.work(), Check::MissingWgmmaFence);
}

pub fn wgmma_fence_32(kernel: &Kernel) {
    BF16_64.check(kernel);
    kernel.must_fail_without("wgmma.fence", &BF16_64.work(), Check::MissingWgmmaFence);
}

pub fn wgmma_commit_group(kernel: &Kernel) {
    BF16_64.check(kernel);
    kernel.must_fail_without("wgmma.commit_group", &BF16_64.work(), Check::AccumulatorInFlight);
}

pub fn wgmma_wait_all_32(kernel: &Kernel) {
    BF16_64.check(kernel);
    kernel.must_fail_without("wgmma.wait_group", &BF16_64.work(), Check::AccumulatorInFlight);
}

pub fn wgmma_wait_all_128(kernel: &Kernel) {
    BF16_256.check(kernel);
    kernel.must_fail_without("wgmma.wait_group", &BF16_256.work(), Check::AccumulatorInFlight);
}

pub fn wgmma_m64n64k16_bf16(kernel: &Kernel) {
    BF16_64.check(kernel);
}

pub fn wgmma_m64n64k16_f16(kernel: &Kernel) {
    Product { element: Element::F16, ..BF16_64 }.check(kernel);
}

pub fn wgmma_m64n64k16_bf16_ra(kernel: &Kernel) {
    BF16_64.check(kernel);
}

pub fn wgmma_m64n64k16_f16_ra(kernel: &Kernel) {
    Product { element: Element::F16, ..BF16_64 }.check(kernel);
}

pub fn wgmma_m64n256k16_bf16_bt(kernel: &Kernel) {
    BF16_256.check(kernel);
}

pub fn wgmma_m64n256k16_f16_bt(kernel: &Kernel) {
    Product { element: Element::F16, ..BF16_256 }.check(kernel);
}

impl Product {
    /// A and B as they are to lie in shared memory, and C.
    pub fn work(self) -> Work {
        let mut shared = vec![0_u8; PANEL_BYTES + DEPTH * self.columns * 2];
        for (row, k) in pairs(ROWS, DEPTH) {
            self.put(&mut shared[..PANEL_BYTES], row, k, a(row, k));
        }
        for (k, column) in pairs(DEPTH, self.columns) {
            let (panel, row, place) = match self.columns {
                64 => (0, column, k),
                _ => (column / 64, k, column % 64),
            };
            let panel = &mut shared[(1 + panel) * PANEL_BYTES..][..PANEL_BYTES];
            self.put(panel, row, place, b(k, column));
        }
        let mut words: Vec<u32> = bytemuck::pod_collect_to_vec(&shared);
        words.extend(self.fragments(|row, column| c(row, column) as f32));
        Work::new(words, ROWS * self.columns)
    }

    /// Checks D.
    pub fn check(self, kernel: &Kernel) {
        let d = |row, column| {
            let products = (0..DEPTH).map(|k| a(row, k) * b(k, column));
            (c(row, column) + products.sum::<i32>()) as f32
        };
        let (found, expected) = (kernel.run(&self.work()), self.fragments(d));
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        if let Some(at) = wrong {
            let [found, expected] = [found[at], expected[at]].map(f32::from_bits);
            let (thread, i) = (at / self.accumulators(), at % self.accumulators());
            let (row, column) = place(thread, i);
            panic!("D[{row}][{column}] (thread {thread}, accumulator {i}): {found}, not {expected}");
        }
    }

    /// Writes an element of a panel. The number of the 16-byte chunk in a row is xored with the row's.
    fn put(self, panel: &mut [u8], row: usize, column: usize, value: i32) {
        let bits = match self.element {
            Element::Bf16 => bf16::from_f32(value as f32).to_bits(),
            Element::F16 => f16::from_f32(value as f32).to_bits(),
        };
        let at = (row * ROW_BYTES + column * 2) ^ (row % 8 * 16);
        panel[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }

    /// A matrix of 64 rows as the threads hold it.
    fn fragments(self, value: impl Fn(usize, usize) -> f32) -> Vec<u32> {
        pairs(THREADS, self.accumulators())
            .map(|(thread, i)| {
                let (row, column) = place(thread, i);
                value(row, column).to_bits()
            })
            .collect()
    }

    /// Accumulators of a thread.
    fn accumulators(self) -> usize {
        ROWS * self.columns / THREADS
    }
}

/// Row and column of a thread's accumulator (PTX ISA, "wgmma.mma_async", fragment of D): a warp has 16 rows, four lanes
/// share one, and a lane has pairs of neighbours, eight columns apart, in its row and in the row eight below by turns.
fn place(thread: usize, accumulator: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    let row = warp * 16 + lane / 4 + accumulator / 2 % 2 * 8;
    let column = accumulator / 4 * 8 + lane % 4 * 2 + accumulator % 2;
    (row, column)
}

fn a(row: usize, k: usize) -> i32 {
    (row * 5 + k * 3) as i32 % 17 - 8
}

fn b(k: usize, column: usize) -> i32 {
    (k * 7 + column * 11) as i32 % 19 - 9
}

fn c(row: usize, column: usize) -> i32 {
    (row * 256 + column) as i32
}

fn pairs(outer: usize, inner: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outer).flat_map(move |i| (0..inner).map(move |j| (i, j)))
}
