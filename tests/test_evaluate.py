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
    Bootstrap,
    Predictions,
    _Resampled,
    bootstrap,
    evaluate,
    few_seeds,
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
    assert i.clear_of_users
    assert i.users == 30


def test_a_model_against_itself_is_exactly_zero():
    i = paired_bootstrap(made(good), made(good), n=50)
    assert (i.delta, i.low, i.high) == (0, 0, 0)
    assert not i.clear
    three = [made(good), made(noisy), made(good)]
    same = paired_bootstrap(three, three, n=50, same_models=True)
    assert (same.delta, same.low, same.high) == (0, 0, 0)
    again = paired_bootstrap(three, three, n=50)  # three more seeds would not be these
    assert again.low < 0 < again.high


def test_the_interval_covers_the_truth_about_95_times_in_100():
    """Two equally noisy copies of the truth: the true difference is 0."""

    def copy(k):
        return lambda p, rng: 0.5 * p + 0.5 * np.random.default_rng(k).random(p.shape)

    covered = 0
    for k in range(60):
        i = paired_bootstrap(made(copy(2 * k), k), made(copy(2 * k + 1), k), n=120, seed=k)
        covered += i.low <= 0 <= i.high
    assert covered >= 48


def test_seeds_that_differ_widen_the_interval():
    """Fails where users alone are drawn: the mean of both sides is the same in either case."""
    alike = [made(noisy)] * 3
    apart = [made(good), made(noisy), made(noisy)]
    narrow = paired_bootstrap(alike, [made(good)] * 3, n=200)
    wide = paired_bootstrap(apart, [made(good)] * 3, n=200)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert narrow.clear
    assert not wide.clear  # one seed of three is no worse at all
    assert narrow.over == wide.over == "users and seeds"
    assert wide.seeds == (3, 3)


def test_one_seed_on_a_side_is_over_users_and_never_clear():
    one = paired_bootstrap(made(good), [made(noisy)] * 3, n=200)
    assert one.over == "users"
    assert one.seeds == (1, 3)
    assert one.clear_of_users
    assert not one.clear
    both = paired_bootstrap([made(good)] * 2, [made(noisy)] * 3, n=200)
    assert both.clear
    # Without a spread of the seeds the interval is the one over users.
    assert (both.low, both.high) == pytest.approx((one.low, one.high), abs=1e-3)


def test_the_mirrored_difference_has_the_mirrored_interval():
    a, b = [made(good), made(noisy)], [made(noisy), made(noisy), made(good)]
    there, back = paired_bootstrap(a, b, n=100), paired_bootstrap(b, a, n=100)
    assert (there.delta, there.low, there.high) == pytest.approx(
        (-back.delta, -back.high, -back.low)
    )


def test_the_same_models_asked_twice_are_paired_by_seed():
    """A gain of .1 for every seed, though the seeds themselves lie far apart."""
    rng = np.random.default_rng(0)
    base = np.array([0.2, 0.5, 0.8]) + 0.01 * rng.normal(size=(200, 1))
    boot = [Bootstrap(base.mean(0) + g, base + g, users=30, same={"seed": 0}) for g in (0.1, 0.0)]
    paired = boot[0].minus(boot[1], same_models=True)
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))
    assert not boot[0].minus(boot[1]).clear
    less = Bootstrap(boot[1].each[:2], boot[1].draws[:, :2], 30, {"seed": 0})
    with pytest.raises(ValueError, match="pairs seed by seed, but there are 3 and 2 seeds"):
        boot[0].minus(less, same_models=True)


@pytest.mark.parametrize("seeds", [(3, 3), (2, 2), (5, 5), (2, 4)])
@pytest.mark.parametrize("user_sd", [1.0, 0.5, 0.05])
def test_over_users_and_seeds_it_covers_the_truth_about_95_times_in_100(seeds, user_sd):
    """New users and new seeds each time; the true difference is 0.

    Of 400 the count scatters by 4.4 around 380; without the two corrections for few seeds it is 325
    to 350 where seeds decide.
    """
    rng = np.random.default_rng([7, *seeds])
    users, n, covered = 80, 300, 0
    for k in range(400):
        weight = np.random.default_rng(k).multinomial(users, np.full(users, 1 / users), size=n)
        one = rng.normal(0, 1, users)
        other = one + rng.normal(0, user_sd * np.sqrt(users), users)
        sides = []
        for user, size in zip((one, other), seeds, strict=True):
            value = user[:, None] + rng.normal(0, 1, size)
            sides.append(Bootstrap(value.mean(0), weight @ value / users, users, {"seed": k}))
        i = sides[0].minus(sides[1])
        covered += i.low <= 0 <= i.high
    assert 364 <= covered <= 396


def test_few_seeds_by_hand():
    """Degrees of freedom 4, 2 and without end; t's tables say 2.776, 4.303, 1.96."""
    assert few_seeds(2, [(1, 3), (1, 3)]) * 1.95996 == pytest.approx(2.776, abs=1e-3)
    assert few_seeds(1, [(1, 3), (0, 3)]) * 1.95996 == pytest.approx(4.303, abs=1e-3)
    assert few_seeds(1e6, [(1, 3)]) == pytest.approx(1, abs=1e-6)
    assert few_seeds(1, [(0, 3)]) == few_seeds(1, []) == 1


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


@pytest.mark.parametrize(
    ("differs", "change"),
    [
        ("user", lambda p: {"user": p.user[::-1].copy()}),
        ("user", lambda p: {"user": p.user + 1}),
        ("label", lambda p: {"label": 1 - p.label}),
        ("truth", lambda p: {"truth": p.truth**2}),
        ("truth", lambda p: {"truth": None}),
        ("index", lambda p: {"index": p.index + 1}),
        (
            "index, user, label, truth, shape of score",
            lambda p: {f.name: getattr(p, f.name)[:9] for f in dataclasses.fields(p)},
        ),
    ],
)
@pytest.mark.parametrize("expected", [True, False])
def test_pairing_refuses_other_users_labels_and_truth_by_name(differs, change, expected):
    """Between two models, and between the seeds of one."""
    a = made(good)
    other = dataclasses.replace(a, **change(a))
    with pytest.raises(ValueError, match=f"; {differs} of seed 1 differ from seed 0's"):
        bootstrap([a, other], expected=expected, n=5)
    if expected and other.truth is None:
        return
    with pytest.raises(ValueError, match=f"requests only; {differs}: not the same on both sides"):
        paired_bootstrap(a, other, expected=expected, n=5)


def test_pairing_refuses_other_tasks_draws_and_candidates_by_name():
    a = made(good)
    base = bootstrap(a, n=5)
    with pytest.raises(ValueError, match="requests only; n: not the same"):
        base.minus(bootstrap(a, n=6))
    with pytest.raises(ValueError, match="requests only; seed: not the same"):
        base.minus(bootstrap(a, n=5, seed=1))
    with pytest.raises(ValueError, match="requests only; expected: not the same"):
        base.minus(bootstrap(a, n=5, expected=False))
    with pytest.raises(ValueError, match="requests only; among: not the same"):
        base.minus(bootstrap(a, n=5, among=a.label[..., 0] > 0))
    with pytest.raises(ValueError, match="runs is empty"):
        bootstrap([])
    broken = dataclasses.replace(a, score=np.where(a.score > 0.9, np.nan, a.score))
    with pytest.raises(ValueError, match="score of seed 1 holds values that are not finite"):
        bootstrap([a, broken], n=5)


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
