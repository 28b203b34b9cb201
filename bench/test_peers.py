"""Tests of the peers' scripts with stand-ins for PyTorch and the peers."""

import contextlib
import io
import json
import lzma
import math
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import cases  # noqa: E402
import flash_attention_3  # noqa: E402
import flashmla  # noqa: E402
import inputs  # noqa: E402
import worker  # noqa: E402

SMALL = {"name": "small", "op": "dense_decode", "b": 2, "h_q": 4, "s_q": 2, "s_k": 300, "page": 64}
SPARSE = {"name": "sparse", "op": "sparse_decode", "b": 2, "h_q": 16, "s_q": 3, "s_k": 100, "d": 576}
SPARSE |= {"topk": 8, "page": 64}
TWO_CACHES = {**SPARSE, "h_q": 128, "d": 512, "extra_topk": 24, "extra_page": 32}

# Arguments of FlashAttention-3's operators, none of which has a default.
SCHEDULE_ARGUMENTS = """batch_size max_seqlen_q max_seqlen_k num_heads num_heads_k headdim headdim_v qkv_dtype seqused_k
    cu_seqlens_q cu_seqlens_k cu_seqlens_k_new seqused_q leftpad_k page_size max_seqlen_k_new is_causal window_size_left
    window_size_right has_softcap num_splits pack_gqa sm_margin"""
FORWARD_ARGUMENTS = """q k v k_new v_new q_v out cu_seqlens_q cu_seqlens_k cu_seqlens_k_new seqused_q seqused_k
    max_seqlen_q max_seqlen_k page_table kv_batch_idx leftpad_k rotary_cos rotary_sin seqlens_rotary q_descale k_descale
    v_descale softmax_scale is_causal window_size_left window_size_right softcap is_rotary_interleaved
    scheduler_metadata num_splits pack_gqa sm_margin s_aux cp_world_size cp_rank cp_tot_seqused_k"""


ITEM_BYTES = {"bfloat16": 2, "int32": 4, "float32": 4, "uint8": 1, "float8_e4m3fn": 1}


class Tensor:
    """A shape and a type, and slices of its last dimension."""

    def __init__(self, *shape, dtype="bfloat16"):
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, index):
        return Tensor(*self.shape[:-1], len(range(self.shape[-1])[index[1]]), dtype=self.dtype)

    def __setitem__(self, index, value):
        target = self[index]
        if isinstance(value, Tensor):
            assert value.dtype == target.dtype, f"{value.dtype} into {target.dtype}"
            assert value.shape == target.shape[-len(value.shape) :], f"{value.shape} into {target.shape}"
        else:
            assert 0 <= value < 256 ** ITEM_BYTES[self.dtype]

    def view(self, *shape):
        if isinstance(shape[0], str):
            last = self.shape[-1] * ITEM_BYTES[self.dtype] // ITEM_BYTES[shape[0]]
            return Tensor(*self.shape[:-1], last, dtype=shape[0])
        assert math.prod(shape) == math.prod(self.shape), f"{self.shape} as {shape}"
        return Tensor(*shape, dtype=self.dtype)

    def mul_(self, factor):
        return self

    def clamp_(self, low, high):
        return self

    zero_ = int = lambda self: self


