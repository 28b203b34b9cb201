#!/usr/bin/env python3
"""Times FlashAttention-3's MLA mode (CUDA C++): `python3 bench/peers/flash_attention_3.py [CASE ...]`.

In that mode a query has two parts: 64 elements that carry positions, multiplied with keys of as many, and 512 that
are multiplied with the values. Both parts of a key are views of one cache.
"""

import cases
import worker

NO_WINDOW = {"window_size_left": -1, "window_size_right": -1}
# The program chooses splits and packing, and has all multiprocessors.
LAUNCH = {"num_splits": 0, "pack_gqa": None, "sm_margin": 0}

# Optional arguments that have no default and no use here.
UNUSED_BY_SCHEDULE = ["cu_seqlens_k", "cu_seqlens_k_new", "seqused_q", "leftpad_k"]
UNUSED = UNUSED_BY_SCHEDULE + [
    "k_new",
    "v_new",
    "out",
    "kv_batch_idx",
    "rotary_cos",
    "rotary_sin",
    "seqlens_rotary",
    "q_descale",
    "k_descale",
    "v_descale",
    "s_aux",
    "cp_tot_seqused_k",
]


def dense_decode(ops, torch, case, inputs):
    """A function that makes one call. The schedule is made beforehand: serving makes one for all layers."""
    batch, s_q, h_q = case["b"], case["s_q"], case["h_q"]
    latent = cases.HEAD_DIM_V
    q = inputs.q.view(batch * s_q, h_q, cases.HEAD_DIM)
    common = {
        "cu_seqlens_q": torch.arange(0, (batch + 1) * s_q, s_q, device="cuda", dtype=torch.int32),
        "seqused_k": inputs.cache_seqlens,
        "max_seqlen_q": s_q,
        "max_seqlen_k": inputs.longest,
        # With several query tokens serving always masks, so that is what is timed; it leaves out a key of thousands.
        "is_causal": s_q > 1,
        **NO_WINDOW,
        **LAUNCH,
    }
    schedule = ops.get_scheduler_metadata(
        batch_size=batch,
        num_heads=h_q,
        num_heads_k=1,
        headdim=cases.HEAD_DIM - latent,
        headdim_v=latent,
        qkv_dtype=torch.bfloat16,
        page_size=case["page"],
        max_seqlen_k_new=0,
        has_softcap=False,
        **common,
        **dict.fromkeys(UNUSED_BY_SCHEDULE),
    )
    arguments = {
        "q": q[..., latent:],
        "k": inputs.kv_cache[..., latent:],
        "v": inputs.kv_cache[..., :latent],
        "q_v": q[..., :latent],
        "page_table": inputs.block_table,
        "softmax_scale": inputs.softmax_scale,
        "softcap": 0.0,
        "is_rotary_interleaved": True,
        "scheduler_metadata": schedule,
        "cp_world_size": 1,
        "cp_rank": 0,
        **common,
        **dict.fromkeys(UNUSED),
    }
    return lambda: ops.fwd(**arguments)


if __name__ == "__main__":
    worker.main("FlashAttention-3", "_vllm_fa3_C.abi3.so", "_vllm_fa3_C", {"dense_decode": dense_decode})
