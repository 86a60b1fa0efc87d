"""Label weights, utility, HIT@k by user, and the lift's interval."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from seqlib.evaluate import paired_lift
from seqlib.multitask import (
    EQUAL,
    PINTEREST,
    LabelWeights,
    hit_at_k,
    hits,
    utility,
    weighted_loss,
)
from seqlib.objectives import bce


def test_weights_are_the_matrix_times_what_was_done():
    y = torch.tensor([[[1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]]]).float()
    want = [[100, 0, 1], [100, 100, 10], [100, 100, 6], [1, 1, 1]]
    assert PINTEREST(y).tolist() == [want]


def test_without_the_last_column_a_plain_impression_would_weigh_nothing():
    zero = LabelWeights(((100, 0, 100, 0), (0, 100, 100, 0), (1, 5, 10, 0)))
    assert zero(torch.zeros(1, 1, 3)).abs().max() == 0


def test_equal_weights_are_plain_bce_when_one_action_at_most_was_done():
    y = torch.tensor([[[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]]).float()
    logits = torch.linspace(-2, 2, 12).view(1, 4, 3)
    torch.testing.assert_close(weighted_loss(logits, y, EQUAL), bce(logits, y))


def test_weighted_loss_by_hand():
    y, logits = torch.tensor([[[0.0, 0.0, 1.0]]]), torch.tensor([[[0.3, -0.2, 0.1]]])
    p = torch.sigmoid(logits)[0, 0]
    each = -torch.stack([(1 - p[0]).log(), (1 - p[1]).log(), p[2].log()])
    want = (torch.tensor([100.0, 100.0, 10.0]) * each).sum() / 70
    torch.testing.assert_close(weighted_loss(logits, y, PINTEREST), want)


def test_utility_and_its_errors():
    assert utility(np.array([[0.5, 0.2, 0.4]])) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="2 utilities for 3 heads"):
        utility(np.zeros((1, 3)), (1, 1))
    with pytest.raises(ValueError, match=r"rows of \[3, 3, 3\] numbers for 3 heads"):
        LabelWeights(((1, 1, 1),) * 3)
    with pytest.raises(ValueError, match="negative"):
        LabelWeights(((-1, 1),))
    with pytest.raises(ValueError, match="labels have 2 tasks, the matrix 3 heads"):
        EQUAL(torch.zeros(1, 1, 2))


def test_hits_equal_the_mean_over_all_orders_of_ties():
    rng = np.random.default_rng(0)
    for _ in range(30):
        score, label = rng.integers(0, 3, 5) / 2.0, rng.integers(0, 2, 5)
        found = [
            sum(label[i] for i in sorted(order, key=lambda i: -score[i])[:3])
            for order in itertools.permutations(range(5))  # sorted() is stable: order breaks ties
        ]
        assert hits(score[None], label[None])[0] == pytest.approx(np.mean(found))


def test_hit_at_3_divides_by_users_and_takes_short_requests_whole():
    score = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4], [0.5, 0.4, 0.3, 0.2]])
    label = np.array([[1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert hit_at_k(score, label, np.array([7, 7, 9])) == pytest.approx((2 + 0 + 0) / 2)
    assert hits(score[:, :2], label[:, :2]).tolist() == label[:, :2].sum(1).tolist()
    with pytest.raises(ValueError, match="both must be"):
        hits(score, label[:, :2])
    with pytest.raises(ValueError, match="k is 0"):
        hits(score, label, 0)
    with pytest.raises(ValueError, match="1 scores are NaN or infinite"):
        hits(np.where(score == 0.8, np.nan, score), label)
    with pytest.raises(ValueError, match=r"score has shape \(0, 3\); nothing can be hit"):
        hit_at_k(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))


def test_lift_by_hand_and_its_interval():
    user = np.repeat(np.arange(40), 2)
    rng = np.random.default_rng(1)
    base = rng.poisson(2.0, 80).astype(float)
    up = paired_lift([base * 1.1], [base], user)
    assert up.delta == pytest.approx(0.1)
    assert (up.low, up.high) == (pytest.approx(0.1), pytest.approx(0.1))  # paired: no noise left
    other = paired_lift([rng.poisson(2.0, 80)], [base], user)
    assert other.low < other.delta < other.high
    assert not other.clear
    with pytest.raises(ValueError, match="no hit at all"):
        paired_lift([base], [base * 0], user)
    with pytest.raises(ValueError, match="values for 80 requests"):
        paired_lift([base[:3]], [base], user)
    with pytest.raises(ValueError, match="a is empty"):
        paired_lift([], [base], user)
    with pytest.raises(ValueError, match="b holds values that are not finite"):
        paired_lift([base], [base * np.nan], user)


def test_a_lift_draws_seeds_too():
    """Three seeds at +0, +10 and +20 % have a mean of +10 % that three others may miss."""
    user = np.repeat(np.arange(40), 2)
    base = np.random.default_rng(1).poisson(2.0, 80).astype(float)
    one = paired_lift([base * 1.1], [base] * 3, user)
    assert (one.over, one.clear_of_users, one.clear) == ("users", True, False)
    several = paired_lift([base, base * 1.1, base * 1.2], [base] * 3, user)
    assert several.delta == pytest.approx(0.1)
    assert several.over == "users and seeds"
    assert several.low < 0 < several.high
    # s = .1, √3 in the mean, Student's t with two degrees of freedom: ± .248.
    assert several.high - several.low == pytest.approx(2 * 0.248, rel=0.15)
    assert paired_lift([base * 1.1] * 3, [base] * 3, user).clear
    same = paired_lift([base, base * 2], [base, base * 2], user, same_models=True)
    assert (same.delta, same.low, same.high) == (0, 0, 0)


def test_a_lift_over_users_and_seeds_covers_the_truth_about_95_times_in_100():
    rng, user, covered = np.random.default_rng(3), np.arange(60), 0
    for k in range(300):
        base = rng.gamma(4.0, 1.0, 60)
        sides = [
            [base * (1 + 0.1 * rng.normal(size=60)) * (1 + 0.05 * rng.normal()) for _ in range(3)]
            for _ in "ab"
        ]
        i = paired_lift(*sides, user, n=300, seed=k)
        covered += i.low <= 0 <= i.high
    assert 273 <= covered <= 297
