"""What a model costs: FLOPs by formula and counted, bytes, latency.

FLOPs here are those of matrix multiplications, two per multiply-add, as PyTorch's counter sees
them. Element-wise work (activations, masks, sums) is left out on both sides; it shows in latency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

EVENT_BYTES = 4 + 8 + 1 + 1 + 4  # item, time, action set, surface, watch seconds


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Q Kᵀ and A V, from shapes (B, H, L, d)."""
    b, h, rows, d = query
    return 2 * b * h * rows * key[2] * (d + value[3])


def _lstm_flops(x: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    """All steps of one layer: x (L, B, D), w_x (4H, D), w_h (4H, H)."""
    return 2 * x[0] * x[1] * w_x[0] * (w_x[1] + w_h[1])


def _weighted_rows_flops(table: Any, ids: Any, *_: Any, **__: Any) -> int:
    """Rows of a table (n, D) times their weights, summed per bag: ids (N,)."""
    return 2 * ids[0] * table[1]


# PyTorch does not count these kernels.
_MISSING = {
    torch.ops.aten._embedding_bag_forward_only: _weighted_rows_flops,
    torch.ops.aten._embedding_bag: _weighted_rows_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
}


def flops(model: Any, n_requests: int, n_candidates: int, length: int) -> int:
    """Matrix-multiply FLOPs of one forward by the model's own formula."""
    for name, n in (("n_requests", n_requests), ("n_candidates", n_candidates), ("length", length)):
        if n < 1:
            raise ValueError(f"{name} is {n}; it must be at least 1")
    return model.flops(n_requests, n_candidates, length)


@torch.no_grad()
def counted_flops(fn: Callable[[], Any]) -> int:
    """Matrix-multiply FLOPs that PyTorch counts while ``fn`` runs."""
    with FlopCounterMode(display=False, custom_mapping=_MISSING) as counter:
        fn()
    return counter.get_total_flops()


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of all parameters in their present type."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def history_bytes(length: int, per_event: int = EVENT_BYTES) -> int:
    """Bytes to store one user's last ``length`` events (item, time, actions, surface, watch)."""
    if length < 0:
        raise ValueError(f"length is {length}; it must not be negative")
    return length * per_event


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median, 99th percentile, best, and how many were measured.

    Median and 99th percentile are what a caller waits, on a busy machine also for others. The best
    is what ratios between models are taken of: the least time that a call kept the processor (all
    its threads together), which others can't stretch. Where a GPU works it is the shortest wait.
    """

    p50: float
    p99: float
    best: float
    repeats: int


def _timed(fn: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of one call: waited, and kept the processor."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    started, worked = time.perf_counter(), time.process_time()
    fn()
    if on_gpu:
        torch.cuda.synchronize()
    work, wait = time.process_time() - worked, time.perf_counter() - started
    return wait * 1e3, (wait if on_gpu else work) * 1e3


def _summary(calls: list[tuple[float, float]]) -> Latency:
    waits, work = zip(*calls, strict=True)
    p50, p99 = (float(np.percentile(waits, q)) for q in (50, 99))
    return Latency(p50, p99, min(work), len(calls))


@torch.no_grad()
def latency(fn: Callable[[], Any], repeats: int = 30, warmup: int = 3) -> Latency:
    """Time ``fn`` without gradients."""
    for _ in range(warmup):
        fn()
    return _summary([_timed(fn) for _ in range(repeats)])


@torch.no_grad()
def interleaved(fns: Mapping[str, Callable[[], Any]], rounds: int = 20) -> dict[str, Latency]:
    """Time several functions in turns, so that their ratios survive a noisy machine."""
    for fn in fns.values():
        fn()
    calls: dict[str, list[tuple[float, float]]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            calls[name].append(_timed(fn))
    return {name: _summary(v) for name, v in calls.items()}
