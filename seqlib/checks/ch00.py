"""Checks of chapter 00, the problem."""

from __future__ import annotations

import numpy as np

from .. import metrics
from ._framework import Test, exercise, ramp


@exercise("E00.1")
def history(t: Test, answer) -> None:
    """A point-in-time history: strictly before, newest first, at most L."""
    times = np.array([1.0, 2.0, 4.0, 4.0, 7.0, 9.0])
    for now, length, want in ((7.0, 3, [3, 2, 1]), (4.0, 10, [1, 0]), (9.5, 2, [5, 4])):
        got = answer(times, now, length)
        t.true(f"the history at {now:g} is None", got is not None, "the function returns nothing")
        got = np.asarray(got).ravel()
        t.true(f"the history at {now:g} has {got.dtype} values",
               got.size == 0 or np.issubdtype(got.dtype, np.integer),
               "return indices into times, not times")  # fmt: skip
        rows = got.tolist()
        t.true(f"the history at {now:g} is {rows}: it holds an event of that very moment or later",
               all(times[i] < now for i in rows),
               "strictly before: searchsorted(..., side='left')")  # fmt: skip
        t.true(f"the history at {now:g} with L = {length} holds {len(rows)} events",
               len(rows) <= length, "at most L events")  # fmt: skip
        t.true(f"the history at {now:g} is {rows}: oldest first",
               rows != want[::-1] or rows == want, "histories are newest first")  # fmt: skip
        t.same(f"the history at {now:g} with L = {length}", rows, want, "keep the newest L events")
    t.same("the history before the first event", np.asarray(answer(times, 1.0, 5)).ravel().tolist(),
           [], "no event is earlier: an empty history")  # fmt: skip


@exercise("E00.2")
def filter_step(t: Test, answer) -> None:
    """One predict and one update."""
    alpha = np.array([0.6, 0.3, 0.1])
    move = np.array([[0.90, 0.05, 0.05], [0.10, 0.80, 0.10], [0.00, 0.30, 0.70]])
    p = np.array([0.1, 0.4, 0.8])

    def rule(prior, likelihood, normalise=True):
        out = prior * likelihood
        return out / out.sum() if normalise else out

    for click, name in ((1, "after a click"), (0, "without a click")):
        like = p if click else 1 - p
        moved = alpha @ move
        t.close(
            f"the belief {name}",
            answer(alpha.copy(), move, p, click),
            rule(moved, like),
            "first alpha P, then multiply by the likelihood, then divide by the sum",
            known={
                "the state never moves (predict is left out)": rule(alpha, like),
                "P is applied from the wrong side (P alpha in place of alpha P)": rule(
                    move @ alpha, like
                ),
                "the result is not divided by its sum": rule(moved, like, False),
                "the update comes before the move": rule(alpha, like) @ move,
                **({} if click else {"a missing click is treated like a click": rule(moved, p)}),
            },
        )
    certain = np.array([0.0, 1.0, 0.0])
    t.close("a certain belief with no time passed", answer(certain, np.eye(3), p, 1), certain,
            "certainty stays when the state can't move")  # fmt: skip


@exercise("E00.3")
def expected_auc(t: Test, answer) -> None:
    """Expected AUC over all pairs."""
    score = np.array([0.9, 0.4, 0.4, 0.7, 0.1])
    p = np.array([0.8, 0.3, 0.6, 0.2, 0.1])
    weight = p[:, None] * (1 - p)
    above = score[:, None] > score
    tied = score[:, None] == score
    other = weight - np.diag(np.diag(weight))
    t.close(
        "the expected AUC",
        answer(score.copy(), p.copy()),
        metrics.expected_auc(score, p),
        "sum p_i (1 − p_j) over pairs with s_i > s_j, ties one half, and divide by the sum",
        known={
            "ties count nothing": (weight * above).sum() / weight.sum(),
            "ties count as won": (weight * (above + tied)).sum() / weight.sum(),
            "positive and negative are swapped": 1 - metrics.expected_auc(score, p),
            "the probabilities are cut into labels at one half": metrics.auc(score, p > 0.5),
            "pairs are counted, not weighted": (above + 0.5 * tied).mean(),
            "pairs of a row with itself are left out (they are ties here)": (
                other * (above + 0.5 * tied)
            ).sum()
            / other.sum(),
        },
    )
    t.close("the expected AUC of a constant score", answer(np.zeros(5), p), 0.5, "all pairs tie")
    label = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    t.close("with certain labels", answer(score, label), metrics.auc(score, label),
            "with p in {0, 1} it is the ordinary AUC")  # fmt: skip


