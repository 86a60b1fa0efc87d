"""Metrics of ranking and calibration, on flat NumPy arrays, with ties counted one half."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

_EPS = 1e-12


def _pair(name: str, score: ArrayLike, other: ArrayLike) -> tuple[NDArray, NDArray]:
    s = np.asarray(score, np.float64).ravel()
    o = np.asarray(other, np.float64).ravel()
    if s.shape != o.shape:
        raise ValueError(f"{name}: {s.size} scores and {o.size} labels; there must be one each")
    if s.size == 0:
        raise ValueError(f"{name}: no scores")
    if not np.isfinite(s).all():
        raise ValueError(f"{name}: {int((~np.isfinite(s)).sum())} scores are NaN or infinite")
    return s, o


def _binary(name: str, label: NDArray) -> None:
    if not np.isin(label, (0, 1)).all():
        raise ValueError(f"{name}: labels must be 0 or 1")


def _probability(name: str, p: NDArray) -> None:
    if not ((p >= 0) & (p <= 1)).all():  # NaN is neither
        raise ValueError(f"{name}: probabilities must lie in [0, 1]; got {p.min()}…{p.max()}")


def weighted_auc(score: ArrayLike, positive: ArrayLike, negative: ArrayLike) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal), with weights. O(n log n).

    Args:
        score: (n,).
        positive: (n,) ≥ 0, weight of each row as a positive; a label y is the case y.
        negative: (n,) ≥ 0, weight as a negative; a label y is the case 1 − y.

    Returns:
        NaN when there is no positive or no negative weight.
    """
    s, pos = _pair("auc", score, positive)
    neg = _pair("auc", score, negative)[1]
    for name, weight in (("positive", pos), ("negative", neg)):
        if not ((weight >= 0) & (weight < np.inf)).all():
            raise ValueError(
                f"auc: {name} weights must be finite and not negative; "
                f"got {weight.min()}…{weight.max()}"
            )
    order = np.argsort(s, kind="stable")
    s = s[order]
    first = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])  # begin of every group of ties
    pos = np.add.reduceat(pos[order], first)
    neg = np.add.reduceat(neg[order], first)
    below = np.cumsum(neg) - neg
    total = pos.sum() * neg.sum()
    return float((pos * (below + 0.5 * neg)).sum() / total) if total > 0 else float("nan")


def auc(score: ArrayLike, label: ArrayLike) -> float:
    """Area under the ROC curve over all pairs; NaN with one class only."""
    s, y = _pair("auc", score, label)
    _binary("auc", y)
    return weighted_auc(s, y, 1 - y)


def expected_auc(score: ArrayLike, p: ArrayLike) -> float:
    """The AUC expected over draws of the labels, given their exact probabilities.

    Every candidate is a positive with weight p and a negative with weight 1 − p. A candidate is
    paired with itself too (a tie), which moves the value by O(1/n) towards ½.
    """
    s, p_ = _pair("expected_auc", score, p)
    _probability("expected_auc", p_)
    return weighted_auc(s, p_, 1 - p_)


@dataclass(frozen=True)
class GAUC:
    """Impression-weighted mean of the users' own AUCs (DIN, Eq. 10), and who was left out."""

    value: float
    users: int
    impressions: int
    dropped_users: int
    dropped_impressions: int


