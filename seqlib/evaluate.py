"""Predict, measure, and compare two models by resampling users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from . import metrics
from .data.schema import Task
from .nn.heads import predictions as of_heads


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of a model on a set of requests, in the order of the requests.

    Attributes:
        score: (R, C, T) float64 probabilities. label: (R, C, T). user, index: (R,).
        truth: (R, C, T) exact probabilities, or None on real data.
    """

    score: NDArray[np.float64]
    label: NDArray[np.float64]
    user: NDArray[np.int64]
    index: NDArray[np.int64]
    truth: NDArray[np.float64] | None = None

    def rows(self, keep: NDArray) -> Predictions:
        """Some of the requests."""
        truth = None if self.truth is None else self.truth[keep]
        return Predictions(
            self.score[keep], self.label[keep], self.user[keep], self.index[keep], truth
        )


@torch.no_grad()
def predict(model: nn.Module, loader: Any, device: torch.device | str | None = None) -> Predictions:
    """Run a model over a loader in evaluation mode; its mode is restored."""
    device = device or next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts: list[tuple[NDArray, ...]] = []
    has_truth = True
    for batch in loader:
        outputs = model(batch.request.to(device)).double().cpu()
        score = of_heads(outputs, getattr(model, "tasks", ())).numpy()
        answers = batch.answers
        has_truth &= answers.truth is not None
        truth = np.zeros(0) if answers.truth is None else answers.truth.numpy()
        label = answers.labels.numpy().astype(np.float64)
        parts.append((score, label, batch.request.user.numpy(), batch.index.numpy(), truth))
    model.train(was_training)
    if not parts:
        raise ValueError("the loader has no batches; there is nothing to predict")
    columns = [np.concatenate(c) for c in list(zip(*parts, strict=True))[: 5 if has_truth else 4]]
    order = np.argsort(columns[3], kind="stable")
    return Predictions(*(c[order] for c in columns))


def evaluate(predictions: Predictions, tasks: Sequence[str | Task]) -> dict[str, dict[str, float]]:
    """Task -> metric -> value: AUC, GAUC, log loss, NE, ECE, and expected AUC where truth is known."""
    out: dict[str, dict[str, float]] = {}
    user = np.repeat(predictions.user, predictions.score.shape[1])
    for t, task in enumerate(map(str, tasks)):
        p, y = predictions.score[..., t].ravel(), predictions.label[..., t].ravel()
        grouped = metrics.gauc(p, y, user)
        out[task] = {
            "auc": metrics.auc(p, y),
            "gauc": grouped.value,
            "gauc_users": grouped.users,
            "gauc_dropped_users": grouped.dropped_users,
            "log_loss": metrics.log_loss(p, y),
            "ne": metrics.normalized_entropy(p, y),
            "ece": metrics.ece(p, y),
        }
        if predictions.truth is not None:
            out[task]["e_auc"] = metrics.expected_auc(p, predictions.truth[..., t])
    return out


def grade(e_auc: float, none: float, ceiling: float) -> float:
    """Share of the way from no history to the ceiling: (E-AUC − none) / (ceiling − none)."""
    if not ceiling > none:
        raise ValueError(f"the ceiling {ceiling} must lie above no history {none}")
    return (e_auc - none) / (ceiling - none)


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval over resampled users."""

    delta: float
    low: float
    high: float
    users: int

    @property
    def clear(self) -> bool:
        """True when 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


class _Resampled:
    """AUC of one score under many weightings of users, from one sort."""

    def __init__(self, score: NDArray, positive: NDArray, negative: NDArray, user: NDArray) -> None:
        order = np.argsort(score, kind="stable")
        s = score[order]
        self.first = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])
        self.pos, self.neg, self.user = positive[order], negative[order], user[order]

    def value(self, weight: NDArray) -> float:
        """AUC when user u counts ``weight[u]`` times."""
        w = weight[self.user]
        pos = np.add.reduceat(self.pos * w, self.first)
        neg = np.add.reduceat(self.neg * w, self.first)
        total = pos.sum() * neg.sum()
        return float((pos * (np.cumsum(neg) - 0.5 * neg)).sum() / total) if total else float("nan")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """AUC of a model, mean over its seeds, on the test set and under resampled users.

    Attributes:
        value: on the users as they are. draws: (n,) under n resamplings.
        users: how many there are. same: what two bootstraps must share to be paired.
    """

    value: float
    draws: NDArray[np.float64]
    users: int
    same: tuple[Any, ...]

    def minus(self, other: Bootstrap) -> Interval:
        """Difference to another model on the same draws of the same users.

        Raises:
            ValueError: the two were not measured on the same requests, labels and draws.
        """
        if self.same != other.same:
            raise ValueError("paired_bootstrap compares predictions on the same requests only")
        low, high = np.nanpercentile(self.draws - other.draws, [2.5, 97.5])
        return Interval(self.value - other.value, float(low), float(high), self.users)


