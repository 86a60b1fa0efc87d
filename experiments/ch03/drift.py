"""TransAct where the world moves: how a model ages (V1-C11), and what its window does (V1-C10).

World ``drift``: topic appeal, item quality and the catalogue move by known functions of time, so the
ceiling stays exact. Models are trained on the 260 days before day 560 and then left alone; others are
trained again, on as many requests of the 260 days before days 616 and 672. What is reported is the
gain of the model with real-time actions over the one without any history, by the age of the model in
bins of four weeks.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import torch

import seqlib
from seqlib import runtime
from seqlib.data.log import BatchLoader, Requests
from seqlib.data.schema import SECONDS_PER_DAY
from seqlib.data.world import make_world
from seqlib.evaluate import Predictions, bootstrap, paired_lift, predict
from seqlib.models.registry import configuration
from seqlib.multitask import hits, utility
from seqlib.train import FitConfig, fit

from ..engine import cache, data
from ..engine.compare import cell
from ..engine.piece import Piece
from ..engine.summary import Study, exact

SEEDS = (0, 1, 2)
FIRST = 560  # the day before which models are trained
WINDOW = 260  # days of training
BIN = 28  # days of a bin of age
RETRAINED = (616, 672)  # days before which others are trained again
LENGTH = 50
SLATE = 64  # candidates of a feed
TOP = 10  # of them shown
FEED: dict[str, Any] = {"C": SLATE, "R_train": 1, "R_test": 6}
BATCH = 32
CANDIDATES = 4
ACTIONS: dict[str, Any] = {"n_layers": 1, "dropout": 0.0, "tied": 4.0, "seq_len": LENGTH}
MODELS: dict[str, tuple[str, dict[str, Any], float]] = {
    "without": ("item_only", {}, 5e-3),
    "with": ("transact", {**ACTIONS, "window": 0.0}, 2e-3),
    "with, window": ("transact", {**ACTIONS, "window": 24.0}, 2e-3),
    "with, window, leaky": ("transact_paper", {**ACTIONS, "window": 24.0}, 2e-3),
}


def joined(a: Requests, b: Requests) -> Requests:
    """Requests of both, one after the other."""
    new = {
        f.name: np.concatenate([getattr(a, f.name), getattr(b, f.name)])
        for f in dataclasses.fields(a)
        if f.name != "extra" and getattr(a, f.name) is not None
    }
    return dataclasses.replace(a, **new, extra={})


def trained(world, requests: Requests, name: str, seed: int) -> torch.nn.Module:
    """One model of ``MODELS``, one epoch, 4 of 16 candidates."""
    model_name, options, lr = MODELS[name]
    runtime.setup(1, seed)
    model = seqlib.build(model_name, world.spec, seed=seed, **options)
    loader = BatchLoader(
        world.log,
        requests,
        length=LENGTH,
        batch_size=BATCH,
        shuffle=True,
        seed=seed,
        candidates=CANDIDATES,
    )
    fit(model, loader, FitConfig(epochs=1, lr=lr, seed=seed), device="cpu")
    return model


def scored(model, world, requests: Requests) -> Predictions:
    """Predictions on requests, in their order."""
    calm: dict[str, Any] = {"length": LENGTH, "batch_size": BATCH, "sort_by_length": True}
    loader = BatchLoader(world.log, requests, **calm)
    return predict(model, loader)


def ageing_run(seed: int) -> dict[str, np.ndarray]:
    """Scores of all test requests by models trained before days 560, 616 and 672.

    All are trained on equally many requests, drawn from their own 260 days: a model must not look
    fresh or stale because it saw more or fewer.
    """
    world = make_world("drift", seed=0)
    requests = joined(world.train, world.test)
    periods = {
        day: requests.between((day - WINDOW) * SECONDS_PER_DAY, day * SECONDS_PER_DAY)
        for day in (FIRST, *RETRAINED)
    }
    n = min(len(r) for r in periods.values())
    out = {}
    for day, period in periods.items():
        rows = np.sort(np.random.default_rng(seed).choice(len(period), n, replace=False))
        for name in ("without", "with"):
            model = trained(world, period[rows], name, seed)
            out[f"{name}|{day}"] = scored(model, world, world.test).score.astype(np.float32)
    return out


def feed_run(seed: int) -> dict[str, np.ndarray]:
    """Scores of slates of 64 candidates by models with and without the window."""
    world = make_world("drift", seed=0)
    slates = feed()
    begin = (FIRST - WINDOW) * SECONDS_PER_DAY
    past = world.train.between(begin, FIRST * SECONDS_PER_DAY)
    out = {}
    for name in MODELS:
        model = trained(world, past, name, seed)
        out[f"{name}|slate"] = scored(model, slates, slates.test).score.astype(np.float32)
    return out


def feed():
    """The same world and the same lives, with slates of 64 candidates."""
    return make_world("drift", seed=0, **FEED)


def pieces() -> list[Piece]:
    """Feeds and ageing of every seed."""
    models = {
        name: {"model": model, "options": dataclasses.asdict(configuration(model, **options)),
               "fit": dataclasses.asdict(FitConfig(epochs=1, lr=lr))}
        for name, (model, options, lr) in MODELS.items()
    }  # fmt: skip
    settings = {
        "world": data.source("drift").settings(),
        "models": models,
        "length": LENGTH,
        "batch_size": BATCH,
        "candidates": CANDIDATES,
        "first": FIRST,
        "window": WINDOW,
        "retrained": RETRAINED,
        "feed": FEED,
    }
    feeds = [Piece("drift-feed", feed_run, {"seed": s}, settings) for s in SEEDS]
    return [*feeds, *(Piece("drift-ageing", ageing_run, {"seed": s}, settings) for s in SEEDS)]


def study() -> dict[str, Any]:
    """Ageing by bin, and the feed's diversity."""
    kept: dict[str, list[dict[str, np.ndarray]]] = {}
    for piece in pieces():
        kept.setdefault(piece.name, []).append(cache.obtain(piece))
    return {
        "ageing": _ageing(make_world("drift", seed=0), kept["drift-ageing"]),
        "diversity": _diversity(feed(), kept["drift-feed"]),
        "settings": json.loads(json.dumps({"models": MODELS, "length": LENGTH, "top": TOP})),
    }


