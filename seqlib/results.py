"""Stored experiments: what ``python -m experiments`` wrote, for chapters to load and plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def clone() -> Path:
    """The clone of the course that this package (or the working directory) is in.

    Raises:
        FileNotFoundError: neither is inside a clone of the course.
    """
    for start in (Path(__file__).resolve(), Path.cwd().resolve() / "x"):
        for parent in start.parents:
            if (parent / "experiments" / "results").is_dir():
                return parent
    raise FileNotFoundError(
        "no experiments/results above this package; work in a clone of the course"
    )


def folder() -> Path:
    """``experiments/results`` of the clone.

    Raises:
        FileNotFoundError: as :func:`clone`.
    """
    return clone() / "experiments" / "results"


@dataclass(frozen=True)
class Results:
    """One experiment.

    Attributes:
        name: of the experiment. reference: no history, ceiling and filter lines where known.
        rows: one per (label, length), each metric with its mean and its value per seed.
        differences: paired by user, with 95 % intervals.
        provenance: commit, versions, machine.
    """

    name: str
    reference: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    differences: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]

    def labels(self) -> list[str]:
        """Distinct labels in the order of the experiment."""
        return list(dict.fromkeys(r["label"] for r in self.rows))

    def row(self, label: str, length: int | None = None) -> dict[str, Any]:
        """The row of a label; ``length`` may be left out where there is only one.

        Raises:
            KeyError: none or several rows fit; the message lists what there is.
        """
        fit = [r for r in self.rows if r["label"] == label and length in (None, r["length"])]
        if len(fit) != 1:
            there = sorted({(r["label"], r["length"]) for r in self.rows})
            raise KeyError(f"{len(fit)} rows for {label!r}, length {length}; there are {there}")
        return fit[0]

    def metric(self, label: str, metric: str, length: int | None = None, task: str | None = None):
        """(mean, values per seed) of a metric; the main task by default."""
        cell = self.row(label, length)[task or self.reference["task"]][metric]
        return cell["mean"], tuple(cell["each"])

    def curve(
        self, label: str, metric: str, task: str | None = None
    ) -> list[tuple[int, float, tuple]]:
        """(length, mean, values per seed) of a label at every length, rising."""
        lengths = sorted({r["length"] for r in self.rows if r["label"] == label})
        return [(n, *self.metric(label, metric, n, task)) for n in lengths]

    def difference(self, a: str, b: str, length: int | None = None) -> dict[str, Any]:
        """``a`` minus ``b`` on the main task: delta, low, high, users, seeds.

        Raises:
            KeyError: this pair was not compared.
        """
        fit = [d for d in self.differences if (d["a"], d["b"]) == (a, b)]
        fit = [d for d in fit if length in (None, d["length"])]
        if len(fit) != 1:
            raise KeyError(f"{len(fit)} comparisons of {a!r} with {b!r} at length {length}")
        return fit[0]


def document(name: str) -> dict[str, Any]:
    """What an experiment wrote, as it stands in the file.

    Raises:
        FileNotFoundError: it was never run; the message says how to run it.
    """
    path = folder() / f"{name}.json"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder().glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"no stored experiment {name!r} (there are: {there}); "
            f"run it with: python -m experiments all {name}"
        )
    return json.loads(path.read_text())


def load(name: str) -> Results:
    """An experiment of models × lengths × seeds by name, e.g. "main-course".

    Raises:
        FileNotFoundError: it was never run; the message says how to run it.
    """
    raw = document(name)
    known = ("reference", "rows", "differences")
    rest = {k: v for k, v in raw.items() if k not in (*known, "experiment")}
    return Results(name, raw["reference"], tuple(raw["rows"]), tuple(raw["differences"]), rest)


def interval(difference: dict[str, Any], digits: int = 4) -> str:
    """A stored difference as text: "+0.0602 [+0.0568, +0.0641] clear of 0"."""
    delta, low, high = (f"{difference[k]:+.{digits}f}" for k in ("delta", "low", "high"))
    clear = difference["low"] > 0 or difference["high"] < 0
    return f"{delta} [{low}, {high}] {'clear of 0' if clear else 'not clear of 0'}"
