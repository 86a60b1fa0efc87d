"""Prediction order, the paired bootstrap, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

import seqlib
from seqlib import metrics
from seqlib.data.schema import Answers, Task
from seqlib.evaluate import (
    Bootstrap,
    Predictions,
    bootstrap,
    evaluate,
    few_seeds,
    grade,
    mean_over,
    paired_bootstrap,
    predict,
)
from seqlib.intervals import _Resampled


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
        ("weight", lambda p: {"weight": np.full(p.label.shape, 2.0)}),
        (
            "index, user, label, truth, shape of score",
            lambda p: vars(p.rows(np.arange(9))),
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


# --- labels that don't count, and real-valued tasks -----------------------------------------------

WATCH = Task("watch", "real")


def two_tasks(seed=0):
    """Clicks, and seconds watched, which only a click defines: NaN elsewhere."""
    rng = np.random.default_rng(seed)
    click = made(good, seed)
    was_clicked = click.label[..., 0] == 1
    seconds = np.where(was_clicked, rng.gamma(2.0, 10.0, was_clicked.shape), np.nan)
    guess = np.where(was_clicked, seconds, 50.0) + rng.normal(0, 5, seconds.shape)
    return Predictions(
        np.stack([click.score[..., 0], guess], -1),
        np.stack([click.label[..., 0], seconds], -1),
        click.user,
        click.index,
        weight=np.stack([np.ones(was_clicked.shape), 3.0 * was_clicked], -1),
    )


def test_predict_keeps_the_weights_of_labels_in_the_order_of_the_requests():
    model = seqlib.build("din", tiny.spec(), seed=0)
    b = tiny.batch(lengths=(5, 0, 7, 2))
    assert predict(model, [b]).weight is None
    weight = tiny.ramp(*b.answers.labels.shape).abs()
    weighted = dataclasses.replace(b, answers=dataclasses.replace(b.answers, weight=weight))
    got = predict(model, [weighted[[2, 0]], b[[3]], weighted[[1]]])
    want = weight.double().numpy()
    want[3] = 1.0  # A batch that came without weights counts 1 each.
    np.testing.assert_array_equal(got.weight, want)
    np.testing.assert_array_equal(got.rows(np.array([2, 0])).weight, want[[2, 0]])


def test_a_real_valued_task_has_its_own_metrics_over_the_labels_that_count():
    p = two_tasks()
    table = evaluate(p, ["click", WATCH])
    counts = p.weight[..., 1] > 0
    value = p.score[..., 1][counts]
    label = p.label[..., 1][counts]
    assert 0 < counts.sum() < counts.size
    assert table["watch"] == {
        "rmse": metrics.rmse(value, label),
        "r2": metrics.r_squared(value, label),
        "concordance": metrics.concordance(value, label),
    }
    assert table["watch"]["rmse"] == pytest.approx(5, abs=1)
    assert table["click"] == evaluate(made(good, truth=False), ["click"])["click"]
    assert evaluate(p, [Task("click"), WATCH]) == table


def test_a_binary_task_is_measured_on_the_labels_that_count():
    p = made(noisy)
    rng = np.random.default_rng(3)
    weight = (rng.random(p.label.shape) < 0.6) * 2.0
    label = np.where(weight > 0, p.label, np.nan)
    truth = np.where(weight > 0, p.truth, np.nan)
    got = evaluate(dataclasses.replace(p, label=label, truth=truth, weight=weight), ["click"])
    counts = weight[..., 0] > 0
    user = np.repeat(p.user, p.label.shape[1]).reshape(counts.shape)[counts]
    assert got["click"]["auc"] == metrics.auc(p.score[counts], p.label[counts])
    assert got["click"]["gauc"] == metrics.gauc(p.score[counts], p.label[counts], user).value
    assert got["click"]["ece"] == metrics.ece(p.score[counts], p.label[counts])
    assert got["click"]["e_auc"] == metrics.expected_auc(p.score[counts], p.truth[counts])
    assert got["click"]["auc"] != metrics.auc(p.score, p.label)


def test_evaluate_says_what_it_cannot_measure():
    p = two_tasks()
    with pytest.raises(ValueError, match="3 tasks for 2 labels"):
        evaluate(p, ["click", WATCH, "share"])
    nothing = dataclasses.replace(p, weight=np.zeros_like(p.weight))
    with pytest.raises(ValueError, match="no label of task click has a weight above 0"):
        evaluate(nothing, ["click"])
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        evaluate(p, ["click", "watch"])


def test_the_bootstrap_measures_on_the_labels_that_count_and_on_binary_tasks_only():
    p = made(noisy, truth=False)
    weight = (np.random.default_rng(3).random(p.label.shape) < 0.6) * 1.0
    unknown = np.where(weight > 0, p.label, np.nan)
    got = bootstrap(dataclasses.replace(p, label=unknown, weight=weight), n=20)
    among = bootstrap(p, among=weight[..., 0] > 0, n=20)
    np.testing.assert_array_equal(got.draws, among.draws)
    assert got.value == pytest.approx(metrics.auc(p.score[weight > 0], p.label[weight > 0]))
    assert got.value != pytest.approx(bootstrap(p, n=20).value)
    both = bootstrap(
        dataclasses.replace(p, weight=weight), among=np.arange(6) + 0 * weight[..., 0] < 3, n=20
    )
    first_three = bootstrap(p, among=(weight[..., 0] > 0) & (np.arange(6) < 3), n=20)
    np.testing.assert_array_equal(both.draws, first_three.draws)
    with pytest.raises(ValueError, match="weight: not the same on both sides"):
        bootstrap(p, n=20).minus(bootstrap(dataclasses.replace(p, weight=weight), n=20))
    with pytest.raises(ValueError, match="task 1 has labels other than 0 and 1"):
        bootstrap(two_tasks(), 1, n=20)


def test_a_model_with_a_real_valued_task_is_measured_from_its_answers():
    spec = tiny.spec()
    spec = dataclasses.replace(spec, tasks=(*spec.tasks[:1], WATCH), base_rates=(0.3, 20.0))
    model = seqlib.build("mean_pooling", spec, seed=0)
    b = tiny.batch(lengths=(5, 3, 7, 2))
    click = b.answers.labels[..., :1]
    click[:, 0] = 1
    click[:, 1] = 0
    seconds = 30 * tiny.ramp(*click.shape).abs()
    weight = torch.cat([torch.ones_like(click), click], -1)
    answers = Answers(torch.cat([click, seconds], -1), weight)
    got = predict(model, [dataclasses.replace(b, answers=answers)])
    assert (got.score[..., 1] > 1).all()  # seconds, not probabilities
    table = evaluate(got, spec.tasks)
    assert set(table["watch"]) == {"rmse", "r2", "concordance"}
    counts = click[..., 0].numpy() > 0
    error = got.score[..., 1][counts] - got.label[..., 1][counts]
    assert table["watch"]["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
