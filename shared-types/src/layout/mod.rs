//! How tiles lie in shared memory and fragments in registers.
//!
//! * [`swizzle`]: the permutations of 16-byte chunks that the copy engine writes and the tensor cores read;
//! * [`tile`]: where an element of a tile lies, swizzled or not;
//! * [`fragment`]: which thread holds an element of a warpgroup's operand or result, and in which register;
//! * [`partial`]: in which order the columns of partial results lie;
//! * [`banks`]: how often a warp's access to shared memory conflicts with itself.

pub mod banks;
pub mod fragment;
pub mod partial;
pub mod swizzle;
pub mod tile;
