"""Compare two models by resampling users and seeds: what a difference is worth.

Users are drawn with replacement, each with all impressions; seeds are drawn too, and few of them are
counted for what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from .predictions import Predictions


@dataclass(frozen=True)
class Interval:
    """A difference of two models with its 95 % interval, paired by user.

    Attributes:
        delta: the difference, on means over the seeds.
        low: the interval's lower end.
        high: the interval's upper end.
        users: how many there are.
        seeds: of the first and of the second model.
    """

    delta: float
    low: float
    high: float
    users: int
    seeds: tuple[int, int]

    @property
    def over(self) -> str:
        """What the interval leaves room for: "users and seeds", or "users" alone.

        One seed says nothing about the next one, so both models need two.
        """
        return "users and seeds" if min(self.seeds) > 1 else "users"

    @property
    def clear(self) -> bool:
        """True when 0 lies outside an interval over users and seeds.

        One seed a side is never clear: the interval leaves out what another training would change.
        """
        return self.clear_of_users and self.over == "users and seeds"

    @property
    def clear_of_users(self) -> bool:
        """True when 0 lies outside the interval, whatever it is over."""
        return self.low > 0 or self.high < 0


class _Resampled:
    """AUC of one score under many weightings of users, from one sort."""

    def __init__(self, score: NDArray, positive: NDArray, negative: NDArray, user: NDArray) -> None:
        order = np.argsort(score, kind="stable")
        s = score[order]
        self.first = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])
        self.pos = positive[order]
        self.neg = negative[order]
        self.user = user[order]

    def value(self, weight: NDArray) -> float:
        """AUC when user u counts ``weight[u]`` times."""
        w = weight[self.user]
        pos = np.add.reduceat(self.pos * w, self.first)
        neg = np.add.reduceat(self.neg * w, self.first)
        total = pos.sum() * neg.sum()
        return float((pos * (np.cumsum(neg) - 0.5 * neg)).sum() / total) if total else float("nan")


def few_seeds(total: float, spread: Sequence[tuple[float, int]]) -> float:
    """How many times wider than a normal one a 95 % interval must be, since few seeds are few.

    Three values know their own variance badly. Student's t answers that, with the degrees of
    freedom of Welch and Satterthwaite: 1 where the users decide, 1.4 where three seeds a side do,
    2.2 where three seeds of one side do.

    Args:
        total: variance of the difference, over users and seeds.
        spread: of each group of seeds, the variance of its mean and how many seeds it has.
    """
    uncertain = sum(variance**2 / (n - 1) for variance, n in spread if n > 1)
    if not uncertain:
        return 1.0
    freedom = total**2 / uncertain
    return float(stdtrit(freedom, 0.975) / ndtri(0.975))


def _seed_streams(draws: NDArray, seed: int) -> list[NDArray]:
    """Two (n,) means over seeds that were drawn with replacement, one draw for each of the users.

    A plain draw of S seeds has (S − 1)/S of the variance that a mean over S seeds has. The drawn
    mean is therefore moved away from the mean of all by sqrt(S / (S − 1)), within each draw of users.

    Args:
        draws: (n, S) values of every seed under n draws of users.
    """
    n, seeds = draws.shape
    mean = draws.mean(1)
    if seeds == 1:
        return [mean, mean]
    out = []
    for stream in range(2):
        rng = np.random.default_rng([seed, stream])
        times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n)
        drawn = (times * draws).sum(1) / seeds
        out.append(mean + np.sqrt(seeds / (seeds - 1)) * (drawn - mean))
    return out


def _ends(
    left: NDArray,
    right: NDArray,
    delta: float,
    spread: Sequence[tuple[float, int]],
    compare: Callable[[NDArray, NDArray], NDArray],
    seed: int,
    same_models: bool,
) -> tuple[float, float]:
    """Ends of the 95 % interval of ``compare(left, right)``, both (n, S) values under draws of users.

    One seed on a side leaves the seeds out on both.
    """
    if min(left.shape[1], right.shape[1]) == 1:
        low, high = np.nanpercentile(compare(left.mean(1), right.mean(1)), [2.5, 97.5])
        return float(low), float(high)
    a = _seed_streams(left, seed)
    b = _seed_streams(right, seed)
    if not same_models:
        # The sides draw from different streams. Both ways round, so that b − a mirrors a − b.
        b = b[::-1]
    drawn = np.concatenate([compare(x, y) for x, y in zip(a, b, strict=True)])
    users = np.nanvar(compare(left.mean(1), right.mean(1)))
    wider = few_seeds(users + sum(variance for variance, _ in spread), spread)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return delta - wider * float(delta - low), delta + wider * float(high - delta)


def _spread(left: NDArray, right: NDArray, same_models: bool) -> list[tuple[float, int]]:
    """Variance of the mean over seeds, and their number: of each side, or of the differences.

    Args:
        left: (S,) values of the seeds, in units of the difference.
        right: (S,) of the other side.
        same_models: the two are paired seed by seed.
    """
    groups = [left - right] if same_models else [left, right]
    return [(float(x.var(ddof=1)) / len(x), len(x)) for x in groups if len(x) > 1]


def _require_same_number(left: int, right: int) -> None:
    if left != right:
        raise ValueError(f"same_models pairs seed by seed, but there are {left} and {right} seeds")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """AUC of every seed of a model, on the test set and under resampled users.

    Attributes:
        each: (S,) on the users as they are, one per seed.
        draws: (n, S) under n resamplings of the users.
        users: how many there are.
        same: by name, what two bootstraps must share to be paired.
    """

    each: NDArray[np.float64]
    draws: NDArray[np.float64]
    users: int
    same: Mapping[str, Any]

    @property
    def value(self) -> float:
        """Mean over the seeds, on the users as they are."""
        return float(self.each.mean())

    def minus(self, other: Bootstrap, *, same_models: bool = False) -> Interval:
        """Difference to another model on the same draws of the same users, and on drawn seeds.

        Seeds are drawn with replacement on each side by itself. Equal numbers on both sides do
        not make two trainings alike: over the course's stored runs the seeds' variance of a
        difference is .94 of what independent sides would have, and three pairs leave two degrees of
        freedom to estimate it from, where independent sides leave up to four. With one seed on a
        side the interval is over users only.

        Args:
            other: what to subtract.
            same_models: both sides are the very same trained models, seed by seed, asked in two
                ways (such as fresh and old keys). Then both are measured on the same drawn seeds.

        Raises:
            ValueError: the two were not measured on the same requests, labels and draws.
        """
        if differ := _differing(self.same, other.same):
            raise ValueError(f"{_ONLY_SAME}; {', '.join(differ)}: not the same on both sides")
        if same_models:
            _require_same_number(len(self.each), len(other.each))
        delta = self.value - other.value
        low, high = _ends(
            self.draws,
            other.draws,
            delta,
            _spread(self.each, other.each, same_models),
            np.subtract,
            self.same["seed"],
            same_models,
        )
        return Interval(delta, low, high, self.users, (len(self.each), len(other.each)))


_ONLY_SAME = "a paired bootstrap compares predictions on the same requests only"


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same in both; arrays are equal where all values are, NaN included."""

    def equal(x: Any, y: Any) -> bool:
        if not isinstance(x, np.ndarray) or not isinstance(y, np.ndarray):
            return type(x) is type(y) and x == y
        return np.array_equal(x, y, equal_nan=x.dtype.kind == y.dtype.kind == "f")

    return [name for name in a if not equal(a[name], b[name])]


