"""Plans and studies, and what is written about a plan: rows, reference lines, differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlib.data.log import Requests
from seqlib.data.world import p_window
from seqlib.evaluate import Predictions, evaluate, grade
from seqlib.metrics import expected_auc

from . import cache, data
from .cache import Job
from .code import Root
from .compare import Point, differences

if TYPE_CHECKING:
    from .run import Run


@dataclass(frozen=True)
class Plan:
    """Seeds × lengths × models, and what they are held against.

    Attributes:
        runs: makes the list of runs.
        baselines: labels that the others of the same length are held against.
        across: labels that all others are held against, whatever the length.
    """

    runs: Callable[[], list[Run]]
    baselines: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def jobs(self) -> list[Job]:
        """What has to be made first."""
        return list(self.runs())

    def summarise(self) -> dict[str, Any]:
        """Its numbers."""
        return summarise(self.runs(), self.baselines, self.across)

    @property
    def roots(self) -> list[Root]:
        """Where the code of the summary begins."""
        return [(__name__, None)]


@dataclass(frozen=True)
class Study:
    """Conclusions drawn from several experiments, or measured in a way of their own.

    Attributes:
        summarise: makes the numbers.
        jobs: makes the list of runs and pieces that it reads.
        reads: names of other results that it reads.
    """

    summarise: Callable[[], dict[str, Any]]
    jobs: Callable[[], list[Job]] = list
    reads: tuple[str, ...] = ()

    @property
    def roots(self) -> list[Root]:
        """Where the code of the summary begins."""
        return [(self.summarise.__module__, None)]


def grouped(runs: Sequence[Run]) -> dict[Point, list[Run]]:
    """(label, length) -> its seeds."""
    out: dict[Point, list[Run]] = {}
    for run in runs:
        out.setdefault((run.label, run.length), []).append(run)
    return out


def predictions(runs: Sequence[Run]) -> dict[Point, list[Predictions]]:
    """(label, length) -> predictions of its seeds."""
    return {point: [cache.execute(r) for r in group] for point, group in grouped(runs).items()}


def summarise(
    runs: Sequence[Run],
    baselines: Sequence[str] = (),
    across: Sequence[str] = (),
) -> dict[str, Any]:
    """Metrics per (label, length) over seeds, paired differences, reference lines."""
    dataset = data.dataset(runs[0].data)
    groups = grouped(runs)
    found = predictions(runs)
    lines = reference(dataset, sorted({run.length for run in runs}))
    return {
        "reference": lines,
        "rows": [_row(point, groups[point], found[point], dataset, lines) for point in groups],
        "differences": differences(found, baselines, across),
    }


def exact(requests: Requests) -> Predictions:
    """The exact probabilities as predictions: the ceiling."""
    assert requests.truth is not None
    label = requests.labels.astype(np.float64)
    user = requests.user.astype(np.int64)
    return Predictions(requests.truth, label, user, np.arange(len(user)), requests.truth)


def reference(dataset: Any, lengths: Sequence[int]) -> dict[str, Any]:
    """Sizes, and where the world knows them: no history, ceiling, the exact filter by length."""
    test = dataset.test
    out: dict[str, Any] = {
        "task": dataset.spec.task_names[0],
        "test_requests": len(test),
        "test_users": len(np.unique(test.user)),
        "train_requests": len(dataset.train),
    }
    if test.truth is None:
        return out
    p = test.truth[..., 0]
    out["none"] = round(expected_auc(test.extra["p_none"][..., 0], p), 5)
    out["ceiling"] = round(expected_auc(p, p), 5)
    out["filter"] = {
        str(n): round(expected_auc(p_window(dataset, test, n)[..., 0], p), 5) for n in lengths
    }
    return out


def _row(
    point: Point,
    group: list[Run],
    found: list[Predictions],
    dataset: Any,
    lines: dict[str, Any],
) -> dict[str, Any]:
    tables = [evaluate(p, dataset.spec.task_names) for p in found]
    spent = [cache.train_seconds(run) for run in group]
    row: dict[str, Any] = {
        "label": point[0],
        "model": group[0].model,
        "length": point[1],
        "history": group[0].history,
        "epochs": group[0].epochs,
        "seeds": len(group),
        "runs": [run.key for run in group],
        "cpu_seconds": round(float(np.mean(spent)), 1),
    }
    for task in dataset.spec.task_names:
        row[task] = {
            metric: {
                "mean": round(float(np.mean([t[task][metric] for t in tables])), 5),
                "each": [round(t[task][metric], 5) for t in tables],
            }
            for metric in tables[0][task]
        }
    if "ceiling" in lines:
        e_auc = row[dataset.spec.task_names[0]]["e_auc"]["mean"]
        row["grade"] = round(grade(e_auc, lines["none"], lines["ceiling"]), 4)
    return row
