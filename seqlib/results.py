"""Stored experiments: what ``python -m experiments`` wrote, for chapters to load and plot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
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
        differences: paired by user, with 95 % intervals that are ``over`` users and seeds, or over
            users alone where nothing is known of the seeds.
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

    def runs(self, line: Mapping[str, Any]) -> list[str]:
        """Keys of the runs behind a row or a difference, in ``provenance["runs"]``: recipe, seconds
        and maker of each. Empty where the result is from before makers were noted."""
        if "runs" in line:
            return list(line["runs"])
        if not {"a", "b"} <= line.keys():
            return []
        a = self.row(line["a"], line["length"])
        same = [r for r in self.rows if r["label"] == line["b"]]
        # A baseline may stand at a length of its own.
        fit = [r for r in same if r["length"] == line["length"]] or same
        return [key for row in (a, *fit) for key in row.get("runs", [])[: line["seeds"]]]

    def difference(self, a: str, b: str, length: int | None = None) -> dict[str, Any]:
        """``a`` minus ``b`` on the main task: delta, low, high, users, seeds, over.

        Where only ``b`` minus ``a`` is stored, it is turned round.

        Raises:
            KeyError: this pair was not compared.
        """
        at = [d for d in self.differences if length in (None, d["length"])]
        fit = [d for d in at if (d["a"], d["b"]) == (a, b)]
        fit = fit or [turned(d) for d in at if (d["a"], d["b"]) == (b, a)]
        if len(fit) != 1:
            raise KeyError(f"{len(fit)} comparisons of {a!r} with {b!r} at length {length}")
        return fit[0]


def document(name: str) -> dict[str, Any]:
    """What an experiment wrote, as it stands in the file.

    Raises:
        FileNotFoundError: it was never run; the message says how to run it.
        ValueError: it is a draft, or was altered since it was written.
    """
    path = folder() / f"{name}.json"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder().glob("*.json"))) or "none"
        raise FileNotFoundError(
            f"no stored experiment {name!r} (there are: {there}); "
            f"run it with: python -m experiments all {name}"
        )
    found = json.loads(path.read_text())
    again = f"python -m experiments all {name}"
    if found.get("draft"):
        raise ValueError(f"{path} is a draft, of unclean makers; commit, then run: {again}")
    if found.get("digest") not in (None, digest_of(found)):
        raise ValueError(f"{path} was altered since it was written; write it again with: {again}")
    return found


def digest_of(document: Mapping[str, Any]) -> str:
    """64 bits of SHA-256, in hexadecimal, over all of a result but its own ``digest``."""
    rest = json.loads(json.dumps({k: v for k, v in document.items() if k != "digest"}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def load(name: str) -> Results:
    """An experiment of models × lengths × seeds by name, e.g. "main-course".

    Raises:
        FileNotFoundError: it was never run; the message says how to run it.
        ValueError: it is a draft, or was altered since it was written.
    """
    raw = document(name)
    known = ("reference", "rows", "differences")
    rest = {k: v for k, v in raw.items() if k not in (*known, "experiment")}
    return Results(name, raw["reference"], tuple(raw["rows"]), tuple(raw["differences"]), rest)


def is_clear(difference: Mapping[str, Any]) -> bool:
    """True when 0 lies outside a stored interval that is over users and seeds."""
    outside = difference["low"] > 0 or difference["high"] < 0
    return outside and difference.get("over") == "users and seeds"


def all_above(differences: Iterable[Mapping[str, Any]]) -> bool | None:
    """True if each lies clear above 0, False if one lies clear below it.

    None, for "open", where users and seeds leave one undecided and none lies clear below.
    """
    found = list(differences)
    if any(d["delta"] < 0 and is_clear(d) for d in found):
        return False
    return True if all(d["delta"] > 0 and is_clear(d) for d in found) else None


def turned(difference: Mapping[str, Any]) -> dict[str, Any]:
    """The same comparison the other way round."""
    d = difference
    new = {"delta": -d["delta"], "low": -d["high"], "high": -d["low"]}
    if {"a", "b"} <= d.keys():
        new |= {"a": d["b"], "b": d["a"]}
    return {k: new.get(k, v) for k, v in d.items() if not isinstance(v, dict)}


def interval(difference: Mapping[str, Any], digits: int = 4) -> str:
    """A stored difference as text: "+0.0602 [+0.0568, +0.0641] clear of 0".

    What is over users only says so, and is not called clear: "+0.0200 [+0.0110, +0.0290] over users
    only".
    """
    delta, low, high = (f"{difference[k]:+.{digits}f}" for k in ("delta", "low", "high"))
    if difference.get("over") != "users and seeds":
        return f"{delta} [{low}, {high}] over users only"
    return f"{delta} [{low}, {high}] {'clear of 0' if is_clear(difference) else 'not clear of 0'}"