def _requests(p: Predictions) -> dict[str, Any]:
    """What makes predictions comparable: everything but the scores."""
    return {
        "index": p.index,
        "user": p.user,
        "label": p.label,
        "truth": p.truth,
        "weight": p.weight,
        "shape of score": p.score.shape,
    }


def bootstrap(
    runs: Predictions | Sequence[Predictions],
    task: int = 0,
    *,
    expected: bool | None = None,
    among: NDArray | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """AUC of every seed under n resamplings of the users, each drawn with all impressions.

    Only labels that count (weight above 0) are measured on.

    Args:
        runs: predictions of one model, one or several seeds on the same requests.
        task: which label; of a binary task.
        expected: against exact probabilities; by default where there are any.
        among: (R, C) bool, the candidates to measure on; None is all of them.
        n: draws.
        seed: of the draws; models are paired when it agrees.

    Raises:
        ValueError: no predictions, seeds that were not measured on the same requests, users, labels
            and truth, a score that is not finite, a task with labels other than 0 and 1, or no
            truth where it is asked for.
    """
    several = [runs] if isinstance(runs, Predictions) else list(runs)
    _require_same_requests(several)
    first = several[0]
    if expected is None:
        expected = first.truth is not None
    kept = first.is_defined(task)
    if among is not None:
        kept = kept & among
    positive, negative = _as_both_classes(first, task, expected, kept)
    names, user = np.unique(first.user, return_inverse=True)
    user = np.repeat(user, first.score.shape[1])
    sorted_runs = [
        _Resampled(p.score[..., task].ravel(), positive, negative, user) for p in several
    ]

    def values(weight: NDArray) -> list[float]:
        return [r.value(weight) for r in sorted_runs]

    rng = np.random.default_rng(seed)
    users = len(names)
    draws = [
        values(np.bincount(rng.integers(0, users, users), minlength=users).astype(float))
        for _ in range(n)
    ]
    same = {
        **_requests(first),
        "task": task,
        "expected": expected,
        "among": None if among is None or among.all() else among,
        "n": n,
        "seed": seed,
    }
    return Bootstrap(np.array(values(np.ones(users))), np.array(draws), users, same)


def _require_same_requests(several: Sequence[Predictions]) -> None:
    """Raise ValueError unless the seeds can be measured together."""
    if not several:
        raise ValueError("runs is empty; give the predictions of one seed or more")
    first = several[0]
    for k, p in enumerate(several):
        if differ := _differing(_requests(p), _requests(first)):
            raise ValueError(f"{_ONLY_SAME}; {', '.join(differ)} of seed {k} differ from seed 0's")
        if not np.isfinite(p.score).all():
            raise ValueError(f"score of seed {k} holds values that are not finite")
    if first.score.shape != first.label.shape:
        raise ValueError(f"score is {first.score.shape}, label {first.label.shape}; equal shapes")


def _as_both_classes(
    p: Predictions, task: int, expected: bool, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (R · C,) of every candidate as a positive and as a negative; 0 where it isn't kept.

    Args:
        p: any seed's predictions, which share labels and truth.
        task: which label.
        expected: by exact probabilities, not by labels.
        kept: (R, C).
    """
    if expected and p.truth is None:
        raise ValueError("these requests have no exact probabilities; use expected=False")
    source = p.truth if expected and p.truth is not None else p.label
    # A label that doesn't count may be NaN, which no product with 0 takes away.
    target = np.where(kept, source[..., task], 0.0).ravel()
    if not ((target >= 0) & (target <= 1)).all():
        raise ValueError(f"task {task} has labels other than 0 and 1; AUC is of binary tasks")
    return target, kept.ravel() * (1 - target)


def paired_bootstrap(
    a: Predictions | Sequence[Predictions],
    b: Predictions | Sequence[Predictions],
    task: int = 0,
    *,
    expected: bool | None = None,
    n: int = 1000,
    seed: int = 0,
    same_models: bool = False,
) -> Interval:
    """AUC of ``a`` minus AUC of ``b`` with a 95 % interval over users and seeds.

    In every draw, users are drawn with replacement, each with all impressions, and both models are
    measured on them; the seeds of each model are drawn with replacement too, and their mean AUCs
    compared. Two corrections make few seeds count for what they are: a drawn mean is moved away from
    the mean of all by sqrt(S / (S − 1)), for a plain draw of S seeds varies too little, and the
    interval is widened from the normal law to Student's t (``few_seeds``). With three seeds a side it
    covers a known difference 94 to 96 times in 100, where seeds decide and where users do; without
    the second correction 81 to 94 times. With one seed on a side it is over users only (``over``).

    Args:
        a: predictions of one seed or several.
        b: predictions of the other model on the same requests.
        task: which label.
        expected: against exact probabilities; by default where there are any.
        n: draws.
        seed: of the draws.
        same_models: both sides are the same trained models, seed by seed; see ``Bootstrap.minus``.

    Raises:
        ValueError: the two sides were not measured on the same requests, users, labels and truth.
    """
    left, right = (bootstrap(x, task, expected=expected, n=n, seed=seed) for x in (a, b))
    return left.minus(right, same_models=same_models)


@dataclass(frozen=True)
class Lift(Interval):
    """A relative change, ``a / b − 1``, with its 95 % interval, paired by user."""


def paired_lift(
    a: Sequence[NDArray],
    b: Sequence[NDArray],
    user: NDArray,
    *,
    n: int = 1000,
    seed: int = 0,
    same_models: bool = False,
) -> Lift:
    """Relative change of a sum over requests, such as HIT@k's hits, from ``b`` to ``a``.

    Users are drawn with replacement, each with all requests, and both sides are summed over the
    same draw; seeds are drawn as in ``paired_bootstrap``, and their mean sums compared.

    Args:
        a: one (R,) array per seed.
        b: one (R,) array per seed, on the same requests; what ``a`` is divided by.
        user: (R,).
        n: draws.
        seed: of the draws.
        same_models: both sides are the same trained models, seed by seed.

    Raises:
        ValueError: no seed, other numbers of requests, values that are not finite, or nothing at all
            on the side of ``b``.
    """
    names, of = np.unique(user, return_inverse=True)
    for name, side in (("a", a), ("b", b)):
        if not len(side):
            raise ValueError(f"{name} is empty; give one array per seed")
        if any(np.shape(x) != of.shape for x in side):
            raise ValueError(
                f"{name} has {[np.shape(x) for x in side]} values for {len(of)} requests"
            )
        if not all(np.isfinite(x).all() for x in side):
            raise ValueError(f"{name} holds values that are not finite")
    left, right = (
        np.stack([np.bincount(of, x, minlength=len(names)) for x in s], 1) for s in (a, b)
    )
    if right.sum() <= 0:
        raise ValueError("the base has no hit at all; a relative change is undefined")
    if same_models:
        _require_same_number(len(a), len(b))
    rng = np.random.default_rng(seed)
    w = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    # (S,) sums over the mean base: what a seed adds to the lift, to first order.
    base = right.sum(0).mean()
    ratio = left.sum(0).mean() / base
    spread = _spread(left.sum(0) / base, ratio * right.sum(0) / base, same_models)
    low, high = _ends(w @ left, w @ right, ratio - 1, spread, _relative, seed, same_models)
    return Lift(float(ratio - 1), low, high, len(names), (len(a), len(b)))


def _relative(x: NDArray, base: NDArray) -> NDArray:
    """x / base − 1; NaN, which no percentile counts, where the draw has nothing to divide by."""
    return x / np.where(base > 0, base, np.nan) - 1
