"""TWIN on real lives of more than 10^4 events: the file history of a git clone.

``SEQLIB_GIT_CLONE=PATH python -m experiments all git-twin``, with PATH a full clone (bare or not) of
a project with heavy authors. The stored result is of the project it names, at the commit it names.

User = author, item = file, a request = a commit, see ``seqlib.data.git_history``. Negatives are drawn
uniformly from the files that existed: nobody declined them, so rates mean nothing and only order does.
Training and test requests are a seeded sample, histories are never cut but by a model's own length.

One recipe for all: 7,000 training requests, each seen twice. It was chosen on the last tenth of training
time, where one pass left every model short, the TWINs least; DIN is there with four passes as well.
Beside the models stand two kinds of counting: of no training at all (``counting``), and a small network
on the candidate's own counts and last touches (``by_hand``).

Heavy users are few. Users and seeds are drawn as everywhere in the course; because five users say
little, so are all (author, quarter) blocks instead of users, which asks less: whether it would come out
again *for these authors*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqlib import runtime
from seqlib.data.dataset import Dataset
from seqlib.data.log import Requests, history_end
from seqlib.data.schema import SECONDS_PER_DAY
from seqlib.evaluate import Bootstrap, Predictions, bootstrap
from seqlib.metrics import auc, gauc
from seqlib.nn import MLP
from seqlib.objectives import bce

from ..engine import cache
from ..engine.compare import Group, cell
from ..engine.run import Run
from ..engine.summary import Study, predictions, summarise
from .git_data import full_history, history

SEEDS = (0, 1, 2)
LIFE = 10_000
SHORT = 100
HEAVY = 10_000  # events before a request
WINDOWS = (100, 1_000, 10_000)
QUARTER = 91.3125 * SECONDS_PER_DAY
BY_HAND = {"counts by hand, L=100": SHORT, "counts by hand, life": LIFE}


def main() -> list[Run]:
    """Whole-life models, and every kind of model with 100 events."""
    life: dict[str, Any] = {"data": "git", "length": LIFE, "epochs": 2, "sort": True}
    short: dict[str, Any] = {"data": "git", "length": SHORT, "epochs": 2}
    plan: list[dict[str, Any]] = [{**short, "model": "item_only", "name": "item_only"}]
    for name in ("mean_pooling", "topic_histogram", "din_similarity", "twin", "twin_evidence"):
        plan.append({**short, "model": name, "name": f"{name}, L=100"})
    plan += [
        {**short, "model": "din_similarity", "name": "din_similarity, L=100, 4 epochs", "epochs": 4},
        {**life, "model": "topic_histogram", "name": "topic_histogram, life"},
        {**life, "model": "sim_hard", "name": "sim_hard"},
        {**life, "model": "twin", "name": "twin"},
        {**life, "model": "twin_evidence", "name": "twin_evidence"},
    ]  # fmt: skip
    return [Run(seed=s, **settings) for s in SEEDS for settings in plan]


def pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Both TWINs against everything else; what length alone brings to the other models."""
    twins = ("twin", "twin_evidence")
    out = [(a, b) for a in twins for b in labels if b not in twins]
    out.append(("twin_evidence", "twin"))
    out += [("topic_histogram, life", "topic_histogram, L=100")]
    out += [("sim_hard", b) for b in labels if b.endswith("L=100")]
    return out


# --- what the history is ----------------------------------------------------------------------


def lengths_before(data: Dataset, requests: Requests) -> NDArray[np.int64]:
    """(R,) events of the author before each request."""
    return history_end(data.log, requests) - data.log.offsets[requests.user]


def past(data: Dataset, requests: Requests, of: NDArray) -> tuple[NDArray, NDArray]:
    """When each candidate's value was last touched, and how often, in the author's life.

    Args:
        of: (items,) value of every item: the item itself, or its folder.

    Returns:
        (R, C) rank of the last touch, 0 the newest event, infinite if there is none;
        (R, C, W + 1) touches among the last of ``WINDOWS`` and in the whole life.
    """
    end, values = history_end(data.log, requests), of[data.log.item]
    rank = np.full(requests.items.shape, np.inf)
    count = np.zeros((*requests.items.shape, len(WINDOWS) + 1))
    for r in range(len(requests)):
        life = values[data.log.offsets[requests.user[r]] : end[r]][::-1]
        same = of[requests.items[r]][:, None] == life
        for w, n in enumerate((*WINDOWS, len(life))):
            count[r, :, w] = same[:, :n].sum(1)
        if (known := same.any(1)).any():
            rank[r, known] = same[known].argmax(1)
    return rank, count


