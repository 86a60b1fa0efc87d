"""What searches find of what their own attention would choose, and how TWIN's fall with old keys.

The oracle of a model is the 100 events that its own exact search unit scores highest in the whole
life, by round robin over its heads (TWIN, arXiv:2302.02352, Fig. 4). Measured on test requests of
lives of at least 5,000 events, four candidates each, by the models of ``main-twin`` and
``parts-twin``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqlib import runtime
from seqlib.data.log import BatchLoader, Requests
from seqlib.data.schema import Request
from seqlib.evaluate import Predictions, bootstrap, predict
from seqlib.models.eta import Eta
from seqlib.models.ranker import Ranker
from seqlib.models.sdim import Sdim
from seqlib.models.sim import Sim
from seqlib.models.twin import Twin
from seqlib.nn import Beside
from seqlib.objectives import supervised
from seqlib.search import (
    Hits,
    SimHash,
    hamming_topk,
    hits_at_k,
    inner_product_topk,
    round_robin_topk,
    topk,
)
from seqlib.serving.twin_keys import popular_head, twin_of

from . import twin
from .drift import kept
from .runs import CACHE, Run, cell, dataset, trained

ORACLE = 100
SIZES = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
LONG_LIFE, REQUESTS, CANDIDATES = 5_000, 60, 4
SCORED = 300  # test requests whose click probabilities are compared
BITS = (8, 16, 32, 64, 128, 256)
SHARES = (0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
COVERED = 0.97  # of requested rows in the paper's store
# The stream: steps, learning rates (a gentle one, and the peak of the recipe that trained the model),
# how old keys may be, and how many steps lie between two snapshots.
STEPS, RATES, AGES, EVERY = 150, (1e-3, 5e-3), (0, 1, 2, 5, 10, 20, 50, 100, 150), 10
SCORED_AGES, CURVE_AGE, PERIODS = (0, 50, 150), 100, (50, 100, 150)


# --- requests and models ----------------------------------------------------------------------


def _sample(requests: Requests, n: int, among: np.ndarray | None = None) -> Requests:
    """n of the requests, always the same ones, in their order."""
    rows = np.arange(len(requests)) if among is None else np.flatnonzero(among)
    return requests[np.sort(np.random.default_rng(0).choice(rows, min(n, len(rows)), False))]


def long_lives() -> Iterator[Request]:
    """Test requests of long lives, some candidates of each, two at a time."""
    world = dataset("course")
    index = world.test.extra["index_in_life"]
    requests = _sample(world.test, REQUESTS, index >= LONG_LIFE)
    loader = BatchLoader(
        world.log,
        requests,
        length=twin.LIFE,
        batch_size=2,
        sort_by_length=True,
        candidates=CANDIDATES,
    )
    for batch in loader:
        yield batch.request


def of_plan(name: str, seed: int) -> Ranker:
    """The trained model of a run of ``main-twin`` or ``parts-twin``."""
    runs: list[Run] = [*twin.main(), *twin.parts()]
    return trained(next(r for r in runs if r.name == name and r.seed == seed))


def searching(model: Ranker) -> Any:
    """The branch of the ranker's encoder that searches, without the short one beside it."""
    return model.encoder.main if isinstance(model.encoder, Beside) else model.encoder


def ordered(encoder: nn.Module, request: Request) -> tuple[Hits, Hits]:
    """The whole life in the order in which a model's search finds it, and the model's oracle.

    A hard search fills up with the newest other events. SDIM has no attention: its order is by the
    number of collisions, its oracle the cosine that collisions estimate.
    """
    events, items = request.events, request.items
    length = events.shape[1]
    if isinstance(encoder, Sdim):
        q, k = encoder.buckets(items.id), encoder.buckets(events.item)
        same = (q[:, :, None] == k[:, None]).sum(-1).float()
        return topk(same, length, events.mask[:, None]), _cosine_topk(encoder, request, ORACLE)
    assert isinstance(encoder, Twin | Sim | Eta)
    state: Any = encoder.prefill(request)
    if isinstance(encoder, Twin):
        return encoder.search(state, items, length), encoder.search(state, items, ORACLE)
    oracle = round_robin_topk(encoder.exact_scores(state, items), ORACLE)
    if isinstance(encoder, Sim):
        return encoder.search(state, items, length, fill=True), oracle
    return encoder.search(state, items, length), oracle


@torch.no_grad()
def _hamming_order(encoder: Eta, simhash: SimHash, request: Request) -> Hits:
    q, k = (simhash(encoder.items(i)) for i in (request.items.id, request.events.item))
    return hamming_topk(q, k, request.events.shape[1], request.events.mask)


@torch.no_grad()
def _cosine_topk(encoder: Eta | Sdim, request: Request, k: int) -> Hits:
    """The k events whose item vectors make the smallest angle with the candidate's."""
    q, e = (
        torch.nn.functional.normalize(encoder.items(i), dim=-1)
        for i in (request.items.id, request.events.item)
    )
    return inner_product_topk(q, e, k, request.events.mask)


