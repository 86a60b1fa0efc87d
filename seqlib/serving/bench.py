"""TWIN's latency with stored keys and without, all measured in turns in one run."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..cost import interleaved
from ..data.dataset import HasData
from ..data.log import BatchLoader, EventLog, Requests
from ..data.schema import FIRST_ID, Request
from ..models.ranker import Ranker
from .rows import RowStore
from .twin import TwinServer
from .twin_keys import KeyProjector, twin_of


def one_long_life(log: EventLog, length: int, n_candidates: int, seed: int) -> Request:
    """A request with the log's newest events, of all users, as one history; drawn candidates."""
    order = np.argsort(log.time, kind="stable")[-length:]
    merged = EventLog.build(
        user=np.zeros(len(order), np.int32), item=log.item[order],
        time=np.arange(len(order)) * 600.0, action=log.action[order],
        surface=log.surface[order], watch=log.watch[order], duration=log.duration[order],
    )  # fmt: skip
    seen = np.random.default_rng(seed).choice(log.item, n_candidates).astype(np.int32)
    request = Requests(
        user=np.zeros(1, np.int32), time=np.array([len(order) * 600.0]),
        surface=np.zeros(1, np.uint8), position=np.zeros(1, np.int32),
        items=np.maximum(seen, FIRST_ID)[None], labels=np.zeros((1, n_candidates, 1), np.uint8),
    )  # fmt: skip
    return BatchLoader(merged, request, length=length).batch(np.zeros(1, np.int64)).request


def timings(
    data: HasData,
    model: Ranker,
    candidates: Sequence[int] = (1, 100, 1_000),
    rounds: int = 20,
    length: int = 10_000,
    seed: int = 0,
    *,
    bar: bool = False,
) -> list[dict[str, Any]]:
    """Milliseconds per request on one history of ``length`` events, and multiply-adds counted.

    Compared are keys projected at the request; stored fp32 rows of this model; stored rows of an
    older model, for which the ESU projects its finalists anew (as in production), fp32 and fp16.

    Returns:
        One row per number of candidates and kind of keys: candidates, keys, p50, p99, best (ms),
        macs of the request, projection (of these, ``K_h W^h`` in the GSU) and bias.
    """
    older = copy.deepcopy(model)
    with torch.no_grad():
        twin_of(older).relevance.w_h.weight.mul_(1.001)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        servers = {}
        stores = [("fp32", model, "float32"), ("fp32 stale", older, "float32"),
                  ("fp16 stale", older, "float16")]  # fmt: skip
        for name, source, codec in stores:
            store = RowStore.open(Path(folder) / name.replace(" ", "-"), create=True)
            KeyProjector(store, codec=codec).refresh(source, time.time())
            servers[name] = TwinServer(model, store)
        for c in tqdm(candidates, desc="timing", unit=" sizes", leave=False, disable=not bar):
            request = one_long_life(data.log, length, c, seed)
            fns: dict[str, Callable[[], Any]] = {"projected now": partial(model, request)}
            for name, server in servers.items():
                fns[f"stored {name}"] = partial(server.answer, request)
            saved = {f"stored {n}": s.savings(request) for n, s in servers.items()}
            any_saved = next(iter(saved.values()))
            for name, t in interleaved(fns, rounds).items():
                s = saved.get(name)
                rows.append({
                    "candidates": c, "keys": name, "p50": t.p50, "p99": t.p99, "best": t.best,
                    "macs": any_saved.request if s is None else s.request_cached,
                    "projection": any_saved.projection if s is None else s.projection_cached,
                    "bias": any_saved.bias,
                })  # fmt: skip
        for server in servers.values():
            server.store.close()
    return rows
