"""Inputs on the GPU like those of `oximla bench`: cli/src/bench/ops and fp8_pages.rs."""

import cases

SPREAD = 0.1  # standard deviation of queries and keys in bf16
TABLE_KEYS = 256  # a request's part of the page table is for a multiple of these

# Of FP8 keys: elements have e4m3 codes below this one, numbers from 0 to 120; all scales are this power of two.
CODES = 0x70
SCALE_EXPONENT = -6
UE8M0_BIAS = 127
ROPE_DIM = 64
ROPE_BYTES = ROPE_DIM * cases.BYTES


class DenseDecode:
    """Tensors of dense decode. Pages lie in random order."""

    def __init__(self, torch, case):
        batch, page = case["b"], case["page"]
        per_request = cases.lengths(case)
        pages = -(-max(per_request) // TABLE_KEYS) * TABLE_KEYS // page
        normal = {"device": "cuda", "dtype": torch.bfloat16}
        torch.manual_seed(0)
        self.q = torch.randn(batch, case["s_q"], case["h_q"], cases.HEAD_DIM, **normal).mul_(SPREAD)
        self.kv_cache = torch.randn(batch * pages, page, 1, cases.HEAD_DIM, **normal).mul_(SPREAD)
        self.block_table = torch.randperm(batch * pages, device="cuda").int().view(batch, pages)
        self.cache_seqlens = torch.tensor(per_request, device="cuda", dtype=torch.int32)
        self.longest = max(per_request)
        self.softmax_scale = cases.HEAD_DIM**-0.5
        self.causal = bool(case.get("causal"))


class SparseDecode:
    """Tensors of sparse decode. Selected tokens are any of a cache's, some of them more than once."""

    def __init__(self, torch, case):
        shape = case["b"], case["s_q"], case["h_q"], case["d"]
        torch.manual_seed(0)
        self.q = torch.randn(*shape, device="cuda", dtype=torch.bfloat16).clamp_(-1, 1)
        self.scope = Scope(torch, case, case["page"], case["topk"])
        self.extra = Scope(torch, case, case["extra_page"], case["extra_topk"]) if "extra_topk" in case else None
        self.attn_sink = torch.randn(case["h_q"], device="cuda", dtype=torch.float32)
        self.softmax_scale = case["d"] ** -0.5


class SparsePrefill:
    """Tensors of sparse prefill. Each query token selects different keys."""

    def __init__(self, torch, case):
        normal = {"device": "cuda", "dtype": torch.bfloat16}
        torch.manual_seed(0)
        self.q = torch.randn(case["s_q"], case["h_q"], case["d"], **normal).mul_(SPREAD)
        self.kv = torch.randn(case["s_k"], 1, case["d"], **normal).mul_(SPREAD)
        ranks = torch.rand(case["s_q"], case["s_k"], device="cuda")
        self.indices = ranks.topk(case["topk"], dim=-1).indices.int().view(case["s_q"], 1, case["topk"])
        self.attn_sink = torch.randn(case["h_q"], device="cuda", dtype=torch.float32)
        self.softmax_scale = case["d"] ** -0.5


class Scope:
    """A cache `[pages, page, 1, bytes of a token]` and the index lists `[b, s_q, topk]` into it."""

    def __init__(self, torch, case, page, topk):
        pages = case["b"] * -(-case["s_k"] // page)
        draw = {cases.V32_HEAD_DIM: v32_pages, cases.MODEL1_HEAD_DIM: model1_pages}[case["d"]]
        self.kv_cache = draw(torch, pages, page)
        lists = case["b"], case["s_q"], topk
        self.indices = torch.randint(0, pages * page, lists, device="cuda", dtype=torch.int32)


def v32_pages(torch, pages, page):
    """Tokens of 512 codes, four f32 scales and the bf16 RoPE elements."""
    nope, scales, scale_type = 512, 4, torch.float32
    token_bytes = cases.TOKEN_BYTES[cases.V32_HEAD_DIM]
    rope_at = token_bytes - ROPE_BYTES
    cache = torch.empty(pages, page, 1, token_bytes, device="cuda", dtype=torch.uint8)
    cache[..., :nope] = codes(torch, pages, page, 1, nope)
    scale = torch.full((scales,), 2.0**SCALE_EXPONENT, device="cuda", dtype=scale_type)
    cache[..., nope:rope_at] = scale.view(torch.uint8)
    cache[..., rope_at:] = rope(torch, pages, page, 1)
    return cache


def model1_pages(torch, pages, page):
    """Pages of tokens, 448 codes and the bf16 RoPE elements each, and behind all of them 8 bytes of scales each."""
    nope = 448
    token_bytes, row_bytes = cases.TOKEN_BYTES[cases.MODEL1_HEAD_DIM], nope + ROPE_BYTES
    cache = torch.empty(pages, page * token_bytes, device="cuda", dtype=torch.uint8)
    rows = cache[:, : page * row_bytes].view(pages, page, row_bytes)
    rows[..., :nope] = codes(torch, pages, page, nope)
    rows[..., nope:] = rope(torch, pages, page)
    cache[:, page * row_bytes :] = SCALE_EXPONENT + UE8M0_BIAS
    return cache.view(pages, page, 1, token_bytes)


def codes(torch, *shape):
    """Random e4m3 codes."""
    return torch.randint(0, CODES, shape, device="cuda", dtype=torch.uint8)


def rope(torch, *tokens):
    """The bytes of random RoPE elements."""
    elements = torch.randn(*tokens, ROPE_DIM, device="cuda", dtype=torch.bfloat16).mul_(SPREAD)
    return elements.view(torch.uint8)


# What draws the inputs of each operation.
OF_OPS = {"dense_decode": DenseDecode, "sparse_decode": SparseDecode, "sparse_prefill": SparsePrefill}