def curve(order: Hits, oracle: Hits) -> Tensor:
    """(B, C, sizes): how many of the oracle's events are among the first n that were found."""
    rank = torch.empty_like(order.index)
    place = torch.arange(order.index.shape[-1]).expand_as(order.index)
    rank.scatter_(-1, order.index.where(order.mask, place), place)  # pads keep their own place
    at = rank.gather(-1, oracle.index)
    return torch.stack([((at < n) & oracle.mask).sum(-1) for n in SIZES], -1)


class OtherSearch(nn.Module):
    """A ranker on TWIN whose finalists come from old keys, or from another TWIN.

    Args:
        model: everything but the search is its own.
        keys: of the catalogue, as they were some time ago; None projects them now.
        other: whose search it borrows; None is the model's own.
    """

    def __init__(
        self, model: Ranker, keys: Tensor | None = None, other: Ranker | None = None
    ) -> None:
        super().__init__()
        self.model, self.keys, self.other = model, keys, other or model
        self.tasks = model.tasks

    def forward(self, request: Request) -> Tensor:
        """As ``Ranker.forward``."""
        search, own = self.other.encoder, self.model.encoder
        found = search.search(search.prefill(request, keys=self.keys), request.items)
        history = own.score(own.prefill(request), request.items, found=found)
        return self.model.rank(request, history)


def with_search(model: Ranker, **how: Any) -> Predictions:
    """Predictions of ``SCORED`` test requests when the search is another; see ``OtherSearch``."""
    world = dataset("course")
    requests = _sample(world.test, SCORED)
    calm: dict[str, Any] = {"length": twin.LIFE, "batch_size": 8, "sort_by_length": True}
    loader = BatchLoader(world.log, requests, **calm)
    return predict(OtherSearch(model, **how).eval(), loader)


# --- what each search finds -------------------------------------------------------------------

SEARCHES = ("sim_hard", "cluster 100", "cluster 1000", "sim_hard by topic", "sim_soft_pretrained",
            "eta", "sdim", "twin")  # fmt: skip


def search_run(seed: int) -> dict[str, np.ndarray]:
    """Hits of every search, and what follows from the models of one seed."""

    def make() -> dict[str, np.ndarray]:
        runtime.setup(1, seed)
        models = {n: searching(of_plan(n, seed)) for n in SEARCHES}
        main, aux = of_plan("twin", seed), of_plan("twin", (seed + 1) % len(twin.SEEDS))
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
            arrays |= _arrays(n, p)
        return arrays

    return kept(CACHE / f"twin-search-{seed}.npz", make)


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
    exact, dim = _cosine_topk(encoder, request, ORACLE), encoder.items.dim
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