@exercise("E00.4")
def longest(t: Test, answer) -> None:
    """Two budgets at once."""
    c = 500
    d = 64
    size = 18
    for flops, nbytes in ((10**7, 10**6), (10**10, 9_000), (10**9, 10**6)):
        by_flops = flops // (4 * c * d)
        by_bytes = nbytes // size
        want = min(by_flops, by_bytes)
        t.close(
            f"the longest history with {flops:.0e} FLOPs and {nbytes:,} bytes",
            answer(flops, nbytes, c, d, size),
            want,
            "both 4·C·L·D ≤ FLOPs and L·event_bytes ≤ bytes must hold",
            known={
                reason: value
                for reason, value in {
                    "the bytes are forgotten": by_flops,
                    "the FLOPs are forgotten": by_bytes,
                    "the candidates are forgotten": min(flops // (4 * d), by_bytes),
                    "only the inner products are counted, not the weighted sum": min(
                        flops // (2 * c * d), by_bytes
                    ),
                    "a history's bytes are charged once per candidate": min(
                        by_flops, nbytes // (c * size)
                    ),
                }.items()
                if value != want
            },
        )
    t.close("the longest history without a budget", answer(0, 10**6, c, d, size), 0, "nothing fits")


@exercise("E00.5")
def gauc(t: Test, answer) -> None:
    """AUC within users."""
    user = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    label = np.array([1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0])
    score = ramp(11).numpy()
    each = {u: metrics.auc(score[user == u], label[user == u]) for u in (0, 1)}
    t.close(
        "GAUC",
        answer(score.copy(), label.copy(), user.copy()),
        metrics.gauc(score, label, user).value,
        "weight each user's AUC by the user's impressions",
        known={
            "all pairs are counted, also of different users (this is AUC)": metrics.auc(
                score, label
            ),
            "users are not weighted by their impressions": np.mean(list(each.values())),
            "a user with one class counts one half": (6 * each[0] + 3 * each[1] + 2 * 0.5) / 11,
            "a user with one class counts zero": (6 * each[0] + 3 * each[1]) / 11,
            "users are weighted by their positives": (2 * each[0] + 2 * each[1]) / 4,
        },
    )
    t.close("GAUC after adding 5 to all scores of one user",
            answer(score + 5 * (user == 1), label, user), metrics.gauc(score, label, user).value,
            "what is added to a user's scores can't change GAUC")  # fmt: skip


@exercise("E00.6")
def paired_interval(t: Test, answer) -> None:
    """A paired bootstrap on given draws."""
    a = 0.5 + 0.3 * ramp(12).numpy()
    b = a + 0.02 + 0.01 * ramp(24).numpy()[12:]
    k = np.arange(1, 200 * 12 + 1, dtype=np.float64)
    draws = (k * k * 0.6180339887498949 % 1 * 12).astype(int).reshape(200, 12)
    means = {name: x[draws].mean(1) for name, x in (("a", a), ("b", b), ("d", b - a))}

    def cut(x, low=2.5, high=97.5):
        return np.percentile(x, [low, high])

    mean = means["d"].mean()
    spread = means["d"].std()
    a_low, a_high = cut(means["a"])
    b_low, b_high = cut(means["b"])
    got = answer(a.copy(), b.copy(), draws.copy())
    t.true("the answer is None", got is not None, "the function returns nothing")
    t.close(
        "the interval",
        np.asarray(got, np.float64).ravel(),
        cut(means["d"]),
        "mean of b − a in every draw, then the 2.5 and 97.5 percentiles",
        known={
            "the two models are resampled separately (not paired)": [
                b_low - a_high,
                b_high - a_low,
            ],
            "the ends of two separate intervals are subtracted": [b_low - a_low, b_high - a_high],
            "the sign is turned (a − b)": -cut(means["d"])[::-1],
            "5 % is cut at both ends (a 90 % interval)": cut(means["d"], 5, 95),
            "a normal curve is fitted; take the percentiles themselves": [
                mean - 1.96 * spread,
                mean + 1.96 * spread,
            ],
            "users are not resampled (percentiles over users)": cut(b - a),
        },
    )


@exercise("E00.7")
def leak_meter(t: Test, answer) -> None:
    """Realised minus expected AUC."""
    p = np.array([0.8, 0.3, 0.6, 0.2, 0.1, 0.5])
    label = np.array([1, 0, 1, 0, 0, 0])
    score = np.array([0.7, 0.4, 0.5, 0.6, 0.1, 0.45])
    real = metrics.auc(score, label)
    expected = metrics.expected_auc(score, p)
    t.close(
        "the meter",
        answer(score.copy(), label.copy(), p.copy()),
        real - expected,
        "AUC on the drawn labels minus expected AUC, both of the model's score",
        known={
            "the sign is turned": expected - real,
            "the ceiling's expected AUC is subtracted, not the model's own": real
            - metrics.expected_auc(p, p),
            "the ceiling's realised AUC is subtracted": real - metrics.auc(p, label),
            "only the AUC is returned": real,
            "only the expected AUC is returned": expected,
        },
    )
    t.close("the meter of a constant score", answer(np.ones(6), label, p), 0.0,
            "a constant score has one half in both")  # fmt: skip
