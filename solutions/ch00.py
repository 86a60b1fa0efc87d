"""Solutions of chapter 00, the problem."""

import numpy as np

from seqlib import metrics


def history(times, now, L):
    """E00.1: indices of the last L events strictly before ``now``, newest first."""
    end = np.searchsorted(times, now, side="left")
    return np.arange(max(end - L, 0), end)[::-1]


def filter_step(alpha, P, p_click, click):
    """E00.2: let the state move by P, then learn from one click or its absence."""
    moved = alpha @ P
    learnt = moved * (p_click if click else 1 - p_click)
    return learnt / learnt.sum()


def expected_auc(score, p):
    """E00.3: every row is a positive with weight p and a negative with weight 1 − p."""
    won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    weight = p[:, None] * (1 - p)
    return (weight * won).sum() / weight.sum()


def longest(flops, nbytes, C, D, event_bytes):
    """E00.4: the longest history for which both budgets hold."""
    per_event = 4 * C * D
    return int(min(flops // per_event, nbytes // event_bytes))


def gauc(score, label, user):
    """E00.5: AUC per user, weighted by impressions; users with one class are left out."""
    total, weight = 0.0, 0
    for u in np.unique(user):
        mine = user == u
        if 0 < label[mine].sum() < mine.sum():
            total += mine.sum() * metrics.auc(score[mine], label[mine])
            weight += mine.sum()
    return total / weight


def paired_interval(a, b, draws):
    """E00.6: 95 % interval of the mean of b − a, both models on the same resampled users."""
    means = (b - a)[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return low, high


def leak_meter(score, label, p):
    """E00.7: realised AUC minus expected AUC; about 0 unless the score knows the labels."""
    return metrics.auc(score, label) - metrics.expected_auc(score, p)
