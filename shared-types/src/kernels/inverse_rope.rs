//! Taking the rotary position embedding of the output's last elements back.

use super::decode::HEAD_DIM_V;
use crate::launch::{LaunchContract, WARP_THREADS};
use crate::rope::{ROPE_COLUMN, ROPE_DIM, ROPE_PAIRS};

/// Elements of a lane: two pairs.
pub const COLUMNS_PER_LANE: u32 = 4;

/// Lanes that rotate a head.
pub const LANES_PER_HEAD: u32 = ROPE_DIM / COLUMNS_PER_LANE;

/// Heads that a warp rotates at a time.
pub const HEADS_AT_ONCE: u32 = WARP_THREADS / LANES_PER_HEAD;

/// Heads of a token that a warp rotates.
pub const HEADS_PER_WARP: u32 = 4 * HEADS_AT_ONCE;

/// Warps of a CTA, each with heads of its own.
pub const WARPS: u32 = 4;

const _: () = assert!(ROPE_COLUMN + ROPE_DIM == HEAD_DIM_V, "the last elements of a value");

/// Where the angles come from. Strides are in elements.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct RopeParams {
    /// Positions of the query tokens `[batch, s_q]` i32; 0: nothing is rotated.
    pub positions: u64,
    /// Strides of `positions` by batch and query token.
    pub positions_strides: [i64; 2],
    /// 32 cosines, then 32 sines of each position `[max_positions, 64]` f32; 0: angles follow from `frequencies`.
    pub cos_sin: u64,
    /// From position to position of `cos_sin`.
    pub cos_sin_stride: i64,
    /// What a position adds to the angle of each pair, in 2⁻⁶⁴ of a turn.
    pub frequencies: [u64; ROPE_PAIRS as usize],
    /// Positions that `cos_sin` has, below 2³¹.
    pub max_positions: u32,
    /// Zero; fills the struct to its alignment.
    pub reserved: u32,
}

/// Parameters of the kernel.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct InverseRopeParams {
    /// What is rotated, in place: `[batch, s_q, h_q, 512]`.
    pub out: u64,
    /// Strides of `out` by batch, query token, head, in elements.
    pub out_strides: [i64; 3],
    /// By which angles.
    pub rope: RopeParams,
    /// Query tokens in all: `batch · s_q`.
    pub tokens: u32,
    /// Query tokens of a request.
    pub s_q: u32,
    /// Query heads.
    pub h_q: u32,
    /// Warps that share a token: `⌈h_q / HEADS_PER_WARP⌉`.
    pub warps_per_token: u32,
}

const fn contract(entry: &'static str) -> LaunchContract {
    LaunchContract {
        entry,
        threads: WARPS * WARP_THREADS,
        min_ctas_per_sm: 1,
        cluster: 1,
        shared_bytes: 0,
        param_align: 8,
    }
    .checked()
}

/// For bf16 outputs.
pub const BF16: LaunchContract = contract("inverse_rope_bf16");

/// For fp16 outputs.
pub const FP16: LaunchContract = contract("inverse_rope_fp16");

/// For f32 outputs.
pub const F32: LaunchContract = contract("inverse_rope_f32");