def gauc(score: ArrayLike, label: ArrayLike, user: ArrayLike) -> GAUC:
    """AUC within each user, weighted by the user's impressions; one-class users are dropped.

    Adding any function of the user to the scores changes nothing.
    """
    s, y = _pair("gauc", score, label)
    _binary("gauc", y)
    u = np.asarray(user).ravel()
    if u.shape != s.shape:
        raise ValueError(f"gauc: {s.size} scores and {u.size} users; there must be one each")
    order = np.lexsort((s, u))
    s = s[order]
    y = y[order]
    u = u[order]
    new_user = np.r_[True, u[1:] != u[:-1]]
    tie = np.flatnonzero(new_user | np.r_[True, s[1:] != s[:-1]])
    pos = np.add.reduceat(y, tie)
    neg = np.add.reduceat(1 - y, tie)
    owner = (np.cumsum(new_user) - 1)[tie]
    n_pos = np.bincount(owner, pos)
    n_neg = np.bincount(owner, neg)
    start = np.r_[0.0, np.cumsum(n_neg)][owner]  # negatives of earlier users
    won = np.bincount(owner, pos * (np.cumsum(neg) - neg - start + 0.5 * neg))
    n = n_pos + n_neg
    keep = (n_pos > 0) & (n_neg > 0)
    if not keep.any():
        return GAUC(float("nan"), 0, 0, len(n), int(n.sum()))
    value = (n[keep] * won[keep] / (n_pos[keep] * n_neg[keep])).sum() / n[keep].sum()
    return GAUC(
        value=float(value),
        users=int(keep.sum()),
        impressions=int(n[keep].sum()),
        dropped_users=int((~keep).sum()),
        dropped_impressions=int(n[~keep].sum()),
    )


def log_loss(p: ArrayLike, label: ArrayLike) -> float:
    """Mean negative log likelihood in nats; ``label`` may be an exact probability."""
    q, y = _pair("log_loss", p, label)
    _probability("log_loss", q)
    _probability("log_loss labels", y)
    q = q.clip(_EPS, 1 - _EPS)
    return float(-(y * np.log(q) + (1 - y) * np.log1p(-q)).mean())


def normalized_entropy(p: ArrayLike, label: ArrayLike) -> float:
    """Log loss over that of always predicting the mean label; below 1 is better than that."""
    y = np.asarray(label, np.float64).ravel()
    rate = float(y.mean()) if y.size else 0.0
    if not 0 < rate < 1:
        raise ValueError(f"normalized_entropy: the mean label is {rate}; both classes are needed")
    return log_loss(p, label) / log_loss(np.full(y.size, rate), np.full(y.size, rate))


def calibration(p: ArrayLike, label: ArrayLike, bins: int = 10) -> NDArray[np.float64]:
    """(bins, 3): mean prediction, mean label and size of bins of equal mass.

    Rows of equal prediction can't be told apart, so each counts with the mean label of all of them:
    a tie that lies across an edge is shared between both bins, whatever the order of the rows.
    """
    q, y = _pair("calibration", p, label)
    _probability("calibration labels", y)
    if bins < 1:
        raise ValueError(f"bins is {bins}; at least one is needed")
    order = np.lexsort((y, q))
    q = q[order]
    y = y[order]
    first = np.flatnonzero(np.r_[True, q[1:] != q[:-1]])  # begin of every group of ties
    size = np.diff(np.r_[first, len(q)])
    y = np.repeat(np.add.reduceat(y, first) / size, size)
    parts = np.array_split(np.arange(len(q)), bins)
    return np.array([(q[i].mean(), y[i].mean(), len(i)) for i in parts if len(i)])


