"""Every metric against an independent reference on random input with many ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from seqlib import metrics as m

scores = st.integers(0, 6).map(lambda v: v / 6)  # many ties


@st.composite
def rows(draw, n_users=5):
    n = draw(st.integers(2, 40))
    s = np.array(draw(st.lists(scores, min_size=n, max_size=n)))
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), float)
    u = np.array(draw(st.lists(st.integers(0, n_users - 1), min_size=n, max_size=n)))
    return s, y, u


def pairs_auc(s, pos, neg):
    """All pairs, one at a time."""
    won = total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            w = pos[i] * neg[j]
            total += w
            won += w * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
    return won / total if total else float("nan")


@given(rows())
def test_auc_equals_scikit_learn(data):
    s, y, _ = data
    if len(set(y)) < 2:
        assert math.isnan(m.auc(s, y))
    else:
        assert m.auc(s, y) == pytest.approx(sk.roc_auc_score(y, s))


@given(rows())
def test_expected_auc_equals_all_weighted_pairs(data):
    s, y, u = data
    p = (y + u) / 6
    want = pairs_auc(s, p, 1 - p)
    got = m.expected_auc(s, p)
    assert (math.isnan(got) and math.isnan(want)) or got == pytest.approx(want)


def test_expected_auc_is_the_mean_over_drawn_labels():
    rng = np.random.default_rng(0)
    p = rng.random(800)
    s = p + 0.3 * rng.random(800)
    drawn = [m.auc(s, rng.random(800) < p) for _ in range(300)]
    error = np.std(drawn) / math.sqrt(300)
    assert m.expected_auc(s, p) == pytest.approx(np.mean(drawn), abs=4 * error + 2 / 800)


@given(rows())
def test_gauc_equals_scikit_learn_user_by_user(data):
    s, y, u = data
    total = weight = dropped = dropped_rows = 0
    for user in set(u):
        mine = u == user
        if len(set(y[mine])) < 2:
            dropped, dropped_rows = dropped + 1, dropped_rows + mine.sum()
            continue
        total += mine.sum() * sk.roc_auc_score(y[mine], s[mine])
        weight += mine.sum()
    got = m.gauc(s, y, u)
    assert (got.dropped_users, got.dropped_impressions) == (dropped, dropped_rows)
    assert (got.users, got.impressions) == (len(set(u)) - dropped, weight)
    if weight:
        assert got.value == pytest.approx(total / weight)
    else:
        assert math.isnan(got.value)


@given(rows(), st.floats(-100, 100))
def test_gauc_does_not_see_a_constant_per_user(data, shift):
    s, y, u = data
    a, b = m.gauc(s, y, u), m.gauc(s + shift * u, y, u)
    s6 = np.round(s * 6)  # exact integers: shifting can't break ties by rounding
    a, b = m.gauc(s6, y, u), m.gauc(s6 + 1000 * u, y, u)
    assert a == b or math.isnan(a.value)


def test_gauc_of_one_against_one_is_the_share_of_wins():
    s = np.array([0.9, 0.1, 0.2, 0.7, 0.5, 0.5])
    y = np.array([1, 0, 1, 0, 1, 0])
    assert m.gauc(s, y, [0, 0, 1, 1, 2, 2]).value == pytest.approx((1 + 0 + 0.5) / 3)


@given(rows())
def test_log_loss_equals_scikit_learn(data):
    s, y, _ = data
    p = 0.05 + 0.9 * s
    assert m.log_loss(p, y) == pytest.approx(sk.log_loss(y, p, labels=[0, 1]))


def test_normalized_entropy_of_the_base_rate_is_one():
    y = np.array([1, 0, 0, 0])
    assert m.normalized_entropy(np.full(4, 0.25), y) == pytest.approx(1)
    assert m.normalized_entropy([0.9, 0.1, 0.1, 0.1], y) < 1


def table_in_order(p, y, bins):
    """Bins of the rows as they lie after a stable sort: ties stay in the order they came in."""
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return np.array([(p[part].mean(), y[part].mean(), len(part)) for part in parts])


@given(hnp.arrays(float, 30, elements=st.floats(0, 1), unique=True), st.integers(1, 7))
def test_ece_equals_a_loop_over_bins(p, bins):
    y = (np.arange(30) % 3 == 0).astype(float)
    want = table_in_order(p, y, bins)
    assert np.array_equal(m.calibration(p, y, bins), want)
    gap = np.abs(want[:, 0] - want[:, 1])
    assert m.ece(p, y, bins) == pytest.approx((gap * want[:, 2]).sum() / 30)


@given(rows(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_calibration_does_not_see_the_order_of_rows(data, bins, random):
    s, y, u = data
    order = np.array(random.sample(range(len(s)), len(s)))
    for label in (y, (y + u) / 6):
        table = m.calibration(s, label, bins)
        assert np.array_equal(table, m.calibration(s[order], label[order], bins))
        assert m.ece(s, label, bins) == m.ece(s[order], label[order], bins)
        assert table[:, 2].max() - table[:, 2].min() <= 1  # equal mass
        assert (table[:, 1] * table[:, 2]).sum() == pytest.approx(label.sum())


def test_a_tie_across_an_edge_is_shared_as_under_random_order():
    s = np.array([0.1, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.8])
    y = np.array([0.0, 1, 1, 0, 0, 0, 1, 1])
    rng = np.random.default_rng(0)
    orders = [rng.permutation(8) for _ in range(4000)]
    drawn = np.mean([table_in_order(s[o], y[o], 2) for o in orders], axis=0)
    np.testing.assert_allclose(m.calibration(s, y, 2), drawn, atol=0.02)


def test_a_constant_prediction_is_off_by_its_bias_alone():
    """Bins cut from sorted labels would say .48: all 0 in some, all 1 in others."""
    y = np.sort(np.arange(20) % 5 < 2).astype(float)
    assert m.ece(np.full(20, 0.4), y) == pytest.approx(0)
    assert m.ece(np.full(20, 0.1), y) == pytest.approx(0.3)


@settings(max_examples=50)
@given(rows(), st.integers(1, 5))
def test_hit_at_k_is_the_chance_under_random_tie_breaking(data, k):
    s, y, u = data
    rng, hits, n = np.random.default_rng(0), 0.0, 0
    for user in set(u):
        mine = np.flatnonzero(u == user)
        if not y[mine].any():
            continue
        n += 1
        draws = 400
        for _ in range(draws):
            order = mine[np.lexsort((rng.random(len(mine)), -s[mine]))]
            hits += y[order[:k]].any() / draws
    got = m.hit_at_k(s, y, u, k)
    assert (math.isnan(got) and n == 0) or got == pytest.approx(hits / n, abs=0.12)


def test_rela_impr_reproduces_the_published_columns():
    """Models of the DIN paper on its three tables, base first."""
    amazon = {"LR": (0.7742, -24.34), "Wide&Deep": (0.8637, 0.36), "PNN": (0.8679, 1.52),
              "DeepFM": (0.8683, 1.63), "DIN": (0.8818, 5.35), "Dice": (0.8871, 6.82)}  # fmt: skip
    movielens = {"LR": (0.7263, -1.61), "DIN": (0.7337, 1.61), "Dice": (0.7348, 2.09)}
    alibaba = {
        "DIN": (0.6029, 6.08),
        "MBA": (0.6060, 9.28),
        "Dice": (0.6044, 7.63),
        "all": (0.6083, 11.65),
    }
    for base, table in ((0.8624, amazon), (0.73, movielens), (0.597, alibaba)):
        for name, (value, percent) in table.items():
            assert m.rela_impr(value, base) == pytest.approx(percent, abs=0.0051), name
    with pytest.raises(ValueError, match="the base is ½"):
        m.rela_impr(0.6, 0.5)


@given(st.floats(0.001, 0.999), st.floats(0.01, 1))
def test_undo_sampling_inverts_dropping_negatives(p, keep):
    sampled = p / (p + (1 - p) * keep)
    assert float(m.undo_sampling(sampled, keep)) == pytest.approx(p)


@pytest.mark.parametrize(
    "call",
    [
        lambda: m.weighted_auc([0.1, 0.2], [1, np.nan], [0, 1]),
        lambda: m.expected_auc([0.1, 0.2], [0.5, np.nan]),
        lambda: m.log_loss([0.1, 0.2], [0, np.nan]),
        lambda: m.ece([0.1, 0.2], [0, np.nan]),
        lambda: m.undo_sampling([0.1, np.nan], 0.5),
        lambda: m.undo_sampling(0.1, np.nan),
    ],
)
def test_nan_among_labels_or_weights_is_refused(call):
    """It compares false with everything, so a test for what is wrong lets it through."""
    with pytest.raises(ValueError, match="must"):
        call()


@given(rows(), st.randoms(use_true_random=False))
def test_no_metric_sees_the_order_of_rows(data, random):
    """To the last bit but for sums of fractions, which depend on their order by 1e-16."""
    s, y, u = data
    o = np.array(random.sample(range(len(s)), len(s)))
    p, t = (s + 0.1) / 2, (y + u) / 6
    pairs = [
        (m.auc(s, y), m.auc(s[o], y[o])),
        (m.gauc(s, y, u).value, m.gauc(s[o], y[o], u[o]).value),
        (m.expected_auc(s, t), m.expected_auc(s[o], t[o])),
        (m.log_loss(p, y), m.log_loss(p[o], y[o])),
        (m.hit_at_k(s, y, u, 2), m.hit_at_k(s[o], y[o], u[o], 2)),
    ]
    for a, b in pairs:
        assert a == pytest.approx(b, rel=1e-13, nan_ok=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.auc([0.1, np.nan], [0, 1]), "1 scores are NaN or infinite"),
        (lambda: m.auc([0.1], [0, 1]), "1 scores and 2 labels"),
        (lambda: m.auc([], []), "no scores"),
        (lambda: m.auc([0.1, 0.2], [0, 2]), "labels must be 0 or 1"),
        (lambda: m.gauc([0.1, 0.2], [0, 1], [1]), "2 scores and 1 users"),
        (lambda: m.expected_auc([0.1], [1.2]), r"must lie in \[0, 1\]"),
        (lambda: m.log_loss([1.2], [1]), r"must lie in \[0, 1\]"),
        (lambda: m.normalized_entropy([0.5], [1]), "both classes are needed"),
        (lambda: m.hit_at_k([0.5], [1], [0], 0), "k is 0"),
        (lambda: m.calibration([0.5], [1], 0), "bins is 0"),
        (lambda: m.calibration([0.5], [3.0]), r"calibration labels: .* must lie in \[0, 1\]"),
        (lambda: m.undo_sampling(0.5, 0.0), r"keep must lie in \(0, 1\]"),
        (lambda: m.undo_sampling(1.5, 0.5), r"must lie in \[0, 1\]; got 1.5"),
        (lambda: m.weighted_auc([0.1, 0.2], [1, 0], [0]), "2 scores and 1 labels"),
        (lambda: m.weighted_auc([0.1, 0.2], [1, 0], [0, -1]), "negative weights must be finite"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- real-valued labels ---------------------------------------------------------------------------


def test_errors_of_values_by_hand():
    assert m.rmse([1, 2, 5], [1, 4, 4]) == pytest.approx((5 / 3) ** 0.5)
    assert m.r_squared([1, 2, 5], [1, 4, 4]) == pytest.approx(1 - 5 / 6)
    assert m.r_squared([3, 3, 3], [1, 4, 4]) == pytest.approx(0)
    assert m.r_squared([1, 4, 4], [1, 4, 4]) == 1
    assert np.isnan(m.r_squared([1, 2], [7, 7]))


def pairs(value, label):
    """Concordance as its definition: every pair with different labels, one by one."""
    won = []
    for i in range(len(label)):
        for j in range(len(label)):
            if label[i] > label[j]:
                won.append(1.0 if value[i] > value[j] else 0.5 * (value[i] == value[j]))
    return np.mean(won)


def test_concordance_is_its_definition_and_auc_where_labels_are_binary():
    rng = np.random.default_rng(0)
    for levels in (2, 3, 1000):
        value = rng.integers(0, levels, 60)
        label = rng.integers(0, 5, 60) * 1.5
        assert m.concordance(value, label) == pytest.approx(pairs(value, label), abs=1e-12)
        binary = rng.integers(0, 2, 60)
        want = m.auc(value, binary)
        assert m.concordance(value, binary) == pytest.approx(want, abs=1e-12)
    assert m.concordance([1, 2, 3], [10, 20, 30]) == 1
    assert m.concordance([3, 2, 1], [10, 20, 30]) == 0
    assert m.concordance([1, 1, 1], [10, 20, 30]) == 0.5
    assert np.isnan(m.concordance([1, 2, 3], [4, 4, 4]))


@pytest.mark.parametrize("name", ["rmse", "r_squared", "concordance"])
def test_metrics_of_values_refuse_what_is_not_finite(name):
    metric = getattr(m, name)
    with pytest.raises(ValueError, match=f"{name}: 1 labels are NaN"):
        metric([1.0, 2.0], [np.nan, 1.0])
    with pytest.raises(ValueError, match=f"{name}: 1 scores are NaN"):
        metric([np.inf, 2.0], [0.0, 1.0])
    with pytest.raises(ValueError, match=f"{name}: 2 scores and 1 labels"):
        metric([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=f"{name}: no scores"):
        metric([], [])