def counting(data: Dataset, keep: NDArray) -> dict[str, Any]:
    """What needs no training: how many candidates had been touched, and AUCs of counts and ranks."""
    test = data.test[keep]
    label = test.labels[..., 0]
    names = [f"{n}" for n in WINDOWS] + ["all"]
    out: dict[str, Any] = {}
    folder = data.spec.items.fields["folder"].numpy()
    for kind, of in (("file", np.arange(len(folder))), ("folder", folder)):
        rank, count = past(data, test, of)
        cells: dict[str, dict[str, float]] = {"positives_seen": {}, "negatives_seen": {}}
        cells |= {"auc_of_count": {}, "auc_of_recency": {}}
        for w, name in enumerate(names):
            seen = count[..., w] > 0
            recency = np.where(seen, -rank, -1e9)
            cells["positives_seen"][name] = float(seen[label == 1].mean())
            cells["negatives_seen"][name] = float(seen[label == 0].mean())
            cells["auc_of_count"][name] = auc(count[..., w], label)
            cells["auc_of_recency"][name] = auc(recency, label)
        out[kind] = {k: {n: round(x, 4) for n, x in v.items()} for k, v in cells.items()}
    return out


def _quantiles(x: NDArray) -> dict[str, int]:
    return {f"p{q}": int(np.percentile(x, q)) for q in (0, 10, 50, 90, 100)}


def facts(data: Dataset, heavy: NDArray) -> dict[str, Any]:
    """Which history, how long, and what was left out and sampled."""
    everything, which = full_history()
    log, touched = data.log, data.log.lengths

    def day(t: float) -> str:
        return str(np.datetime64(int(t), "s").astype("datetime64[D]"))

    return {
        **which,
        "events": len(log),
        "from": day(log.time.min()),
        "test_from": day(everything.test.time.min()),
        "to": day(log.time.max()),
        "users": log.n_users,
        "users_with_heavy_life": int((touched >= HEAVY).sum()),
        "events_per_user": _quantiles(touched),
        "items": len(data.spec.items) - 2,
        "folders": data.spec.items.sizes["folder"] - 2,
        "notes": {k: v for k, v in data.spec.notes.items() if k != "test_from"},
        "train_requests": {"used": len(data.train), "of": len(everything.train)},
        "test_requests": {"used": len(data.test), "of": len(everything.test)},
        "train_history": _quantiles(lengths_before(data, data.train)),
        "test_history": _quantiles(lengths_before(data, data.test)),
        "test_users": len(np.unique(data.test.user)),
        "heavy_test_requests": int(heavy.sum()),
        "heavy_test_users": len(np.unique(data.test.user[heavy])),
    }