def _group(requests: Requests, stored, key: str, keep: np.ndarray) -> list[Predictions]:
    base = exact(requests)
    whole = [dataclasses.replace(base, score=s[key].astype(np.float64)) for s in stored]
    return [p.rows(keep) for p in whole]


def _ageing(world, stored) -> list[dict[str, Any]]:
    """Per bin of model age: E-AUC of all, gain of real time, and what retraining brings to each."""
    out = []
    days = world.test.time / SECONDS_PER_DAY
    for begin in range(FIRST, FIRST + 6 * BIN, BIN):
        keep = (days >= begin) & (days < begin + BIN)
        fresh = max(d for d in (FIRST, *RETRAINED) if d <= begin)
        boots = {
            f"{name}, {when}": bootstrap(_group(world.test, stored, f"{name}|{day}", keep))
            for name in ("with", "without")
            for when, day in (("stale", FIRST), ("retrained", fresh))
        }
        ceiling = bootstrap(exact(world.test).rows(keep)).value
        gain = {
            when: boots[f"with, {when}"].minus(boots[f"without, {when}"])
            for when in ("stale", "retrained")
        }
        # Until the first retraining the two sides are the same models.
        ageing = {
            name: boots[f"{name}, stale"].minus(
                boots[f"{name}, retrained"], same_models=fresh == FIRST
            )
            for name in ("with", "without")
        }
        out.append(
            {"weeks": [(begin - FIRST) // 7, (begin - FIRST + BIN) // 7], "requests": int(keep.sum()),
             "retrained_at": fresh, "ceiling": round(ceiling, 5),
             "e_auc": {k: round(b.value, 5) for k, b in boots.items()},
             "gain": {k: cell(i) for k, i in gain.items()},
             "lost_by_age": {k: cell(i) for k, i in ageing.items()}}
        )  # fmt: skip
    return out


def _diversity(world, stored) -> dict[str, Any]:
    """Top 10 of 64 candidates by utility: entropy of topics, share just engaged with, HIT@3."""
    requests = world.test
    topic = world.spec.items.fields["topic"].numpy()[requests.items]
    recent = _engaged_today(world, topic)
    keep = np.ones(len(requests), bool)
    values: dict[str, dict[str, list[np.ndarray]]] = {}
    for name in MODELS:
        group = _group(requests, stored, f"{name}|slate", keep)
        top = [np.argsort(-utility(p.score), axis=1, kind="stable")[:, :TOP] for p in group]
        values[name] = {
            "entropy": [_entropy(np.take_along_axis(topic, t, 1)) for t in top],
            "engaged": [np.take_along_axis(recent, t, 1).mean(1) for t in top],
            "repin": [hits(utility(p.score), requests.truth[..., 1]) for p in group],
        }
    base = {"over no history": "without", "over no window": "with"}
    return {
        "requests": len(requests),
        "mean": {
            n: {k: round(float(np.mean(x)), 4) for k, x in v.items()} for n, v in values.items()
        },
        "lift": {
            title: {
                n: {k: cell(paired_lift(v[k], values[b][k], requests.user)) for k in v}
                for n, v in values.items()
                if n not in ("without", b)
            }
            for title, b in base.items()
        },
    }


def _entropy(topics: np.ndarray) -> np.ndarray:
    """(R, k) -> (R,) entropy in bits of the topics shown."""
    share = (topics[:, :, None] == topics[:, None]).mean(2)  # of each position's own topic
    return -np.log2(share).mean(1)


def _engaged_today(world, topic: np.ndarray) -> np.ndarray:
    """(R, C): the candidate's topic got a positive action in the 24 hours before the request."""
    log, requests, of = world.log, world.test, world.spec.items.fields["topic"].numpy()
    out = np.zeros(topic.shape)
    for r in range(len(requests)):
        rows = log.of(int(requests.user[r]))
        t = log.time[rows]
        now = requests.time[r]
        near = (t < now) & (t >= now - SECONDS_PER_DAY) & ((log.action[rows] & 7) > 0)
        out[r] = np.isin(topic[r], of[log.item[rows][near]])
    return out


STUDY = Study(study, jobs=lambda: list(pieces()))
