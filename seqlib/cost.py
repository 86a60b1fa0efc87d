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
    """Milliseconds of one call: median, 99th percentile, fastest, and how many were measured.

    On a busy machine the fastest call is the one that was disturbed least; ratios between models
    are taken of it.
    """

    p50: float
    p99: float
    best: float
    repeats: int


def _timed(fn: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    fn()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def _summary(ms: list[float]) -> Latency:
    p50, p99 = (float(np.percentile(ms, q)) for q in (50, 99))
    return Latency(p50, p99, min(ms), len(ms))


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
    ms: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            ms[name].append(_timed(fn))
    return {name: _summary(v) for name, v in ms.items()}
