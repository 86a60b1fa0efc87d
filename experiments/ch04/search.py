"""What searches find of what their own attention would choose; see ``models`` for the oracle."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqlib import runtime
from seqlib.data.schema import Request
from seqlib.evaluate import bootstrap
from seqlib.models.eta import Eta
from seqlib.models.twin import Twin
from seqlib.search import Hits, SimHash, hamming_topk, hits_at_k, topk
from seqlib.serving.twin_keys import popular_head

from ..engine import cache
from ..engine.compare import cell
from ..engine.data import dataset
from ..engine.piece import Piece
from ..engine.run import Run
from ..engine.summary import Study
from . import plans, staleness
from .models import (
    CANDIDATES,
    LONG_LIFE,
    ORACLE,
    REQUESTS,
    SCORED,
    SIZES,
    arrays_of,
    cosine_topk,
    curve,
    each_of,
    long_lives,
    mean_of,
    of_plan,
    ordered,
    run_of,
    scores_of,
    searching,
    with_search,
)

BITS = (8, 16, 32, 64, 128, 256)
SHARES = (0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
COVERED = 0.97  # of requested rows in the paper's store


@torch.no_grad()
def _hamming_order(encoder: Eta, simhash: SimHash, request: Request) -> Hits:
    q, k = (simhash(encoder.items(i)) for i in (request.items.id, request.events.item))
    return hamming_topk(q, k, request.events.shape[1], request.events.mask)


SEARCHES = (
    "sim_hard",
    "cluster 100",
    "cluster 1000",
    "sim_hard by topic",
    "sim_soft_pretrained",
    "eta",
    "sdim",
    "twin",
)


def search_run(seed: int) -> dict[str, np.ndarray]:
    """Hits of every search, and what follows from the models of one seed."""
    runtime.setup(1, seed)
    models = {n: searching(of_plan(n, seed)) for n in SEARCHES}
    main, aux = of_plan("twin", seed), of_plan("twin", (seed + 1) % len(plans.SEEDS))
    out: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(seed)
    head = torch.as_tensor(popular_head(dataset("course").log.item, COVERED))
    for request in long_lives():
        parts = {n: ordered(e, request) for n, e in models.items()}
        oracle = parts["twin"][1]
        parts["random"] = topk(_noise(request, generator), request.events.shape[1]), oracle
        parts["recent"] = _newest(request), oracle
        parts["twin of another seed"] = ordered(searching(aux), request)[0], oracle
        for n, (order, own) in parts.items():
            out.setdefault(f"hits|{n}", []).append(curve(order, own))
        hard, soft = (_first(parts[n][0]) for n in ("sim_hard", "sim_soft_pretrained"))
        out.setdefault("overlap", []).append(hits_at_k(hard, soft))
        out.setdefault("bits", []).append(_by_bits(models["eta"], request, seed))
        missing = _without_tail(searching(main), request, head)
        out.setdefault("dropped", []).append(hits_at_k(missing, oracle))
    arrays = {k: torch.cat(v).numpy() for k, v in out.items()}
    for n, p in (("own", with_search(main)), ("other", with_search(main, other=aux))):
        arrays |= arrays_of(n, p)
    return arrays


def _first(order: Hits) -> Hits:
    return Hits(order.index[..., :ORACLE], order.mask[..., :ORACLE])


def _noise(request: Request, generator: torch.Generator) -> Tensor:
    shape = (*request.items.id.shape, request.events.shape[1])
    noise = torch.rand(shape, generator=generator)
    return noise.masked_fill(~request.events.mask[:, None], -torch.inf)


def _newest(request: Request) -> Hits:
    age = -torch.arange(request.events.shape[1], dtype=torch.float32)
    age = age.expand(*request.items.id.shape, -1)
    return topk(age, request.events.shape[1], request.events.mask[:, None])


def _by_bits(encoder: nn.Module, request: Request, seed: int) -> Tensor:
    """(B, C, bits): how many of the 100 smallest angles a hash of so many bits finds (S-C3)."""
    assert isinstance(encoder, Eta)
    exact, dim = cosine_topk(encoder, request, ORACLE), encoder.items.dim
    found = (_hamming_order(encoder, SimHash(dim, m, 100 + seed), request) for m in BITS)
    return torch.stack([hits_at_k(_first(f), exact) for f in found], -1)


def _without_tail(encoder: nn.Module, request: Request, head: Tensor) -> Hits:
    """TWIN's search when events of items that no store row covers are dropped (T-C8)."""
    assert isinstance(encoder, Twin)
    state = encoder.prefill(request)
    covered = state.mask & torch.isin(state.item, head)
    state = dataclasses.replace(state, mask=covered)
    return encoder.search(state, request.items, ORACLE)


