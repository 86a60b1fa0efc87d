"""Chapters 01 and 02: pooling and DIN, by length, by half-life, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..engine.run import Run
from ..engine.summary import Plan

SEEDS = (0, 1, 2)
LENGTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
HALF_LIVES = (0.01, 0.1, 1.0, 7.0, 30.0, 180.0)
POOLS = ("item_only", "sum_pooling", "mean_pooling", "max_pooling", "recency_pooling")
ATTENTION = ("din", "din_code", "din_similarity")
IN_CONTROL = ("item_only", "topic_histogram", "din_similarity")


def seeded(settings: dict[str, Any], seeds: Sequence[int] = SEEDS) -> list[Run]:
    """One run a seed."""
    return [Run(seed=s, **settings) for s in seeds]


def main(data: str, length: int = 100) -> list[Run]:
    """Every model of chapters 01 and 02 at one length, with the controls."""
    common: dict[str, Any] = {"data": data, "length": length}
    runs = []
    for name in (*POOLS, "topic_histogram", *ATTENTION):
        runs += seeded({**common, "model": name})
    for name in ("mean_pooling", "topic_histogram", "din"):
        runs += seeded({**common, "model": name, "history": "other"})
    return runs


def control() -> list[Run]:
    """The world where nothing older than 100 events helps: three models, without controls' twins."""
    return [run for run in main("control") if run.model in IN_CONTROL]


def lengths(
    data: str,
    longest: int,
    models: Sequence[str],
    attention: tuple[int, int] = (0, 0),
) -> list[Run]:
    """One epoch at every length, for all models alike.

    Args:
        data: a data set.
        longest: of the lengths.
        models: names.
        attention: DIN's own limits, since its cost grows with candidates × events: three seeds up
            to the first length, one seed up to the second, none beyond.
    """
    recipe: dict[str, Any] = {"data": data, "epochs": 1, "batch_size": 16, "sort": True}
    runs = []
    for length in (n for n in LENGTHS if n <= longest):
        for name in models:
            runs += seeded({**recipe, "model": name, "length": length})
        if length <= attention[1]:
            seeds = SEEDS if length <= attention[0] else SEEDS[:1]
            runs += seeded({**recipe, "model": "din_similarity", "length": length}, seeds)
    return runs


def half_life(data: str) -> list[Run]:
    """Recency pooling over half-lives."""
    common: dict[str, Any] = {"data": data, "model": "recency_pooling", "length": 100}
    runs = []
    for days in HALF_LIVES:
        runs += seeded({**common, "model_options": (("half_life", days),)})
    return runs


def unit(data: str) -> list[Run]:
    """DIN's parts one at a time: softmax, activation, similarity inputs."""
    variants: list[tuple[tuple[str, Any], ...]] = [
        (("softmax", True),),
        (("activation", "prelu"),),
        (("activation", "sigmoid"),),
    ]
    common: dict[str, Any] = {"data": data, "model": "din", "length": 100}
    return [run for v in variants for run in seeded({**common, "model_options": v})]


MAIN_BASELINES = ("item_only", "mean_pooling", "topic_histogram", "din", "din_similarity")
BY_LENGTH = ("mean_pooling", "recency_pooling", "topic_histogram")
PLANS = {
    "main-course": Plan(partial(main, "course"), MAIN_BASELINES),
    "main-complete-journey": Plan(partial(main, "complete-journey"), MAIN_BASELINES),
    "main-control": Plan(control, IN_CONTROL),
    "half-life-course": Plan(partial(half_life, "course")),
    "unit-course": Plan(partial(unit, "course")),
    "length-course": Plan(
        partial(lengths, "course", 10_000, BY_LENGTH, (1_000, 10_000)),
        baselines=("mean_pooling", "topic_histogram", "din_similarity"),
    ),
    "length-complete-journey": Plan(
        partial(lengths, "complete-journey", 1_000, ("mean_pooling", "topic_histogram")),
        baselines=("mean_pooling", "topic_histogram"),
    ),
}
