"""The experiments: which runs, and what is written about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqlib.evaluate import Bootstrap, Predictions, bootstrap, evaluate, grade
from seqlib.metrics import expected_auc

from . import (
    drift,
    git_twin,
    transact,
    transact_claims,
    twin,
    twin_claims,
    twin_search,
    twin_serving,
)
from .runs import Run, cell, dataset, execute, seconds

SEEDS = (0, 1, 2)
LENGTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
POOLS = ("item_only", "sum_pooling", "mean_pooling", "max_pooling", "recency_pooling")
ATTENTION = ("din", "din_code", "din_similarity")


def label(run: Run) -> str:
    """What a figure calls a run: its name, or the model, what differs from its defaults, and whose
    history."""
    if run.name:
        return run.name
    options = ",".join(f"{k}={v}" for k, v in (*run.model_options, *run.embedding))
    name = run.model + (f"[{options}]" if options else "")
    return name if run.history == "own" else f"{name} (other user)"


def _seeds(run: dict[str, Any], seeds: Sequence[int] = SEEDS) -> list[Run]:
    return [Run(seed=s, **run) for s in seeds]


def main(data: str, length: int = 100) -> list[Run]:
    """Every model of chapters 01 and 02 at one length, with the controls."""
    common: dict[str, Any] = {"data": data, "length": length}
    runs = []
    for name in (*POOLS, "topic_histogram", *ATTENTION):
        runs += _seeds({**common, "model": name})
    for name in ("mean_pooling", "topic_histogram", "din"):
        runs += _seeds({**common, "model": name, "history": "other"})
    return runs


def lengths(
    data: str, longest: int, models: Sequence[str], attention: tuple[int, int] = (0, 0)
) -> list[Run]:
    """One epoch at every length, for all models alike.

    Args:
        longest: of the lengths. models: names.
        attention: DIN's own limits, since its cost grows with candidates × events: three seeds up
            to the first length, one seed up to the second, none beyond.
    """
    recipe: dict[str, Any] = {"data": data, "epochs": 1, "batch_size": 16, "sort": True}
    runs = []
    for length in (n for n in LENGTHS if n <= longest):
        for name in models:
            runs += _seeds({**recipe, "model": name, "length": length})
        if length <= attention[1]:
            seeds = SEEDS if length <= attention[0] else SEEDS[:1]
            runs += _seeds({**recipe, "model": "din_similarity", "length": length}, seeds)
    return runs


def half_life(data: str) -> list[Run]:
    """Recency pooling over half-lives."""
    common: dict[str, Any] = {"data": data, "model": "recency_pooling", "length": 100}
    return [
        run
        for days in (0.01, 0.1, 1.0, 7.0, 30.0, 180.0)
        for run in _seeds({**common, "model_options": (("half_life", days),)})
    ]


def unit(data: str) -> list[Run]:
    """DIN's parts one at a time: softmax, activation, similarity inputs."""
    variants: list[tuple[tuple[str, Any], ...]] = [
        (("softmax", True),),
        (("activation", "prelu"),),
        (("activation", "sigmoid"),),
    ]
    common: dict[str, Any] = {"data": data, "model": "din", "length": 100}
    return [r for v in variants for r in _seeds({**common, "model_options": v})]


PLANS = {
    "main-course": lambda: main("course"),
    "main-complete-journey": lambda: main("complete-journey"),
    "main-control": lambda: [
        r for r in main("control") if r.model in ("item_only", "topic_histogram", "din_similarity")
    ],
    "half-life-course": lambda: half_life("course"),
    "unit-course": lambda: unit("course"),
    "length-course": lambda: lengths(
        "course", 10_000, ("mean_pooling", "recency_pooling", "topic_histogram"), (1_000, 10_000)
    ),
    "length-complete-journey": lambda: lengths(
        "complete-journey", 1_000, ("mean_pooling", "topic_histogram")
    ),
    "main-transact": transact.main,
    "parts-transact": transact.parts,
    "length-transact": transact.by_length,
    "hybrid-transact": transact.hybrid,
    "long-transact": transact.longer,
    "real-transact": transact.real,
    "main-twin": twin.main,
    "parts-twin": twin.parts,
    "length-twin": twin.lengths,
    "hash-twin": twin.hashes,
    "real-twin": twin.real,
}
BASES = {"item_only", "mean_pooling", "topic_histogram", "din", "din_similarity"}
BASES |= {"no history", "average pooling", "DIN", "DIN, all candidates", "TransAct", "hybrid"}
BASES |= {"TransAct, no window", "first K + maximum", "concat", "sim_hard", "sim_hard by topic"}
BASES |= {"sim_soft_pretrained", "sim_soft_joint", "twin"}
SHORT = {
    "din_similarity, L=100",
    "topic_histogram, L=100",
}  # whole-life models are held against them

