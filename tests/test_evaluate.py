"""Prediction order, the paired bootstrap, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

import seqlib
from seqlib import metrics
from seqlib.evaluate import (
    Predictions,
    _Resampled,
    evaluate,
    grade,
    mean_over,
    paired_bootstrap,
    predict,
)


def made(score, seed=0, users=30, c=6, truth=True):
    rng = np.random.default_rng(seed)
    p = rng.random((users * 2, c, 1))
    label = (rng.random(p.shape) < p).astype(float)
    s = np.clip(score(p, rng), 1e-6, 1 - 1e-6)
    user = np.repeat(np.arange(users), 2)
    return Predictions(s, label, user, np.arange(len(s)), p if truth else None)


def good(p, rng):
    return p


def noisy(p, rng):
    return 0.3 * p + 0.7 * np.random.default_rng(9).random(p.shape)


def test_predictions_come_in_the_order_of_the_requests():
    model = seqlib.build("din", tiny.spec(), seed=0)
    b = tiny.batch(lengths=(5, 0, 7, 2))
    whole = predict(model, [b])
    shuffled = predict(model, [b[[2, 0]], b[[3, 1]]])
    assert shuffled.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(shuffled.score, whole.score, atol=1e-6)
    assert model.training  # the mode is put back
    with pytest.raises(ValueError, match="no batches"):
        predict(model, [])


def test_evaluate_reports_every_metric_of_every_task():
    p = made(good)
    table = evaluate(p, ["click"])["click"]
    assert table["auc"] == metrics.auc(p.score, p.label)
    assert table["e_auc"] == metrics.expected_auc(p.score, p.truth)
    assert "e_auc" not in evaluate(made(good, truth=False), ["click"])["click"]


def test_weighted_users_equal_repeated_rows():
    """The fast path of the bootstrap against really repeating each user's rows."""
    p = made(noisy)
    rng = np.random.default_rng(1)
    times = rng.integers(0, 4, 30)
    user = np.repeat(p.user, 6)
    fast = _Resampled(p.score.ravel(), p.label.ravel(), 1 - p.label.ravel(), user)
    rows = np.repeat(np.arange(len(user)), times[user])
    want = metrics.auc(p.score.ravel()[rows], p.label.ravel()[rows])
    assert fast.value(times.astype(float)) == pytest.approx(want)


@pytest.mark.parametrize("expected", [True, False])
def test_a_better_model_has_an_interval_above_zero(expected):
    i = paired_bootstrap(made(good), made(noisy), expected=expected, n=200)
    assert 0 < i.low < i.delta < i.high
    assert i.clear
    assert i.users == 30


def test_a_model_against_itself_is_exactly_zero():
    i = paired_bootstrap(made(good), made(good), n=50)
    assert (i.delta, i.low, i.high) == (0, 0, 0)
    assert not i.clear


def test_the_interval_covers_the_truth_about_95_times_in_100():
    """Two equally noisy copies of the truth: the true difference is 0."""

    def copy(k):
        return lambda p, rng: 0.5 * p + 0.5 * np.random.default_rng(k).random(p.shape)

    covered = 0
    for k in range(60):
        i = paired_bootstrap(made(copy(2 * k), k), made(copy(2 * k + 1), k), n=120, seed=k)
        covered += i.low <= 0 <= i.high
    assert covered >= 48


def test_seeds_are_averaged_inside_every_draw():
    several = [made(noisy), made(good)]
    both = paired_bootstrap(several, [made(noisy)] * 2, n=50)
    one = paired_bootstrap(made(good), made(noisy), n=50)
    assert both.delta == pytest.approx(one.delta / 2)
    assert mean_over(lambda p: float(p.score.mean()), several)[1] > 0


def test_other_requests_can_not_be_compared():
    a, b = made(good), made(noisy)
    moved = dataclasses.replace(b, index=b.index + 1)
    with pytest.raises(ValueError, match="on the same requests only"):
        paired_bootstrap(a, moved)
    with pytest.raises(ValueError, match="no exact probabilities"):
        paired_bootstrap(made(good, truth=False), made(noisy, truth=False), expected=True)


def test_grade_is_the_share_of_the_way():
    assert grade(0.7, 0.6, 0.8) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="must lie above no history"):
        grade(0.7, 0.8, 0.8)


def test_predictions_of_some_rows():
    p = made(good)
    some = p.rows(p.user < 3)
    assert len(some.user) == 6
    assert some.truth is not None
    assert torch.is_tensor(torch.from_numpy(some.score))