class Gpu:
    """Enough of PyTorch, with a clock that advances by 3 ms a call where graphs are replayed."""

    bfloat16, int32, uint8, float32, float8_e4m3fn = "bfloat16", "int32", "uint8", "float32", "float8_e4m3fn"

    def __init__(self):
        gpu, self.now, self.captured = self, 0.0, None

        class Graph:
            calls = 0

            def replay(self):
                gpu.now += 3.0 * self.calls

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = gpu.now

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return end.time - self.time

        @contextlib.contextmanager
        def capture(graph):
            gpu.captured = graph
            yield
            gpu.captured = None

        nothing = lambda *_: None  # noqa: E731
        self.cuda = types.SimpleNamespace(
            CUDAGraph=Graph, Event=Event, graph=capture, synchronize=nothing, empty_cache=nothing
        )
        self.cuda.get_device_name = lambda index: "a GPU"
        self.manual_seed = nothing
        self.nn = types.SimpleNamespace(functional=types.SimpleNamespace(pad=self.pad))

    def call(self, *arguments, **named):
        if self.captured:
            self.captured.calls += 1

    def randn(self, *shape, device, dtype):
        return Tensor(*shape, dtype=dtype)

    def randint(self, low, high, shape, device, dtype):
        return Tensor(*shape, dtype=dtype)

    def full(self, shape, value, device, dtype):
        return Tensor(*shape, dtype=dtype)

    def empty(self, *shape, device, dtype):
        return Tensor(*shape, dtype=dtype)

    def pad(self, tensor, amounts):
        """Zeros behind the last dimensions; `amounts` has pairs, of the last dimension first."""
        shape = list(tensor.shape)
        for place, amount in enumerate(amounts[1::2]):
            shape[-1 - place] += amount
        return Tensor(*shape, dtype=tensor.dtype)

    def randperm(self, count, device):
        return Tensor(count)

    def tensor(self, values, device, dtype):
        return Tensor(len(values))

    def arange(self, start, end, step, device, dtype):
        return Tensor(len(range(start, end, step)))


def run_worker(gpu):
    with mock.patch.object(worker, "driver_version", lambda: "13.0"):
        return worker.Worker("peer", gpu, {"dense_decode": lambda torch, case, inputs: gpu.call})


class Timing(unittest.TestCase):
    def test_a_call_takes_what_the_clock_says(self):
        with mock.patch.object(worker.time, "sleep") as sleep:
            peer = run_worker(Gpu())
            for regime in worker.REGIMES:
                record = peer.time(SMALL, regime)
                self.assertAlmostEqual(record["us"], 3000.0)
                self.assertEqual((record["program"], record["regime"], record["driver"]), ("peer", regime, "13.0"))
        self.assertEqual(sleep.call_count, worker.BURST_CALLS)

    def test_lines_are_answered_and_mistakes_named(self):
        out = io.StringIO()
        requests = io.StringIO("small burst\nsmall fast\nother burst\nsparse burst\n")
        with (
            contextlib.redirect_stdout(out),
            mock.patch.object(sys, "stdin", requests),
            mock.patch.object(worker.time, "sleep"),
        ):
            worker.serve(run_worker(Gpu()), {"small": SMALL, "sparse": SPARSE})
        ready, record, fast, other, sparse = [json.loads(line) for line in out.getvalue().splitlines()]
        self.assertEqual((ready["ready"], ready["device"]), (True, "a GPU"))
        self.assertAlmostEqual(record["us"], 3000.0)
        for answer in [fast, other]:
            self.assertIn("needed is a case's name and a regime", answer["error"])
        self.assertEqual(sparse["error"], "peer has no sparse_decode")

    def test_page_tables_cover_the_longest_request(self):
        drawn = inputs.DenseDecode(Gpu(), SMALL)
        # 300 keys, up to a multiple of 256, on pages of 64.
        self.assertEqual(drawn.block_table.shape, (2, 8))
        self.assertEqual(drawn.kv_cache.shape, (16, 64, 1, 576))
        self.assertEqual((drawn.q.shape, drawn.longest), ((2, 2, 4, 576), 300))

    def test_caches_have_pages_for_all_requests(self):
        drawn = inputs.SparseDecode(Gpu(), SPARSE)
        self.assertEqual((drawn.q.shape, drawn.scope.kv_cache.shape), ((2, 3, 16, 576), (4, 64, 1, 656)))
        self.assertEqual((drawn.scope.indices.shape, drawn.extra), ((2, 3, 8), None))
        drawn = inputs.SparseDecode(Gpu(), TWO_CACHES)
        self.assertEqual((drawn.q.shape, drawn.scope.kv_cache.shape), ((2, 3, 128, 512), (4, 64, 1, 584)))
        self.assertEqual((drawn.extra.kv_cache.shape, drawn.extra.indices.shape), ((8, 32, 1, 584), (2, 3, 24)))