def coverage() -> dict[str, Any]:
    """Share of the catalogue a store must hold to answer a share of all requested rows (T-C8)."""
    world = dataset("course")
    seen = world.log.item
    held = [(len(popular_head(seen, s)) - 2) / (world.spec.items.content.shape[0] - 2)
            for s in SHARES]  # fmt: skip
    return {"coverage": list(SHARES), "pool_share": [round(h, 4) for h in held]}


def pieces() -> list[Piece]:
    """Hits of every search, one seed each."""
    settings = {
        "oracle": ORACLE,
        "sizes": SIZES,
        "long_life": LONG_LIFE,
        "requests": REQUESTS,
        "candidates": CANDIDATES,
        "scored": SCORED,
        "bits": BITS,
        "covered": COVERED,
    }
    return [Piece("twin-search", search_run, {"seed": s}, settings, _runs(s)) for s in plans.SEEDS]


def _runs(seed: int) -> tuple[Run, ...]:
    borrowed = run_of("twin", (seed + 1) % len(plans.SEEDS))
    return (*(run_of(name, seed) for name in SEARCHES), borrowed)


def _jobs() -> list[cache.Job]:
    made = [*pieces(), *staleness.pieces(staleness.RATES[0])]
    return [*(run for piece in made for run in piece.uses), *made]


def study() -> dict[str, Any]:
    """Hits over output sizes and what else belongs to them, means over three seeds."""
    stored = [cache.obtain(piece) for piece in pieces()]
    streams = [cache.obtain(piece) for piece in staleness.pieces(staleness.RATES[0])]
    names = [k.removeprefix("hits|") for k in stored[0] if k.startswith("hits|")]
    hits = {n: [s[f"hits|{n}"].mean((0, 1)) for s in stored] for n in names}
    hits["twin, stale"] = [s["curve"].mean((0, 1)) for s in streams]
    own, other = (bootstrap([scores_of(s, n) for s in stored]) for n in ("own", "other"))
    # The same rankers, seed by seed, with another search.
    difference = own.minus(other, same_models=True)
    bits = [s["bits"].mean((0, 1)) for s in stored]
    return {
        "oracle": ORACLE,
        "sizes": list(SIZES),
        "requests": len(stored[0]["overlap"]),
        "candidates": CANDIDATES,
        "stale_steps": staleness.CURVE_AGE,
        "searches": {n: {"hits": mean_of(v, 2), "each": each_of(v, 2)} for n, v in hits.items()},
        "at_oracle_size": {n: _interval([x[SIZES.index(ORACLE)] for x in v])
                           for n, v in hits.items()},
        "overlap_hard_soft": _interval([s["overlap"].mean() for s in stored]),
        "eta_bits": {"bits": list(BITS), "recall": mean_of(bits, 2), "each": each_of(bits, 2)},
        "coverage": coverage(),
        "misses": {"share": round(1 - COVERED, 2), "hits_compute": float(ORACLE),
                   "hits_drop": _interval([s["dropped"].mean() for s in stored])},
        "borrowed": {"e_auc_own": round(own.value, 5), "e_auc_borrowed": round(other.value, 5),
                     "requests": SCORED, **cell(difference)},
    }  # fmt: skip


def _interval(values: list[Any]) -> dict[str, Any]:
    """Mean over seeds, and each."""
    return {"mean": round(float(np.mean(values)), 2), "each": [round(float(v), 2) for v in values]}


STUDY = Study(study, jobs=_jobs)
