"""Every check of chapter 00 against the stub, the solution, and realistic wrong answers."""

from __future__ import annotations

import numpy as np
from answers import suite

from seqlib import metrics
from seqlib.checks import outcome
from solutions import ch00

SOLUTIONS = {
    "E00.1": ch00.history,
    "E00.2": ch00.filter_step,
    "E00.3": ch00.expected_auc,
    "E00.4": ch00.longest,
    "E00.5": ch00.gauc,
    "E00.6": ch00.paired_interval,
    "E00.7": ch00.leak_meter,
}


def normalised(x):
    return x / x.sum()


def likelihood(p, click):
    return p if click else 1 - p


def with_ties(value):
    def answer(score, p):
        weight = p[:, None] * (1 - p)
        won = (score[:, None] > score) + value * (score[:, None] == score)
        return (weight * won).sum() / weight.sum()

    return answer


def gauc_with(single=None, weighted=True):
    def answer(score, label, user):
        values, sizes = [], []
        for u in np.unique(user):
            mine = user == u
            mixed = 0 < label[mine].sum() < mine.sum()
            if mixed or single is not None:
                values.append(metrics.auc(score[mine], label[mine]) if mixed else single)
                sizes.append(mine.sum() if weighted else 1)
        return np.average(values, weights=sizes)

    return answer


def ends(a, b, draws):
    return [np.percentile(x[draws].mean(1), [2.5, 97.5]) for x in (a, b)]


def unpaired(a, b, draws):
    (a_low, a_high), (b_low, b_high) = ends(a, b, draws)
    return b_low - a_high, b_high - a_low


def ends_subtracted(a, b, draws):
    (a_low, a_high), (b_low, b_high) = ends(a, b, draws)
    return b_low - a_low, b_high - a_high


WRONG = [
    (
        "E00.1",
        lambda t, now, n: np.arange(np.searchsorted(t, now, "right"))[::-1][:n],
        "side='left'",
    ),
    ("E00.1", lambda t, now, n: np.arange(np.searchsorted(t, now))[-n:], "newest first"),
    ("E00.1", lambda t, now, n: np.arange(np.searchsorted(t, now))[:n][::-1], "keep the newest L"),
    ("E00.1", lambda t, now, n: np.arange(np.searchsorted(t, now))[::-1], "at most L events"),
    ("E00.1", lambda t, now, n: t[t < now][::-1][:n], "indices into times"),
    ("E00.1", lambda t, now, n: None, "returns nothing"),
    ("E00.2", lambda a, m, p, c: normalised(a * likelihood(p, c)), "predict is left out"),
    ("E00.2", lambda a, m, p, c: normalised(m @ a * likelihood(p, c)), "wrong side"),
    ("E00.2", lambda a, m, p, c: (a @ m) * likelihood(p, c), "not divided by its sum"),
    ("E00.2", lambda a, m, p, c: normalised(a * likelihood(p, c)) @ m, "before the move"),
    ("E00.2", lambda a, m, p, c: normalised((a @ m) * p), "treated like a click"),
    ("E00.3", with_ties(0.0), "ties count nothing"),
    ("E00.3", with_ties(1.0), "ties count as won"),
    ("E00.3", lambda s, p: metrics.auc(s, p > 0.5), "cut into labels"),
    ("E00.3", lambda s, p: metrics.expected_auc(s, 1 - p), "swapped"),
    ("E00.3", lambda s, p: ((s[:, None] > s) + 0.5 * (s[:, None] == s)).mean(), "not weighted"),
    ("E00.4", lambda f, b, c, d, e: f // (4 * c * d), "bytes are forgotten"),
    ("E00.4", lambda f, b, c, d, e: b // e, "FLOPs are forgotten"),
    ("E00.4", lambda f, b, c, d, e: min(f // (4 * d), b // e), "candidates are forgotten"),
    ("E00.4", lambda f, b, c, d, e: min(f // (2 * c * d), b // e), "not the weighted sum"),
    ("E00.4", lambda f, b, c, d, e: min(f // (4 * c * d), b // (c * e)), "once per candidate"),
    ("E00.5", lambda s, y, u: metrics.auc(s, y), "this is AUC"),
    ("E00.5", gauc_with(weighted=False), "not weighted by their impressions"),
    ("E00.5", gauc_with(single=0.5), "counts one half"),
    ("E00.5", gauc_with(single=0.0), "counts zero"),
    ("E00.6", unpaired, "not paired"),
    ("E00.6", ends_subtracted, "ends of two separate intervals"),
    ("E00.6", lambda a, b, d: ch00.paired_interval(b, a, d), "sign is turned"),
    ("E00.6", lambda a, b, d: np.percentile((b - a)[d].mean(1), [5, 95]), "90 % interval"),
    ("E00.6", lambda a, b, d: np.percentile(b - a, [2.5, 97.5]), "not resampled"),
    ("E00.6", lambda a, b, d: None, "returns nothing"),
    ("E00.7", lambda s, y, p: -ch00.leak_meter(s, y, p), "sign is turned"),
    (
        "E00.7",
        lambda s, y, p: metrics.auc(s, y) - metrics.expected_auc(p, p),
        "not the model's own",
    ),
    ("E00.7", lambda s, y, p: metrics.auc(s, y) - metrics.auc(p, y), "ceiling's realised AUC"),
    ("E00.7", lambda s, y, p: metrics.auc(s, y), "only the AUC"),
    ("E00.7", lambda s, y, p: 1 / 0, "raised ZeroDivisionError"),
]


test_every_exercise_has_a_solution, test_stub_and_solution, test_wrong_answers = suite(
    "00", SOLUTIONS, WRONG
)


def test_messages_of_an_exercise_differ():
    for name in SOLUTIONS:
        lines = [outcome(name, answer) for n, answer, _ in WRONG if n == name]
        assert len(set(lines)) == len(lines) >= 3, name