class Libraries(unittest.TestCase):
    def load(self, files, folder):
        """What is loaded from a folder with these files; PyTorch is a stand-in."""
        loaded = []
        torch = types.ModuleType("torch")
        torch.cuda = types.SimpleNamespace(is_available=lambda: True)
        torch.ops = types.SimpleNamespace(load_library=lambda path: loaded.append(Path(path).read_bytes()))
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        with mock.patch.dict(sys.modules, torch=torch):
            worker.load(Path(folder), "a.so")
        return loaded

    def test_libraries_may_be_compressed(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(self.load({"a.so.xz": lzma.compress(b"code")}, folder), [b"code"])
            self.assertEqual(self.load({"a.so": b"plain"}, folder), [b"plain"])

    def test_what_is_missing_is_named(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(worker.Missing, "fetch.py"):
            self.load({}, folder)
        with mock.patch.dict(sys.modules, torch=None), self.assertRaisesRegex(worker.Missing, "PyTorch"):
            worker.load(Path(), "a.so")


class Calls(unittest.TestCase):
    def test_flashmla_makes_its_schedule_once(self):
        given = []

        def dense_decode_fwd(*arguments):
            given.append(arguments[7:9])
            return "out", "lse", f"schedule {len(given)}", f"splits {len(given)}"

        ops = types.SimpleNamespace(dense_decode_fwd=dense_decode_fwd)
        call = flashmla.dense_decode(ops, Gpu(), SMALL, inputs.DenseDecode(Gpu(), SMALL))
        for _ in range(3):
            call()
        self.assertEqual(given, [(None, None)] + [("schedule 1", "splits 1")] * 2)

    def test_flashmla_gets_padded_heads_and_both_caches(self):
        given = []

        def sparse_decode_fwd(*arguments):
            given.append(arguments)
            return "out", "lse", "schedule", "splits"

        ops = types.SimpleNamespace(sparse_decode_fwd=sparse_decode_fwd)
        for case in [SPARSE, TWO_CACHES]:
            call = flashmla.sparse_decode(ops, Gpu(), case, inputs.SparseDecode(Gpu(), case))
            call()
            call()
        one, again, two, _ = given
        # Queries, cache, indices and sink; 16 heads become 64.
        shapes = [tensor.shape for tensor in (one[0], one[1], one[2], one[4])]
        self.assertEqual(shapes, [(2, 3, 64, 576), (4, 64, 1, 656), (2, 3, 8), (64,)])
        self.assertEqual((one[1].dtype, one[5:10], again[5:7]), ("float8_e4m3fn", (None,) * 5, ("schedule", "splits")))
        self.assertEqual((two[0].shape, two[7].shape, two[8].shape), ((2, 3, 128, 512), (8, 32, 1, 584), (2, 3, 24)))
        self.assertEqual(two[10:], (512, 512**-0.5, None))

    def test_flash_attention_gets_every_argument_and_parts_of_heads(self):
        given = {}
        ops = types.SimpleNamespace(
            get_scheduler_metadata=lambda **named: given.update(schedule=named),
            fwd=lambda **named: given.update(forward=named),
        )
        flash_attention_3.dense_decode(ops, Gpu(), SMALL, inputs.DenseDecode(Gpu(), SMALL))()
        self.assertEqual(set(given["schedule"]), set(SCHEDULE_ARGUMENTS.split()))
        self.assertEqual(set(given["forward"]), set(FORWARD_ARGUMENTS.split()))
        shapes = [given["forward"][name].shape for name in ["q", "q_v", "k", "v", "cu_seqlens_q"]]
        self.assertEqual(shapes, [(4, 4, 64), (4, 4, 512), (16, 64, 1, 64), (16, 64, 1, 512), (3,)])


class Records(unittest.TestCase):
    def test_names_select_cases(self):
        found = list(cases.select(["b1-h128", "h16-q1-topk"]))
        self.assertEqual(found, ["dense-b1-h128-q1-k65536", "sparse-v32-b128-h16-q1-topk2048"])
        self.assertEqual(len(cases.select()), 14 + 13 + 6)
        with self.assertRaisesRegex(ValueError, "CASE is gather"):
            cases.select(["gather"])

    def test_numbers_have_five_digits(self):
        self.assertEqual([cases.significant(value) for value in [123.456789, 0.000123456]], [123.46, 0.00012346])


if __name__ == "__main__":
    unittest.main()
