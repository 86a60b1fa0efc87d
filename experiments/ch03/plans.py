"""Chapter 03: TransAct's claims on the course's world, in a minute's budget each and in a longer one.

Every run of the ablation draws 4 of 16 candidates per training request and sees each request once;
one layer instead of two, no dropout, attention started at "like attends to like" (``tied``). That is
20–40 CPU seconds. ``long-transact`` gives TransAct three epochs and DIN ten, of which the best on
held-out days counts; DIN's ten still take less CPU time.
"""

from __future__ import annotations

from typing import Any

from ..engine.run import Run
from ..engine.summary import Plan

SEEDS = (0, 1, 2)
START: dict[str, Any] = {"n_layers": 1, "dropout": 0.0, "tied": 4.0}
RECIPE: dict[str, Any] = {"data": "course", "epochs": 1, "lr": 2e-3, "candidates": 4}
TASKS = ("click", "like_or_share", "hide")


def variant(name: str, model: str = "transact", length: int = 50, **options: Any) -> list[Run]:
    """Three seeds of TransAct's encoder in the small recipe, with some options changed."""
    fields = ("label_weights", "lr", "epochs")
    known: dict[str, Any] = {f: options.pop(f) for f in fields if f in options}
    settings = {**START, **options}
    run: dict[str, Any] = {**RECIPE, "model": model, "length": length, "name": name, **known}
    return [Run(seed=s, model_options=tuple(sorted(settings.items())), **run) for s in SEEDS]


def plain(name: str, model: str, length: int = 50, **more: Any) -> list[Run]:
    """Three seeds of a model with its own defaults, on the same 4 of 16 candidates."""
    run = {**RECIPE, "model": model, "length": length, "name": name, "lr": 5e-3, **more}
    return [Run(seed=s, **run) for s in SEEDS]


def main() -> list[Run]:
    """Table 1 and Table 3: baselines, DIN, TransAct, at L = 100."""
    n = 100
    runs = [
        *plain("no history", "item_only", n),
        *plain("average pooling", "mean_pooling", n),
        *plain("CNN", "cnn", n),
        *plain("RNN", "rnn", n),
        *plain("LSTM", "lstm", n),
        *plain("topic histogram", "topic_histogram", n),
        *plain("DIN", "din", n),
        *plain("DIN, all candidates", "din", n, candidates=None),
        *variant("BST, all actions", "bst", n),
        *variant("BST, positive actions", "bst_positive", 300),
        *variant("vanilla transformer", length=n, d_action=0, fusion="none"),
        *variant("TransAct", length=n),
        *variant("TransAct, no window", length=n, window=0.0),
        *variant("TransAct, random start", length=n, window=0.0, tied=0.0),
    ]
    return runs


def parts() -> list[Run]:
    """Fusion, masks, actions, positions and compression, one at a time, at L = 50, no window."""
    free: dict[str, Any] = {"window": 0.0}
    compressions: dict[str, dict[str, Any]] = {
        "random column": {"rows": "random", "n_rows": 1, "pool": False},
        "first column": {"n_rows": 1, "pool": False},
        "random K": {"rows": "random", "pool": False},
        "first K": {"pool": False},
        "all": {"rows": "all", "pool": False},
        "maximum": {"rows": "none"},
        "all + maximum": {"rows": "all"},
    }
    runs = variant("first K + maximum", seq_len=50, **free)
    for name, options in compressions.items():
        runs += variant(name, seq_len=50, **free, **options)
    for name in ("learned", "sinusoidal", "age"):
        runs += variant(f"position: {name}", position=name, seq_len=50, **free)
    runs += variant("no action types", d_action=0, seq_len=50, **free)
    runs += variant("frozen content items", item="content", seq_len=50, **free)
    runs += variant("window 24 h, strict", seq_len=50)
    runs += variant("window 24 h, leaky", "transact_paper", seq_len=50)
    runs += variant("authors' code", "transact_code", seq_len=50)
    for name in ("pinterest", "hides-count-once"):
        runs += variant(f"label weights: {name}", seq_len=50, label_weights=name, **free)
    return runs


def by_length() -> list[Run]:
    """Concat by length, and append at three of the lengths."""
    runs = []
    for n in (10, 20, 50, 100, 200):
        short: dict[str, Any] = {"seq_len": max(n, 10), "window": 0.0}
        runs += variant("concat", length=n, **short)
        if n in (10, 50, 100):
            runs += variant("append", length=n, fusion="append", **short)
    return runs


def hybrid() -> list[Run]:
    """Recent actions and a daily embedding of the whole life, together and alone."""
    n = 2_000
    runs = variant("hybrid", "transact_hybrid", n, window=0.0, seq_len=50)
    runs += variant("real time only", length=n, window=0.0, seq_len=50)
    runs += plain("daily only", "daily", n, lr=2e-3)
    return runs


def longer() -> list[Run]:
    """Several epochs of all candidates, the best one by 30 held-out days."""
    long: dict[str, Any] = {"candidates": None, "held_out": 30.0}
    at = {**RECIPE, **long, "length": 100}
    free = tuple(sorted({**START, "window": 0.0}.items()))
    runs = []
    for s in SEEDS:
        transact = {**at, "model": "transact", "epochs": 3, "name": "TransAct"}
        din = {**at, "model": "din", "epochs": 10, "lr": 5e-3, "name": "DIN"}
        runs.append(Run(seed=s, model_options=free, **transact))
        runs.append(Run(seed=s, **din))
    return runs


def real() -> list[Run]:
    """The same small recipe on a year of purchases."""
    data: dict[str, Any] = {"data": "complete-journey"}
    runs = plain("no history", "item_only", 100, **data)
    runs += plain("DIN, all candidates", "din", 100, candidates=None, **data)
    settings = tuple(sorted({**START, "window": 0.0}.items()))
    recipe = {**RECIPE, **data, "model": "transact", "length": 100, "name": "TransAct, no window"}
    return runs + [Run(seed=s, model_options=settings, **recipe) for s in SEEDS]


PLANS = {
    "main-transact": Plan(
        main,
        baselines=(
            "no history",
            "average pooling",
            "DIN",
            "DIN, all candidates",
            "TransAct",
            "TransAct, no window",
        ),
    ),
    "parts-transact": Plan(parts, baselines=("first K + maximum",)),
    "length-transact": Plan(by_length, baselines=("concat",)),
    "hybrid-transact": Plan(hybrid, baselines=("hybrid",)),
    "long-transact": Plan(longer, baselines=("TransAct", "DIN")),
    "real-transact": Plan(
        real,
        baselines=("no history", "DIN, all candidates", "TransAct, no window"),
    ),
}
