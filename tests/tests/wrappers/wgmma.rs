//! [`ptx/wgmma.rs`](../../../kernels-gpu/src/ptx/wgmma.rs)

use half::{bf16, f16};
use ptx_emulator::diagnostic::Check;

use crate::kernel::{Kernel, Work};

/// Rows of A, C and D.
const ROWS: usize = 64;

/// Columns of A: four steps of 16.
const DEPTH: usize = 64;

/// Products of a kernel: the first of the first half of A's columns, the second of the other half.
const COUNT: usize = 2;

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

/// D = C + A·B twice, of small integers, which every format holds exactly.
#[derive(Clone, Copy)]
pub struct Products {
    /// Columns of B: 64, K-major, or 128, N-major.
    pub columns: usize,
    pub element: Element,
}

const BF16_64: Products = Products { columns: 64, element: Element::Bf16 };
const BF16_128: Products = Products { columns: 128, ..BF16_64 };

pub fn wgmma_fence(kernel: &Kernel) {
    BF16_128.check(kernel);
    kernel.must_fail_without("wgmma.fence", &BF16_128.work(), Check::MissingWgmmaFence);
}

pub fn wgmma_fence_32(kernel: &Kernel) {
    BF16_64.check(kernel);
    kernel.must_fail_without("wgmma.fence", &BF16_64.work(), Check::MissingWgmmaFence);
}

pub fn wgmma_commit_group(kernel: &Kernel) {
    BF16_64.check(kernel);
    kernel.must_fail_without("wgmma.commit_group", &BF16_64.work(), Check::AccumulatorInFlight);
}

pub fn wgmma_wait_32(kernel: &Kernel) {
    check_waits(kernel, BF16_64);
}

pub fn wgmma_wait_64(kernel: &Kernel) {
    check_waits(kernel, BF16_128);
}

pub fn wgmma_m64n64k16_bf16(kernel: &Kernel) {
    BF16_64.check(kernel);
}

pub fn wgmma_m64n64k16_f16(kernel: &Kernel) {
    Products { element: Element::F16, ..BF16_64 }.check(kernel);
}

pub fn wgmma_m64n64k16_bf16_ra(kernel: &Kernel) {
    BF16_64.check(kernel);
}

pub fn wgmma_m64n64k16_f16_ra(kernel: &Kernel) {
    Products { element: Element::F16, ..BF16_64 }.check(kernel);
}

pub fn wgmma_m64n128k16_bf16_bt(kernel: &Kernel) {
    BF16_128.check(kernel);
}

pub fn wgmma_m64n128k16_f16_bt(kernel: &Kernel) {
    Products { element: Element::F16, ..BF16_128 }.check(kernel);
}

/// Both waits are needed, the one for the first product and the one for the second, of which the former does not wait.
fn check_waits(kernel: &Kernel, products: Products) {
    products.check(kernel);
    for pending in [1, 0] {
        let wait = format!("wgmma.wait_group.sync.aligned {pending}");
        kernel.must_fail_without(&wait, &products.work(), Check::AccumulatorInFlight);
    }
}

impl Products {
    /// A and B as they are to lie in shared memory, and both C.
    pub fn work(self) -> Work {
        let mut shared = vec![0_u8; PANEL_BYTES + self.columns / ROWS * PANEL_BYTES];
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
        let mut words: Vec<u32> =
            shared.chunks_exact(size_of::<u32>()).map(bytemuck::pod_read_unaligned).collect();
        words.extend(self.fragments(|product, row, column| c(product, row, column) as f32));
        Work::new(words, COUNT * ROWS * self.columns)
    }

    /// Checks both D.
    pub fn check(self, kernel: &Kernel) {
        let d = |product, row, column| {
            let depth = DEPTH / COUNT;
            let terms = (product * depth..(product + 1) * depth).map(|k| a(row, k) * b(k, column));
            (c(product, row, column) + terms.sum::<i32>()) as f32
        };
        let (found, expected) = (kernel.run(&self.work()), self.fragments(d));
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        if let Some(at) = wrong {
            let [found, expected] = [found[at], expected[at]].map(f32::from_bits);
            let (thread, i) = (at / self.accumulators(), at % self.accumulators());
            let (product, thread) = (thread / THREADS, thread % THREADS);
            let (row, column) = place(thread, i);
            panic!("D{product}[{row}][{column}] (thread {thread}, accumulator {i}): {found}, not {expected}");
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

    /// For each product a matrix of 64 rows as the threads hold it.
    fn fragments(self, value: impl Fn(usize, usize, usize) -> f32) -> Vec<u32> {
        pairs(COUNT, THREADS * self.accumulators())
            .map(|(product, at)| {
                let (row, column) = place(at / self.accumulators(), at % self.accumulators());
                value(product, row, column).to_bits()
            })
            .collect()
    }

    /// Accumulators of a thread and product.
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

fn c(product: usize, row: usize, column: usize) -> i32 {
    ((product * ROWS + row) * 128 + column) as i32
}

fn pairs(outer: usize, inner: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outer).flat_map(move |i| (0..inner).map(move |j| (i, j)))
}
