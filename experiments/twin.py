"""TWIN against what a hundred events can do, and against the searches before it.

One epoch over all training requests for every model that searches the whole life (10,000 events),
two for those that read the newest 100, batches sorted by length.
"""

from __future__ import annotations

from typing import Any

from .runs import Run

SEEDS = (0, 1, 2)
LIFE = 10_000
SEARCH = ("sim_hard", "sim_soft_pretrained", "eta", "sdim", "twin", "twin_evidence")


def main() -> list[Run]:
    """Whole-life models and their best rivals at L = 100."""
    life: dict[str, Any] = {"data": "course", "length": LIFE, "epochs": 1, "sort": True}
    short: dict[str, Any] = {"data": "course", "length": 100, "epochs": 2}
    runs = []
    for s in SEEDS:
        runs += [Run(seed=s, model=name, name=f"{name}, L=100", **short)
                 for name in ("topic_histogram", "din_similarity")]  # fmt: skip
        runs += [Run(seed=s, model="topic_histogram", name="topic_histogram, life", **life)]
        runs += [Run(seed=s, model=name, name=name, **life) for name in SEARCH]
        topic = (("field", "topic"),)
        runs.append(
            Run(seed=s, model="sim_hard", name="sim_hard by topic", model_options=topic, **life)
        )
    return runs