def bootstrap(
    runs: Predictions | Sequence[Predictions],
    task: int = 0,
    *,
    expected: bool | None = None,
    among: NDArray | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """AUC under n resamplings of the users, each drawn with all impressions.

    Args:
        runs: predictions of one model, one or several seeds on the same requests.
        task: which label. expected: against exact probabilities; by default where there are any.
        among: (R, C) bool, the candidates to measure on; None is all of them.
        n: draws. seed: of the draws; models are paired when it agrees.

    Raises:
        ValueError: the seeds were not measured on the same requests, or there is no truth.
    """
    several = [runs] if isinstance(runs, Predictions) else list(runs)
    first = several[0]
    if any(not np.array_equal(p.index, first.index) for p in several):
        raise ValueError("paired_bootstrap compares predictions on the same requests only")
    if expected is None:
        expected = first.truth is not None
    if expected and first.truth is None:
        raise ValueError("these requests have no exact probabilities; use expected=False")
    target = (first.truth if expected else first.label)[..., task].ravel()  # type: ignore[index]
    kept = np.ones(len(target)) if among is None else among.astype(np.float64).ravel()
    names, user = np.unique(first.user, return_inverse=True)
    user = np.repeat(user, first.score.shape[1])
    sorted_runs = [
        _Resampled(p.score[..., task].ravel(), kept * target, kept * (1 - target), user)
        for p in several
    ]

    def value(weight: NDArray) -> float:
        return float(np.mean([r.value(weight) for r in sorted_runs]))

    rng, users = np.random.default_rng(seed), len(names)
    draws = [
        value(np.bincount(rng.integers(0, users, users), minlength=users).astype(float))
        for _ in range(n)
    ]
    same = (
        task,
        expected,
        n,
        seed,
        users,
        first.label.shape,
        first.index.tobytes(),
        kept.tobytes(),
    )
    return Bootstrap(value(np.ones(users)), np.array(draws), users, same)


def paired_bootstrap(
    a: Predictions | Sequence[Predictions],
    b: Predictions | Sequence[Predictions],
    task: int = 0,
    *,
    expected: bool | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """AUC of ``a`` minus AUC of ``b`` with a 95 % interval over users.

    Users are drawn with replacement, each with all impressions, and both models are measured on the
    same draw. With several seeds per model, their mean AUC is compared in every draw.

    Args:
        a, b: predictions on the same requests, one or several (seeds).
        task: which label. expected: against exact probabilities; by default where there are any.
        n: draws. seed: of the draws.

    Raises:
        ValueError: the two sides were not measured on the same requests.
    """
    left, right = (bootstrap(x, task, expected=expected, n=n, seed=seed) for x in (a, b))
    return left.minus(right)


@dataclass(frozen=True)
class Lift(Interval):
    """A relative change, ``a / b − 1``, with its 95 % interval over resampled users."""


def paired_lift(
    a: Sequence[NDArray], b: Sequence[NDArray], user: NDArray, *, n: int = 1000, seed: int = 0
) -> Lift:
    """Relative change of a sum over requests, such as HIT@k's hits, from ``b`` to ``a``.

    Users are drawn with replacement, each with all requests, and both sides are summed over the
    same draw; several seeds are averaged first.

    Args:
        a, b: one (R,) array per seed, on the same requests. user: (R,).
        n: draws. seed: of the draws.

    Raises:
        ValueError: other numbers of requests, or nothing at all on the side of ``b``.
    """
    names, of = np.unique(user, return_inverse=True)
    if any(len(x) != len(of) for x in (*a, *b)):
        raise ValueError(f"{[len(x) for x in (*a, *b)]} values for {len(of)} requests")
    left, right = (
        np.mean([np.bincount(of, x, minlength=len(names)) for x in s], 0) for s in (a, b)
    )
    if right.sum() <= 0:
        raise ValueError("the base has no hit at all; a relative change is undefined")
    rng = np.random.default_rng(seed)
    w = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    base = w @ right
    draws = (w @ left)[base > 0] / base[base > 0] - 1
    low, high = np.percentile(draws, [2.5, 97.5])
    return Lift(float(left.sum() / right.sum() - 1), float(low), float(high), len(names))


def mean_over(
    fn: Callable[[Predictions], float], runs: Sequence[Predictions]
) -> tuple[float, float]:
    """Mean and standard deviation of a metric over seeds."""
    values = [fn(r) for r in runs]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