def by_hand(data: Dataset, n: int) -> Group:
    """A small network on what can be counted of a candidate's file and folder in the last n events.

    Inputs are the log rank of the last touch, whether there is one, and log counts in every window
    up to n. No item features, no learned vectors: what a search has to beat.
    """
    known = [w for w, size in enumerate(WINDOWS) if size <= n]
    folder = data.spec.items.fields["folder"].numpy()

    def features(requests: Requests) -> Tensor:
        columns = []
        for of in (np.arange(len(folder)), folder):
            rank, count = past(data, requests, of)
            seen = rank < n
            columns += [np.log1p(np.where(seen, rank, 2 * n)), seen]
            columns += [np.log1p(count[..., w]) for w in known]
        return torch.tensor(np.stack(columns, -1), dtype=torch.float32)

    x, test, y = features(data.train), features(data.test), torch.tensor(data.train.labels).float()
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, test, out = (x - mean) / std, (test - mean) / std, []
    for seed in SEEDS:
        runtime.setup(1, seed)
        net = nn.Sequential(MLP((x.shape[1], 48, 24)), nn.Linear(24, 1))
        steps = 10 * -(-len(x) // 512)
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for rows in (r for _ in range(10) for r in torch.randperm(len(x)).split(512)):
            optimizer.zero_grad()
            bce(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            score = net(test).sigmoid().double().numpy()
        label, index = data.test.labels.astype(np.float64), np.arange(len(data.test))
        out.append(Predictions(score, label, data.test.user.astype(np.int64), index))
    return out


# --- results ----------------------------------------------------------------------------------


def _by_user(group: Group) -> tuple[NDArray, NDArray]:
    """(S, users) each user's own AUC by seed; (users,) impressions. NaN with one class only."""
    users = np.unique(group[0].user)
    value, weight = np.zeros((len(group), len(users))), np.zeros(len(users))
    for s, p in enumerate(group):
        for u, user in enumerate(users):
            rows = p.rows(p.user == user)
            value[s, u] = auc(rows.score[..., 0], rows.label[..., 0])
            weight[u] = rows.label.size
    return value, weight


def gauc_difference(a: Group, b: Group, n: int = 1000) -> dict[str, Any]:
    """GAUC of ``a`` minus that of ``b``, users and seeds drawn; in how many users ``a`` is better."""
    (va, weight), (vb, _) = _by_user(a), _by_user(b)
    keep = np.isfinite(va.mean(0) - vb.mean(0))
    w, users, seed = weight[keep], int(keep.sum()), 0
    times = np.random.default_rng(seed).multinomial(users, np.full(users, 1 / users), n) * w
    left, right = (
        Bootstrap(
            each=v[:, keep] @ w / w.sum(),
            draws=times @ v[:, keep].T / times.sum(1, keepdims=True),
            users=users,
            same={"weight": w, "seed": seed},
        )
        for v in (va, vb)
    )
    gain = (va.mean(0) - vb.mean(0))[keep]
    return {**cell(left.minus(right)), "better_for": int((gain > 0).sum()), "of": users}


def compare(groups: dict[str, Group], quarter: NDArray, n: int = 1000) -> list[dict[str, Any]]:
    """Differences of AUC over drawn users and (author, quarter) blocks, and of GAUC.

    Args:
        groups: label -> predictions of its seeds, all on the same requests.
        quarter: (R,) which (author, quarter) each request is in.
    """
    by = {
        unit: {
            k: bootstrap([dataclasses.replace(p, user=of) for p in g], n=n)
            for k, g in groups.items()
        }
        for unit, of in (("user", next(iter(groups.values()))[0].user), ("quarter", quarter))
    }
    out = []
    for a, b in pairs(list(groups)):
        users, quarters = (by[unit][a].minus(by[unit][b]) for unit in ("user", "quarter"))
        out.append(
            {"a": a, "b": b, "length": LIFE, "seeds": len(groups[a]), "users": users.users,
             **cell(users), "quarters": {"n": quarters.users, **cell(quarters)},
             "gauc": gauc_difference(groups[a], groups[b], n)}
        )  # fmt: skip
    return out


def _metrics(group: Group) -> dict[str, dict[str, Any]]:
    user = np.repeat(group[0].user, group[0].score.shape[1])
    each = {
        "auc": [auc(p.score[..., 0], p.label[..., 0]) for p in group],
        "gauc": [gauc(p.score[..., 0], p.label[..., 0], user).value for p in group],
    }
    return {
        k: {"mean": round(float(np.mean(v)), 5), "each": [round(x, 5) for x in v]}
        for k, v in each.items()
    }


def by_last_touch(data: Dataset, groups: dict[str, Group]) -> list[dict[str, Any]]:
    """AUC of the positives whose file was last touched so many events ago, against all negatives."""
    label = data.test.labels[..., 0]
    rank, _ = past(data, data.test, np.arange(len(data.spec.items)))
    out, edges = [], (0, *WINDOWS, np.inf)
    bins = [(f"{a} to {b}", (rank >= a) & (rank < b)) for a, b in pairwise(edges)]
    for name, inside in [*bins, ("never", np.isinf(rank))]:
        positive = inside & (label == 1)
        among = positive | (label == 0)
        out.append({"events_ago": name, "positives": int(positive.sum())})
        if positive.any():
            out[-1]["auc"] = {
                k: round(float(np.mean([auc(p.score[..., 0][among], label[among]) for p in g])), 4)
                for k, g in groups.items()
            }
    return out


def study() -> dict[str, Any]:
    """All test requests, and those of heavy lives."""
    dataset = history()
    plan = main()
    groups = {label: group for (label, _), group in predictions(plan).items()}
    groups |= {name: by_hand(dataset, n) for name, n in BY_HAND.items()}
    blocks = np.stack([dataset.test.user, dataset.test.time // QUARTER], 1)
    _, quarter = np.unique(blocks, axis=0, return_inverse=True)
    heavy = lengths_before(dataset, dataset.test) >= HEAVY
    some = {k: [p.rows(heavy) for p in g] for k, g in groups.items()}
    return {
        **summarise(plan),
        "differences": compare(groups, quarter),
        "by_hand": [{"label": k, "touched": _metrics(groups[k])} for k in BY_HAND],
        "data": facts(dataset, heavy),
        "counting": counting(dataset, np.ones(len(heavy), bool)),
        "by_last_touch": by_last_touch(dataset, groups),
        "heavy": {
            "events_before": HEAVY,
            "rows": [{"label": k, "touched": _metrics(g)} for k, g in some.items()],
            "differences": compare(some, quarter[heavy]),
            "counting": counting(dataset, heavy),
        },
    }


def _jobs() -> list[cache.Job]:
    return list(main())


STUDY = Study(study, jobs=_jobs)
