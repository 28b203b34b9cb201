#!/usr/bin/env python3
"""Times DeepSeek's FlashMLA (CUDA C++): `python3 bench/peers/flashmla.py [CASE ...]`."""

import cases
import worker


def prepare(ops, torch, case, inputs):
    """A function that makes one call. The first call makes the schedule that later ones use."""
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


if __name__ == "__main__":
    worker.main("FlashMLA", "_flashmla_C.abi3.so", "_flashmla_C", prepare)
