"""How TWIN's hits fall when its keys are old."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqlib import runtime
from seqlib.data.log import BatchLoader
from seqlib.evaluate import bootstrap
from seqlib.models.ranker import Ranker
from seqlib.models.twin import Twin
from seqlib.objectives import supervised
from seqlib.search import hits_at_k
from seqlib.serving.twin_keys import twin_of

from ..engine import cache
from ..engine.compare import cell
from ..engine.data import dataset
from ..engine.piece import Piece
from ..engine.summary import Study
from . import plans
from .models import (
    CANDIDATES,
    LONG_LIFE,
    ORACLE,
    REQUESTS,
    SCORED,
    SIZES,
    arrays_of,
    curve,
    each_of,
    long_lives,
    mean_of,
    of_plan,
    run_of,
    scores_of,
    with_search,
)

STEPS = 150  # of the stream
BATCH = 32
RATES = (1e-3, 5e-3)  # a gentle one, and the peak of the recipe that trained the model
AGES = (0, 1, 2, 5, 10, 20, 50, 100, 150)  # steps that keys are old
EVERY = 10  # steps between two snapshots
SCORED_AGES = (0, 50, 150)
CURVE_AGE = 100
PERIODS = (50, 100, 150)


def stream_run(seed: int, rate: float) -> dict[str, np.ndarray]:
    """Go on training, in order of time, and search with keys of every age (T-C2).

    The query, the bias and the ESU are always the newest; only ``K_h W^h`` is old, as in production.
    """
    runtime.setup(1, seed)
    world = dataset("course")
    model = of_plan("twin", seed)
    encoder = twin_of(model)
    keys = {0: _keys(encoder)}
    order = np.argsort(world.train.time, kind="stable")[-STEPS * BATCH :]
    stream = BatchLoader(
        world.log,
        world.train[order],
        length=plans.LIFE,
        batch_size=BATCH,
        candidates=CANDIDATES,
        seed=seed,
    )
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
        arrays |= arrays_of(str(age), p)
    return arrays


def pieces(rate: float) -> list[Piece]:
    """The streams of one learning rate, one seed each."""
    settings = {
        "oracle": ORACLE,
        "sizes": SIZES,
        "long_life": LONG_LIFE,
        "requests": REQUESTS,
        "candidates": CANDIDATES,
        "scored": SCORED,
        "steps": STEPS,
        "batch_size": BATCH,
        "ages": AGES,
        "every": EVERY,
        "scored_ages": SCORED_AGES,
        "curve_age": CURVE_AGE,
        "periods": PERIODS,
    }
    out = []
    for seed in plans.SEEDS:
        arguments = {"rate": rate, "seed": seed}
        out.append(Piece("twin-stream", stream_run, arguments, settings, (run_of("twin", seed),)))
    return out


def _jobs() -> list[cache.Job]:
    made = [piece for rate in RATES for piece in pieces(rate)]
    return [*(run for piece in made for run in piece.uses), *made]


def study() -> dict[str, Any]:
    """Hits by the age of the keys, one refresh of all or slices in turns; clicks beside them."""
    at = {rate: [cache.obtain(piece) for piece in pieces(rate)] for rate in RATES}
    return {
        "batch": BATCH,
        "steps": list(AGES),
        "requests": SCORED,
        "rates": [{"lr": rate, **_ageing(runs)} for rate, runs in at.items()],
    }


def _ageing(stored: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    hits = [np.array([s[f"age|{a}"].mean() for a in AGES]) for s in stored]
    boots = {a: bootstrap([scores_of(s, str(a)) for s in stored]) for a in SCORED_AGES}
    return {
        "hits": mean_of(hits, 2),
        "each": each_of(hits, 2),
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


STUDY = Study(study, jobs=_jobs)