# Conclusions drawn from several experiments, or measured in a way of their own.
STUDIES: dict[str, Callable[[], dict[str, Any]]] = {
    "transact-claims": transact_claims.summarise,
    "drift-transact": drift.study,
    "search-twin": twin_search.study,
    "staleness-twin": twin_search.staleness,
    "serving-twin": twin_serving.study,
    "git-twin": git_twin.study,
    "twin-claims": twin_claims.summarise,
}


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Metrics per (label, length) over seeds, paired differences, reference lines."""
    data = dataset(runs[0].data)
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((label(run), run.length), []).append(run)
    predictions = {key: [execute(r) for r in group] for key, group in groups.items()}
    reference = _reference(data, sorted({run.length for run in runs}))
    rows = [_row(key, groups[key], predictions[key], data, reference) for key in groups]
    return {"reference": reference, "rows": rows, "differences": _differences(predictions)}


def _row(key, group: list[Run], predictions: list[Predictions], data, reference) -> dict[str, Any]:
    tables = [evaluate(p, data.spec.task_names) for p in predictions]
    row: dict[str, Any] = {"label": key[0], "model": group[0].model, "length": key[1]}
    row |= {"history": group[0].history, "epochs": group[0].epochs, "seeds": len(group)}
    row["cpu_seconds"] = round(float(np.mean([seconds(r) for r in group])), 1)
    for task in data.spec.task_names:
        metrics = {m: [t[task][m] for t in tables] for m in tables[0][task]}
        row[task] = {
            m: {"mean": round(float(np.mean(v)), 5), "each": [round(x, 5) for x in v]}
            for m, v in metrics.items()
        }
    if "ceiling" in reference:
        e_auc = row[data.spec.task_names[0]]["e_auc"]["mean"]
        row["grade"] = round(grade(e_auc, reference["none"], reference["ceiling"]), 4)
    return row


def _reference(data, lengths: Sequence[int]) -> dict[str, Any]:
    test = data.test
    out: dict[str, Any] = {
        "task": data.spec.task_names[0],
        "test_requests": len(test),
        "test_users": len(np.unique(test.user)),
        "train_requests": len(data.train),
    }
    if test.truth is None:
        return out
    from seqlib.data.world import p_window

    p = test.truth[..., 0]
    out["none"] = round(expected_auc(test.extra["p_none"][..., 0], p), 5)
    out["ceiling"] = round(expected_auc(p, p), 5)
    out["filter"] = {
        str(n): round(expected_auc(p_window(data, test, n)[..., 0], p), 5) for n in lengths
    }
    return out


def _differences(predictions: dict[tuple[str, int], list[Predictions]]) -> list[dict[str, Any]]:
    """Every label against the baselines, of the same length but for ``SHORT``, paired by user.

    A side with more seeds than the other is cut to as many, so that means are over equal numbers.
    """
    made: dict[tuple[tuple[str, int], int], Bootstrap] = {}

    def of(key: tuple[str, int], n: int) -> Bootstrap:
        if (key, n) not in made:
            made[key, n] = bootstrap(predictions[key][:n])
        return made[key, n]

    out = []
    for a in predictions:
        for b in predictions:
            same_length = a[1] == b[1] or b[0] in SHORT
            if b[0] not in BASES | SHORT or a[0] == b[0] or not same_length:
                continue
            n = min(len(predictions[a]), len(predictions[b]))
            i = of(a, n).minus(of(b, n))
            out.append(
                {"a": a[0], "b": b[0], "length": a[1], "seeds": n, "users": i.users} | cell(i)
            )
    return sorted(out, key=lambda d: (d["length"], d["a"], d["b"]))
