//! Runs PTX on the CPU and checks it while it runs.
//!
//! [`Module::load`] takes a module of PTX, and [`launch`] runs one of its entries on a grid, with [`GlobalMemory`] for what
//! the host would have allocated on a GPU; a [`Stream`] runs several that may overlap. The result is what the kernel left in
//! memory, and a [`Report`] of all that was wrong on the way: a [`Diagnostic`] says what happened, at which line of the PTX,
//! in which thread, and what was expected.
//!
//! # What it runs
//!
//! Entries for sm_90a: arithmetic, loads and stores of all state spaces, atomic operations, barriers of warps, CTAs and
//! clusters, mbarriers, `cp.async`, bulk and tensor copies with multicast, `st.async`, `wgmma` and `mma`, `ldmatrix`,
//! `setmaxnreg`. The threads of a warp may part and meet again. An instruction that is not supported is an error when the
//! module is loaded, never passed over. Functions (`call`) and textures are not supported.
//!
//! Warps run some instructions at a time, in an order drawn from [`Options::seed`], in which at times a warpgroup of each CTA
//! stays behind all others; asynchronous operations happen at any
//! moment between their issue and the wait that needs them. The same seed gives the same run, to the last bit; only where
//! CTAs race with each other, which is reported, it depends on the host's threads what they leave in memory.
//!
//! # What it checks
//!
//! The list is [`diagnostic::Check`]. Among it: bounds, alignment, and memory that nothing has written; data races by the
//! PTX memory model, between threads of one warp as well as between CTAs, between grids of which one begins while the other
//! runs, and with asynchronous operations; missing proxy fences; shared memory that others of the cluster still use when its
//! CTA ends; registers of `wgmma`s under way; the rules of mbarriers, named barriers, `setmaxnreg`, tensor maps and matrix
//! descriptors; instructions that need a whole warp; deadlocks, with what everybody waits for. `tests/fail` has a kernel
//! for each.
//!
//! # What it does not claim
//!
//! * Of launches that may overlap, each runs to its end before the next: only races between them are found. A [`Stream`]
//!   remembers the last eight.
//! * One run follows one order of events. Races are judged by what *is* ordered, not by what happened to come first, so
//!   that one seed usually finds them; but a run without findings is no proof that there are none, and what depends on
//!   values or on luck (who draws which number from a counter) may need many seeds.
//! * Memory is sequentially consistent: a kernel never sees the stale values that a GPU could show. Where this would
//!   matter there is a race, which is reported.
//! * Approximate functions (`ex2.approx`, `rcp.approx`, …) are within the ISA's error bounds, not bit for bit those of a
//!   GPU; so are sums within `wgmma`.
//! * An arrival at another CTA's mbarrier in the scope of a CTA, or a wait in that scope, is taken to say that the arriving
//!   thread's accesses are over: what it read may then be written over, by copies too. What it wrote is not visible by that.
//! * It knows no time. [`profile`] counts instructions, bytes and bank conflicts, not cycles.
//! * Registers that nothing has written read as 0, and local memory too, without a finding.
//!
//! # Example
//!
//! ```
//! use ptx_emulator::{GlobalMemory, Launch, Module, Options, launch};
//!
//! let module = Module::load(
//!     ".version 8.0
//!      .target sm_90a
//!      .address_size 64
//!      .visible .entry double(.param .u64 numbers)
//!      {
//!          .reg .b32 %r<3>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd0, [numbers];
//!          mov.u32 %r0, %tid.x;
//!          mul.wide.u32 %rd1, %r0, 4;
//!          add.s64 %rd2, %rd0, %rd1;
//!          ld.global.u32 %r1, [%rd2];
//!          shl.b32 %r2, %r1, 1;
//!          st.global.u32 [%rd2], %r2;
//!          ret;
//!      }",
//! )?;
//! let memory = GlobalMemory::new();
//! let numbers = memory.allocate(16);
//! memory.write(numbers, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])?;
//!
//! let parameter = numbers.to_le_bytes();
//! let mut call = Launch {
//!     entry: "double",
//!     grid: [1, 1, 1],
//!     block: [4, 1, 1],
//!     cluster: [1, 1, 1],
//!     shared_bytes: 0,
//!     parameters: &[&parameter],
//! };
//! let report = launch(&module, &memory, &call, &Options::default())?;
//! assert!(report.diagnostics.is_empty());
//! let mut doubled = [0; 16];
//! memory.read(numbers, &mut doubled)?;
//! assert_eq!(doubled, [2, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 8, 0, 0, 0]);
//!
//! // One thread more reads behind the buffer.
//! call.block = [5, 1, 1];
//! let report = launch(&module, &memory, &call, &Options::default())?;
//! assert!(report.diagnostics[0].to_string().starts_with("out of bounds: a read of 4 bytes"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod arithmetic;
pub mod diagnostic;
mod launch;
mod machine;
pub mod matrix;
pub mod memory;
mod order;
pub mod profile;
mod program;
mod stream;
pub mod tensor_map;

pub use diagnostic::Diagnostic;
pub use launch::{Checks, Launch, LaunchError, Module, Options, Report, launch};
pub use memory::GlobalMemory;
pub use stream::{Start, Stream};
