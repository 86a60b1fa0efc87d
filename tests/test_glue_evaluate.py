"""Intervals have the level, the sign and the pairing that they claim, and each task its own numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import t as student

import seqlib
from seqlib import metrics
from seqlib.evaluate import (
    Bootstrap,
    Predictions,
    bootstrap,
    evaluate,
    grade,
    mean_over,
    paired_bootstrap,
    paired_lift,
    predict,
)

RNG = np.random.default_rng(3)
TASKS = ("click", "like", "hide")


def made(users=20, requests=3, c=4):
    """Three tasks, of which the first is guessed, the second known, the third known upside down."""
    truth = RNG.random((users * requests, c, 3))
    score = np.stack([RNG.random(truth.shape[:2]), truth[..., 1], 1 - truth[..., 2]], -1)
    label = (RNG.random(truth.shape) < truth).astype(float)
    user = np.repeat(np.arange(users), requests) * 7
    return Predictions(score, label, user, np.arange(len(user)), truth)


def drawn(*seeds, n=1001):
    """A bootstrap with these values under each seed plus an even grid of draws from 0 to 1."""
    grid = np.linspace(0, 1, n)[:, None]
    return Bootstrap(np.array(seeds), grid**2 + np.array(seeds), users=9, same={"seed": 0})


def still(*seeds, n=1001):
    """A bootstrap that no draw changes."""
    return Bootstrap(np.array(seeds), np.tile(seeds, (n, 1)), users=9, same={"seed": 0})


# --- level and sign ---------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_an_interval_leaves_out_a_fortieth_of_the_draws_on_each_side(seeds):
    """Draws of a known, crooked law: squares of an even grid. Seeds that agree add nothing."""
    a, b = drawn(*[0.0] * seeds), still(*[0.0] * seeds)
    there = a.minus(b)
    assert (there.low, there.high) == pytest.approx((0.025**2, 0.975**2))
    back = b.minus(a)
    assert (back.low, back.high) == pytest.approx((-(0.975**2), -(0.025**2)))


def test_where_seeds_decide_the_interval_is_students():
    """Two seeds a side, whose means have variance 1 each: two degrees of freedom."""
    interval = still(9.0, 11.0, n=4000).minus(still(-1.0, 1.0, n=4000))
    assert interval.delta == 10
    assert interval.over == "users and seeds"
    widest = (interval.high - interval.low) / 2
    # A drawn mean of two seeds is 0 or ±√2 (a quarter each) beside its own, so one difference in
    # sixteen lies at each end, ±2√2: more than a fortieth.
    wider = student.ppf(0.975, 2) / student.ppf(0.975, 1e9)
    assert widest == pytest.approx(2 * np.sqrt(2) * wider, rel=1e-6)


def test_a_difference_has_the_sign_of_first_minus_second():
    a, b = drawn(0.7, 0.9), still(0.1, 0.3)
    there = a.minus(b)
    assert there.delta == pytest.approx(0.6)
    assert 0.4 < there.low < 0.6 < there.high
    assert b.minus(a).delta == pytest.approx(-0.6)
    assert (a.value, b.value) == pytest.approx((0.8, 0.2))


def test_only_an_interval_over_seeds_can_be_clear():
    assert drawn(0.7, 0.9).minus(still(0.1, 0.1)).clear
    assert not drawn(0.7).minus(still(0.1, 0.1)).clear
    assert not drawn(0.7, 0.9).minus(still(0.1)).clear
    assert drawn(0.7).minus(still(0.1)).clear_of_users


def test_a_lift_has_the_sign_and_the_level_of_first_over_second():
    """Two users, so that a draw is one of three: both, the first twice, the second twice."""
    user = np.array([5, 5, 8])
    a, b = np.array([1.0, 2, 9]), np.array([1.0, 1, 3])
    lift = paired_lift([a], [b], user, n=2000)
    assert lift.delta == pytest.approx(12 / 5 - 1)
    assert (lift.low, lift.high) == pytest.approx((3 / 2 - 1, 9 / 3 - 1))
    assert lift.users == 2
    assert paired_lift([b], [a], user, n=2000).delta == pytest.approx(5 / 12 - 1)


# --- users -------------------------------------------------------------------------------------


def test_a_draw_takes_as_many_users_as_there_are_with_all_their_impressions():
    """Two users: half of the draws are the test set, a quarter each is one of them twice."""
    p = made(users=2, requests=5)
    boot = bootstrap(p, 0, n=4000)
    each = [bootstrap(p.rows(p.user == u), 0, n=1).value for u in (0, 7)]
    values, times = np.unique(boot.draws.round(9), return_counts=True)
    assert values == pytest.approx(sorted([*each, boot.value]))
    share = dict(zip(values, times / 4000, strict=True))
    assert share[round(boot.value, 9)] == pytest.approx(0.5, abs=0.04)
    assert boot.draws.shape == (4000, 1)


def test_models_are_measured_on_the_same_draws_and_other_seeds_on_others():
    p = made()
    one, same, other = (bootstrap(p, 0, n=30, seed=s).draws for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    # A shift of all scores changes no order, so a paired difference is nothing in every draw.
    shifted = dataclasses.replace(p, score=p.score / 2)
    same = paired_bootstrap(shifted, p, n=30)
    assert (same.delta, same.low, same.high) == (0, 0, 0)


def test_predictions_are_cut_in_all_their_parts():
    p = made()
    some = p.rows(p.user == 14)
    assert some.user.tolist() == [14] * 3
    assert some.index.tolist() == [6, 7, 8]
    for name in ("score", "label", "truth"):
        assert np.array_equal(getattr(some, name), getattr(p, name)[6:9])


# --- tasks, labels and truth --------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1, 2])
def test_each_task_is_measured_by_its_own_scores_and_answers(t):
    p = made()
    score, label, truth = (getattr(p, name)[..., t] for name in ("score", "label", "truth"))
    row = evaluate(p, TASKS)[TASKS[t]]
    assert row["auc"] == metrics.auc(score, label)
    assert row["e_auc"] == metrics.expected_auc(score, truth)
    assert row["log_loss"] == metrics.log_loss(score, label)
    assert row["ne"] == metrics.normalized_entropy(score, label)
    assert row["ece"] == metrics.ece(score, label)
    by_user = metrics.gauc(score, label, np.repeat(p.user[:, None], 4, axis=1))
    assert row["gauc"] == by_user.value
    assert (row["gauc_users"], row["gauc_dropped_users"]) == (by_user.users, by_user.dropped_users)
    assert bootstrap(p, t, n=2).value == pytest.approx(row["e_auc"])
    assert bootstrap(p, t, expected=True, n=2).value == pytest.approx(row["e_auc"])
    assert bootstrap(p, t, expected=False, n=2).value == pytest.approx(row["auc"])


@pytest.mark.parametrize(("expected", "metric"), [(None, "e_auc"), (True, "e_auc"), (False, "auc")])
@pytest.mark.parametrize("t", [0, 1, 2])
def test_a_paired_difference_is_of_the_task_and_the_answers_asked_for(t, expected, metric):
    p = made()
    other = dataclasses.replace(p, score=RNG.random(p.score.shape))
    want = evaluate(p, TASKS)[TASKS[t]][metric] - evaluate(other, TASKS)[TASKS[t]][metric]
    got = paired_bootstrap(p, other, t, expected=expected, n=3)
    assert got.delta == pytest.approx(want)


def test_without_exact_probabilities_labels_are_the_answers():
    p = dataclasses.replace(made(), truth=None)
    assert bootstrap(p, 1, n=2).value == pytest.approx(evaluate(p, TASKS)["like"]["auc"])


def test_a_subset_of_candidates_is_measured_alone():
    p = made()
    among = RNG.random(p.score.shape[:2]) < 0.5
    want = metrics.auc(p.score[..., 1][among], p.label[..., 1][among])
    assert bootstrap(p, 1, expected=False, among=among, n=2).value == pytest.approx(want)


def test_several_seeds_are_measured_each_and_averaged():
    a = made()
    b, c = (dataclasses.replace(a, score=RNG.random(a.score.shape)) for _ in range(2))
    boot = bootstrap([a, b, c], 1, n=4)
    want = [evaluate(p, TASKS)["like"]["e_auc"] for p in (a, b, c)]
    assert boot.each == pytest.approx(want)
    assert boot.value == pytest.approx(np.mean(want))
    assert boot.draws.shape == (4, 3)
    assert bootstrap(b, 1, n=4).draws[:, 0] == pytest.approx(boot.draws[:, 1])
    mean, spread = mean_over(lambda p: float(p.score[0, 0, 0]), [a, b, c])
    values = [p.score[0, 0, 0] for p in (a, b, c)]
    assert (mean, spread) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert mean_over(lambda p: 1.0, [a]) == (1.0, 0.0)


def test_metrics_of_five_impressions_by_hand():
    p, y = np.array([0.8, 0.4, 0.6, 0.3, 0.5]), np.array([1, 0, 0, 1, 1])
    user = np.array(list("aabbb"))
    loss = -(np.log(0.8) + np.log(0.6) + np.log(0.4) + np.log(0.3) + np.log(0.5)) / 5
    assert metrics.log_loss(p, y) == pytest.approx(loss)
    rate = -(3 * np.log(0.6) + 2 * np.log(0.4)) / 5
    assert metrics.normalized_entropy(p, y) == pytest.approx(loss / rate)
    assert metrics.gauc(p, y, user).value == pytest.approx((2 * 1 + 3 * 0) / 5)
    assert metrics.auc(p, y) == pytest.approx((2 + 0 + 1) / 6)
    assert metrics.ece(p, y, bins=1) == pytest.approx(abs(p.mean() - 0.6))
    assert grade(0.65, 0.6, 0.8) == pytest.approx(0.25)


def test_predictions_are_the_models_own_without_dropout_on_the_right_rows():
    model = seqlib.build("transact", tiny.spec(), seed=0, **{**tiny.SMALL_TRANSACT, "dropout": 0.5})
    b = tiny.batch(lengths=(4, 9, 2), n_candidates=2)
    b = dataclasses.replace(b, index=torch.tensor([2, 0, 1]))
    p = predict(model.train(), [b])
    assert model.training
    with torch.no_grad():
        want = model.eval()(b.request).double().sigmoid().numpy()
    assert np.array_equal(p.score[[2, 0, 1]], want)
    assert np.array_equal(p.label[[2, 0, 1]], b.answers.labels.double().numpy())
    assert p.user[[2, 0, 1]].tolist() == b.request.user.tolist()
