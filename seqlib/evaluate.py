"""Measure predictions; ``predictions`` makes them and ``intervals`` compares two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from . import metrics
from .data.schema import Task
from .intervals import (
    Bootstrap,
    Interval,
    Lift,
    bootstrap,
    few_seeds,
    paired_bootstrap,
    paired_lift,
)
from .predictions import Predictions, predict

__all__ = [
    "Bootstrap",
    "Interval",
    "Lift",
    "Predictions",
    "bootstrap",
    "evaluate",
    "few_seeds",
    "grade",
    "mean_over",
    "paired_bootstrap",
    "paired_lift",
    "predict",
]


def evaluate(predictions: Predictions, tasks: Sequence[str | Task]) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, each over the labels that count (weight above 0).

    A binary task: AUC, GAUC, log loss, NE, ECE, and expected AUC where truth is known. A real-valued
    one: root mean squared error, R² and concordance, which ranks as AUC does.

    Args:
        predictions: of one model.
        tasks: in the order of the labels; a bare name is a binary task.

    Raises:
        ValueError: more tasks than labels, a task without a label that counts, or labels and scores
            that its metrics refuse.
    """
    n_labels = predictions.label.shape[-1]
    if len(tasks) > n_labels:
        raise ValueError(f"{len(tasks)} tasks for {n_labels} labels; there can't be more tasks")
    out: dict[str, dict[str, float]] = {}
    for t, task in enumerate(tasks):
        counts = predictions.is_defined(t)
        if not counts.any():
            raise ValueError(f"no label of task {task} has a weight above 0; nothing to measure")
        score = predictions.score[..., t][counts]
        label = predictions.label[..., t][counts]
        if isinstance(task, Task) and task.kind == "real":
            out[str(task)] = _of_values(score, label)
            continue
        user = np.broadcast_to(predictions.user[:, None], counts.shape)[counts]
        out[str(task)] = _of_probabilities(score, label, user)
        if predictions.truth is not None:
            truth = predictions.truth[..., t][counts]
            out[str(task)]["e_auc"] = metrics.expected_auc(score, truth)
    return out


def _of_probabilities(p: NDArray, label: NDArray, user: NDArray) -> dict[str, float]:
    grouped = metrics.gauc(p, label, user)
    return {
        "auc": metrics.auc(p, label),
        "gauc": grouped.value,
        "gauc_users": grouped.users,
        "gauc_dropped_users": grouped.dropped_users,
        "log_loss": metrics.log_loss(p, label),
        "ne": metrics.normalized_entropy(p, label),
        "ece": metrics.ece(p, label),
    }


def _of_values(value: NDArray, label: NDArray) -> dict[str, float]:
    return {
        "rmse": metrics.rmse(value, label),
        "r2": metrics.r_squared(value, label),
        "concordance": metrics.concordance(value, label),
    }


def grade(e_auc: float, none: float, ceiling: float) -> float:
    """Share of the way from no history to the ceiling: (E-AUC − none) / (ceiling − none).

    Args:
        e_auc: expected AUC of a model.
        none: that of the model without history.
        ceiling: the best that can be reached.

    Raises:
        ValueError: a ceiling that isn't above ``none``.
    """
    if not ceiling > none:
        raise ValueError(f"the ceiling {ceiling} must lie above no history {none}")
    return (e_auc - none) / (ceiling - none)


def mean_over(
    fn: Callable[[Predictions], float], runs: Sequence[Predictions]
) -> tuple[float, float]:
    """Mean and standard deviation of a metric over seeds; the latter is 0 of one seed.

    Args:
        fn: the metric.
        runs: predictions of every seed.
    """
    values = [fn(r) for r in runs]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
