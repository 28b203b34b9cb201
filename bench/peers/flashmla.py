#!/usr/bin/env python3
"""Times DeepSeek's FlashMLA (CUDA C++): `python3 bench/peers/flashmla.py [CASE ...]`.

The first call of an operation makes the schedule that later ones use.
"""

import cases
import worker

HEADS = 64  # sparse decode takes a multiple of these


def dense_decode(ops, torch, case, inputs):
    """A function that makes one call."""
    schedule = [None, None]

    def call():
        _output, _lse, *made = ops.dense_decode_fwd(
            inputs.q,
            inputs.kv_cache,
            cases.HEAD_DIM_V,
            inputs.cache_seqlens,
            inputs.block_table,
            inputs.softmax_scale,
            inputs.causal,
            *schedule,
            None,  # output: a new tensor
        )
        if schedule[0] is None:
            schedule[:] = made

    return call


def sparse_decode(ops, torch, case, inputs):
    """A function that makes one call, of queries that are padded with heads of zeros beforehand."""
    schedule = [None, None]
    missing = -case["h_q"] % HEADS
    q, attn_sink = inputs.q, inputs.attn_sink
    if missing:
        pad = torch.nn.functional.pad
        q, attn_sink = pad(q, (0, 0, 0, missing)), pad(attn_sink, (0, missing))
    kv_cache, indices = scope(torch, inputs.scope)
    extra_kv_cache, extra_indices = scope(torch, inputs.extra) if inputs.extra else (None, None)

    def call():
        _output, _lse, *made = ops.sparse_decode_fwd(
            q,
            kv_cache,
            indices,
            None,  # all indices count
            attn_sink,
            *schedule,
            extra_kv_cache,
            extra_indices,
            None,  # all extra indices count
            cases.HEAD_DIM_V,
            inputs.softmax_scale,
            None,  # output: a new tensor
        )
        if schedule[0] is None:
            schedule[:] = made

    return call


def sparse_prefill(ops, torch, case, inputs):
    """A function that makes one call."""

    def call():
        ops.sparse_prefill_fwd(
            inputs.q,
            inputs.kv,
            inputs.indices,
            inputs.softmax_scale,
            cases.HEAD_DIM_V,
            inputs.attn_sink,
            None,  # all indices count
            None,  # output: a new tensor
        )

    return call


def scope(torch, inputs):
    """A cache, of the type that the operator takes, and the index lists into it."""
    return inputs.kv_cache.view(torch.float8_e4m3fn), inputs.indices


if __name__ == "__main__":
    prepare = {"dense_decode": dense_decode, "sparse_decode": sparse_decode, "sparse_prefill": sparse_prefill}
    worker.main("FlashMLA", "_flashmla_C.abi3.so", "_flashmla_C", prepare)