def ece(p: ArrayLike, label: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean |prediction − label| over bins of equal mass."""
    _probability("ece", np.asarray(p, np.float64))
    table = calibration(p, label, bins)
    return float((np.abs(table[:, 0] - table[:, 1]) * table[:, 2]).sum() / table[:, 2].sum())


def hit_at_k(score: ArrayLike, label: ArrayLike, group: ArrayLike, k: int) -> float:
    """Share of groups with a positive that has one among their k best scores.

    Ties at the k-th place count by the chance that a random order would put the positive in.
    """
    s, y = _pair("hit_at_k", score, label)
    _binary("hit_at_k", y)
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    g = np.asarray(group).ravel()
    if g.shape != s.shape:
        raise ValueError(f"hit_at_k: {s.size} scores and {g.size} groups; there must be one each")
    order = np.argsort(g, kind="stable")
    hits = 0.0
    n = 0
    for rows in np.split(order, np.flatnonzero(np.diff(g[order])) + 1):
        if y[rows].any():
            hits += _hit(s[rows], y[rows], k)
            n += 1
    return hits / n if n else float("nan")


def _hit(s: NDArray, y: NDArray, k: int) -> float:
    cut = np.sort(s)[::-1][min(k, len(s)) - 1]
    if (y[s > cut] == 1).any() or k >= len(s):
        return 1.0
    tied = s == cut
    places = k - int((s > cut).sum())
    m = int(tied.sum())
    positives = int(y[tied].sum())
    miss = 1.0
    for i in range(places):
        miss *= max(m - positives - i, 0) / (m - i)
    return 1.0 - miss


def rmse(value: ArrayLike, label: ArrayLike) -> float:
    """Root of the mean squared error, in the label's unit.

    Args:
        value: (n,) predicted.
        label: (n,) observed, any finite numbers.
    """
    v, y = _finite_pair("rmse", value, label)
    return float(np.sqrt(((v - y) ** 2).mean()))


def r_squared(value: ArrayLike, label: ArrayLike) -> float:
    """1 − Σ (y − v)² / Σ (y − ȳ)²: 1 is perfect, 0 as good as the mean label, negative is worse.

    Args:
        value: (n,) predicted.
        label: (n,) observed, any finite numbers.

    Returns:
        NaN when all labels are equal.
    """
    v, y = _finite_pair("r_squared", value, label)
    total = ((y - y.mean()) ** 2).sum()
    return float(1 - ((v - y) ** 2).sum() / total) if total > 0 else float("nan")


def concordance(value: ArrayLike, label: ArrayLike) -> float:
    """P(of two rows with different labels, the larger label has the larger value), ties one half.

    AUC for real-valued labels, and equal to it where they are 0 and 1. ½ is a coin. O(n log n).

    Args:
        value: (n,) predicted.
        label: (n,) observed, any finite numbers.

    Returns:
        NaN when all labels are equal.
    """
    v, y = _finite_pair("concordance", value, label)
    pairs = math.comb(len(y), 2)
    differ_in_value = pairs - _tied_pairs(v)
    differ_in_label = pairs - _tied_pairs(y)
    if not differ_in_label:
        return float("nan")
    if not differ_in_value:
        return 0.5
    # τ_b = (concordant − discordant) / √(differ_in_value · differ_in_label)
    tau = float(kendalltau(v, y).statistic)
    return 0.5 + 0.5 * tau * math.sqrt(differ_in_value / differ_in_label)


def _tied_pairs(x: NDArray) -> int:
    sizes = np.unique(x, return_counts=True)[1].astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())


def _finite_pair(name: str, value: ArrayLike, label: ArrayLike) -> tuple[NDArray, NDArray]:
    v, y = _pair(name, value, label)
    if not np.isfinite(y).all():
        raise ValueError(f"{name}: {int((~np.isfinite(y)).sum())} labels are NaN or infinite")
    return v, y


def rela_impr(value: float, base: float) -> float:
    """Relative improvement in percent: ((AUC − ½) / (base − ½) − 1) · 100 (DIN, Eq. 11).

    It explodes as the base nears ½, and flatters any model whose base was not tuned.
    """
    if abs(base - 0.5) < _EPS:
        raise ValueError("rela_impr: the base is ½, a coin; the ratio is undefined")
    return ((value - 0.5) / (base - 0.5) - 1) * 100


def undo_sampling(p: ArrayLike, keep: ArrayLike) -> NDArray[np.float64]:
    """Probability before negatives were down-sampled: p / (p + (1 − p) / keep).

    Args:
        p: predicted on the sampled data.
        keep: share of negatives that was kept, in (0, 1].

    Raises:
        ValueError: a probability or a share outside its range.
    """
    q = np.asarray(p, np.float64)
    w = np.asarray(keep, np.float64)
    _probability("undo_sampling", q)
    if not ((w > 0) & (w <= 1)).all():
        raise ValueError(f"keep must lie in (0, 1]; got {w.min()}…{w.max()}")
    return q / (q + (1 - q) / w)
