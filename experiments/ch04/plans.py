"""TWIN against what a hundred events can do, and against the searches before it.

One epoch over all training requests for every model that searches the whole life (10,000 events),
two for those that read the newest 100, batches sorted by length. The sweeps of SDIM's hash read
1,000 events and draw 4 of 16 candidates per training request, as does the plan on real purchases.
"""

from __future__ import annotations

from typing import Any

from ..engine.run import Run
from ..engine.summary import Plan

SEEDS = (0, 1, 2)
LIFE = 10_000
LENGTHS = (1_000, 3_000)
SEARCH = ("sim_hard", "sim_soft_pretrained", "eta", "sdim", "twin", "twin_evidence")
WIDTHS = (1, 2, 3, 4, 6)  # SDIM's τ, at m = 48 bits
BITS = (6, 12, 24, 96)  # SDIM's m, at τ = 3
RECIPE: dict[str, Any] = {"data": "course", "epochs": 1, "sort": True}


def seeds(model: str, name: str = "", length: int = LIFE, **more: Any) -> list[Run]:
    """Three seeds of one model; keywords that are no field of ``Run`` are its options."""
    known: dict[str, Any] = {
        k: more.pop(k) for k in ("data", "epochs", "sort", "candidates") if k in more
    }
    own: dict[str, Any] = {"model": model, "name": name or model, "length": length}
    run = {**RECIPE, **own, **known}
    return [Run(seed=s, model_options=tuple(sorted(more.items())), **run) for s in SEEDS]


def main() -> list[Run]:
    """Whole-life models and their best rivals at L = 100."""
    runs = []
    for name in ("topic_histogram", "din_similarity"):
        runs += seeds(name, f"{name}, L=100", 100, epochs=2, sort=False)
    runs += seeds("mean_pooling", "mean_pooling, life")
    runs += seeds("topic_histogram", "topic_histogram, life")
    for name in SEARCH:
        runs += seeds(name)
    return [*runs, *seeds("sim_hard", "sim_hard by topic", field="topic")]


def lengths() -> list[Run]:
    """What the search may see: TWIN and two predecessors on shorter pieces of the life."""
    models = ("sim_hard", "sim_soft_pretrained", "twin")
    return [run for n in LENGTHS for name in models for run in seeds(name, length=n)]


def parts() -> list[Run]:
    """TWIN's parts, SIM's kinds of search, and the time gap, one at a time."""
    return [
        *seeds("twin"),
        *seeds("twin", "twin without bias", bias=False),
        *seeds("twin", "raw", raw=True),
        *seeds("sim_hard"),
        *seeds("sim_hard", "sim_hard without gap", d_time=0),
        *seeds("sim_cluster", "cluster 100", n_clusters=100),
        *seeds("sim_cluster", "cluster 1000", n_clusters=1_000),
        *seeds("sim_soft_pretrained"),
        *seeds("sim_soft_joint"),
    ]


def hashes() -> list[Run]:
    """SDIM's signature width τ and number of bits m."""
    small: dict[str, Any] = {"length": 1_000, "candidates": 4}
    runs = [r for w in WIDTHS for r in seeds("sdim", f"τ={w}, m=48", width=w, n_bits=48, **small)]
    for m in BITS:
        runs += seeds("sdim", f"τ=3, m={m}", width=3, n_bits=m, **small)
    return runs


def real() -> list[Run]:
    """A year of purchases: lives of a few hundred to a few thousand events."""
    data: dict[str, Any] = {"data": "complete-journey", "candidates": 4}
    return [
        *seeds("item_only", "no history", 100, **data),
        *seeds("din_similarity", "din_similarity, L=100", 100, epochs=2, sort=False, **data),
        *seeds("sim_hard", length=LIFE, **data),
        *seeds("twin", length=LIFE, **data),
    ]


# Whole-life models are held against the best models on the newest 100 events.
SHORT = ("din_similarity, L=100", "topic_histogram, L=100")
PLANS = {
    "main-twin": Plan(
        main,
        baselines=("sim_hard", "sim_hard by topic", "sim_soft_pretrained", "twin"),
        across=SHORT,
    ),
    "parts-twin": Plan(
        parts,
        baselines=("twin", "sim_hard", "sim_soft_pretrained", "sim_soft_joint"),
    ),
    "length-twin": Plan(lengths, baselines=("sim_hard", "sim_soft_pretrained", "twin")),
    "hash-twin": Plan(hashes),
    "real-twin": Plan(real, baselines=("no history", "sim_hard", "twin"), across=SHORT),
}