def study() -> dict[str, Any]:
    """Hits over output sizes and what else belongs to them, means over three seeds."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        stored = list(pool.map(search_run, twin.SEEDS))
        streams = list(pool.map(stream_run, twin.SEEDS))
    names = [k.removeprefix("hits|") for k in stored[0] if k.startswith("hits|")]
    hits = {n: [s[f"hits|{n}"].mean((0, 1)) for s in stored] for n in names}
    hits["twin, stale"] = [s["curve"].mean((0, 1)) for s in streams]
    own, other = (bootstrap([_scores(s, n) for s in stored]) for n in ("own", "other"))
    # The same rankers, seed by seed, with another search.
    difference = own.minus(other, same_models=True)
    bits = [s["bits"].mean((0, 1)) for s in stored]
    return {
        "oracle": ORACLE,
        "sizes": list(SIZES),
        "requests": len(stored[0]["overlap"]),
        "candidates": CANDIDATES,
        "stale_steps": CURVE_AGE,
        "searches": {n: {"hits": _mean(v, 2), "each": _each(v, 2)} for n, v in hits.items()},
        "at_oracle_size": {n: _interval([x[SIZES.index(ORACLE)] for x in v])
                           for n, v in hits.items()},
        "overlap_hard_soft": _interval([s["overlap"].mean() for s in stored]),
        "eta_bits": {"bits": list(BITS), "recall": _mean(bits, 2), "each": _each(bits, 2)},
        "coverage": coverage(),
        "misses": {"share": round(1 - COVERED, 2), "hits_compute": float(ORACLE),
                   "hits_drop": _interval([s["dropped"].mean() for s in stored])},
        "borrowed": {"e_auc_own": round(own.value, 5), "e_auc_borrowed": round(other.value, 5),
                     "requests": SCORED, **cell(difference)},
    }  # fmt: skip


# --- old keys ---------------------------------------------------------------------------------


def stream_run(seed: int, rate: float = RATES[0]) -> dict[str, np.ndarray]:
    """Go on training, in order of time, and search with keys of every age (T-C2).

    The query, the bias and the ESU are always the newest; only ``K_h W^h`` is old, as in production.
    """

    def make() -> dict[str, np.ndarray]:
        runtime.setup(1, seed)
        world, model = dataset("course"), of_plan("twin", seed)
        encoder = twin_of(model)
        keys = {0: _keys(encoder)}
        order = np.argsort(world.train.time, kind="stable")[-STEPS * 32 :]
        stream = BatchLoader(world.log, world.train[order], length=twin.LIFE, batch_size=32,
                             candidates=4, seed=seed)  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-5)
        objective = supervised(model.tasks)
        model.train()
        for step, batch in enumerate(stream, start=1):
            loss = torch.stack(list(objective(model, batch).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            if step % EVERY == 0 or STEPS - step in AGES:
                keys[step] = _keys(encoder)
        model.eval()
        return _with_old_keys(model, {STEPS - step: k for step, k in keys.items()})

    return kept(CACHE / f"twin-stream-{rate:g}-{seed}.npz", make)


@torch.no_grad()
def _keys(encoder: Twin) -> Tensor:
    return encoder.project_items().clone()


def cyclic(keys: dict[int, Tensor], period: int) -> Tensor:
    """Rows as a projector leaves them that renews one slice every ``EVERY`` steps, in turns."""
    slices = period // EVERY
    rows = torch.stack([keys[EVERY * i] for i in range(slices)])  # by age
    item = torch.arange(rows.shape[1])
    return rows[item % slices, item]


def _with_old_keys(model: Ranker, keys: dict[int, Tensor]) -> dict[str, np.ndarray]:
    encoder = twin_of(model)
    out: dict[str, list[Tensor]] = {}
    tables = {f"age|{a}": keys[a] for a in AGES}
    tables |= {f"cyclic|{p}": cyclic(keys, p) for p in PERIODS}
    for request in long_lives():
        oracle = encoder.search(encoder.prefill(request), request.items, ORACLE)
        for name, table in tables.items():
            found = encoder.search(encoder.prefill(request, table), request.items, ORACLE)
            out.setdefault(name, []).append(hits_at_k(found, oracle))
        state = encoder.prefill(request, keys[CURVE_AGE])
        order = encoder.search(state, request.items, request.events.shape[1])
        out.setdefault("curve", []).append(curve(order, oracle))
    arrays = {k: torch.cat(v).numpy() for k, v in out.items()}
    for age in SCORED_AGES:
        p = with_search(model, keys=keys[age])
        arrays |= _arrays(str(age), p)
    return arrays


def staleness() -> dict[str, Any]:
    """Hits by the age of the keys, one refresh of all or slices in turns; clicks beside them."""
    jobs = [(seed, rate) for rate in RATES for seed in twin.SEEDS]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        stored = list(pool.map(stream_run, *zip(*jobs, strict=True)))
    at = {rate: [s for s, (_, r) in zip(stored, jobs, strict=True) if r == rate] for rate in RATES}
    return {
        "batch": 32,
        "steps": list(AGES),
        "requests": SCORED,
        "rates": [{"lr": rate, **_ageing(runs)} for rate, runs in at.items()],
    }


def _ageing(stored: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    hits = [np.array([s[f"age|{a}"].mean() for a in AGES]) for s in stored]
    boots = {a: bootstrap([_scores(s, str(a)) for s in stored]) for a in SCORED_AGES}
    return {
        "hits": _mean(hits, 2),
        "each": _each(hits, 2),
        "crosses_94": _crossing(AGES, np.mean(hits, 0), 94.0),
        "cyclic": {"period": list(PERIODS),
                   "hits": [round(float(np.mean([s[f"cyclic|{p}"].mean() for s in stored])), 2)
                            for p in PERIODS]},
        "e_auc": {str(a): round(b.value, 5) for a, b in boots.items()},
        # The same rankers, seed by seed, with older keys.
        "e_auc_lost": {str(a): cell(boots[a].minus(boots[0], same_models=True))
                       for a in SCORED_AGES if a},
    }  # fmt: skip


def _crossing(x, y: np.ndarray, level: float) -> float | None:
    """Where a falling line first reaches a level; None if it does not."""
    for i in range(1, len(y)):
        if y[i] <= level < y[i - 1]:
            return round(
                float(x[i - 1] + (y[i - 1] - level) / (y[i - 1] - y[i]) * (x[i] - x[i - 1]))
            )
    return None


def _arrays(name: str, p: Predictions) -> dict[str, np.ndarray]:
    assert p.truth is not None
    return {f"{name}|score": p.score, "user": p.user, "label": p.label, "truth": p.truth}


def _scores(stored: dict[str, np.ndarray], name: str) -> Predictions:
    n = len(stored["user"])
    return Predictions(stored[f"{name}|score"], stored["label"], stored["user"], np.arange(n),
                       stored["truth"])  # fmt: skip


def _mean(values: list[np.ndarray], digits: int) -> list[float]:
    return np.mean(values, 0).round(digits).tolist()


def _each(values: list[np.ndarray], digits: int) -> list[list[float]]:
    return [np.round(v, digits).tolist() for v in values]


def _interval(values: list[Any]) -> dict[str, Any]:
    """Mean over seeds, and each."""
    return {"mean": round(float(np.mean(values)), 2), "each": [round(float(v), 2) for v in values]}
