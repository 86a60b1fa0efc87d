"""Pools against their formulas, and the table of what each pool can't see, cell by cell."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch

import seqlib
from seqlib.models.pooling import max_pool, pool_weights, recency_weights

HALF_LIFE = 3.0


def pool(kind: str, tokens, mask, age):
    """One row of tokens (1, L, D) pooled to (D,)."""
    if kind == "max":
        return max_pool(tokens, mask)[0]
    base, norm = ("recency", kind == "recency normalised") if "recency" in kind else (kind, True)
    return (pool_weights(base, mask, age, HALF_LIFE, norm) @ tokens[0])[0]


@pytest.fixture
def life():
    """(1, 6, 4) tokens, all real, ages 1…6 days; negative values in every coordinate."""
    tokens = tiny.ramp(1, 6, 4, dtype=torch.float64) - 1.5
    return tokens, torch.ones(1, 6, dtype=torch.bool), torch.arange(1.0, 7.0).double()[None]


KINDS = ("sum", "mean", "max", "recency raw", "recency normalised")


def test_formulas(life):
    tokens, mask, age = life
    e = tokens[0]
    lam = 2 ** (-age[0] / HALF_LIFE)
    torch.testing.assert_close(pool("sum", *life), e.sum(0))
    torch.testing.assert_close(pool("mean", *life), e.mean(0))
    torch.testing.assert_close(pool("max", *life), e.max(0).values)
    torch.testing.assert_close(pool("recency raw", *life), (lam[:, None] * e).sum(0))
    torch.testing.assert_close(
        pool("recency normalised", *life), (lam[:, None] * e).sum(0) / lam.sum()
    )


@pytest.mark.parametrize(("kind", "changes"), list(zip(KINDS, (0, 1, 1, 0, 1), strict=True)))
def test_zero_padding_read_as_events(life, kind, changes):
    """What happens to a pool that forgets the mask: zeros of age 0 join the history."""
    tokens, mask, age = life
    more = torch.cat([tokens, torch.zeros(1, 3, 4).double()], 1)
    wrong = pool(kind, more, torch.ones(1, 9, dtype=torch.bool), torch.cat([age, age[:, :3]], 1))
    assert (not torch.allclose(wrong, pool(kind, *life))) == bool(changes)


@pytest.mark.parametrize(("kind", "factor"), list(zip(KINDS, (3, 1, 1, 3, 1), strict=True)))
def test_repeating_the_history(life, kind, factor):
    thrice = [torch.cat([t] * 3, dim=1) for t in life]
    torch.testing.assert_close(pool(kind, *thrice), factor * pool(kind, *life))


@pytest.mark.parametrize(("kind", "changes"), list(zip(KINDS, (1, 1, 0, 1, 1), strict=True)))
def test_duplicating_one_event(life, kind, changes):
    more = [torch.cat([t, t[:, :1]], dim=1) for t in life]
    assert (not torch.allclose(pool(kind, *more), pool(kind, *life))) == bool(changes)


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_not_seen(life, kind):
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(pool(kind, *(t[:, order] for t in life)), pool(kind, *life))


@pytest.mark.parametrize(("kind", "factor"), list(zip(KINDS, (1, 1, 1, None, 1), strict=True)))
def test_shifting_all_ages(life, kind, factor):
    tokens, mask, age = life
    factor = 2 ** (-5.0 / HALF_LIFE) if factor is None else factor
    shifted = pool(kind, tokens, mask, age + 5.0)
    torch.testing.assert_close(shifted, factor * pool(kind, *life))


def test_recency_limits(life):
    tokens, mask, age = life

    def at(half_life, norm):
        return (pool_weights("recency", mask, age, half_life, norm) @ tokens[0])[0]

    torch.testing.assert_close(at(1e9, False), tokens[0].sum(0))
    torch.testing.assert_close(at(1e9, True), tokens[0].mean(0))
    torch.testing.assert_close(at(0.01, True), tokens[0, 0])
    assert at(1e-3, False).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("away", [0.0, 100.0, 148.0, 150.0, 1e3, 1e6])
def test_normalised_recency_does_not_fade_with_absence(dtype, away):
    """Half-lives since the newest event: shares depend on gaps alone, however long ago it was."""
    gaps = torch.tensor([[0.0, 0.0, 1.0, 3.0, 2000.0, 9.0]], dtype=dtype)  # a tie, not sorted
    mask = torch.tensor([[True, True, True, True, True, False]])
    w = pool_weights("recency", mask, (gaps + away) * HALF_LIFE, HALF_LIFE)
    share = torch.tensor([[1.0, 1.0, 0.5, 0.125, 0.0, 0.0]], dtype=dtype) / 2.625
    # The gaps themselves are rounded to 1e-7 of the age.
    torch.testing.assert_close(w, share, rtol=0, atol=float(torch.finfo(dtype).eps * (away + 1)))
    raw = pool_weights("recency", mask, (gaps + away) * HALF_LIFE, HALF_LIFE, norm=False)
    torch.testing.assert_close(raw, 2.625 * share * 2**-away, rtol=1e-4, atol=0)


def test_padding_and_empty_rows_have_no_age():
    """Whatever stands there: younger than all events, of the future, or of another epoch."""
    mask = torch.tensor([[False, True, True, False], [False] * 4, [False, False, True, False]])
    for junk in (0.0, -1e6, 1e6, torch.inf, torch.nan):
        age = torch.full((3, 4), junk).masked_fill(mask, 1000.0)
        w = pool_weights("recency", mask, age, half_life=1.0)
        assert w.tolist() == [[0, 0.5, 0.5, 0], [0] * 4, [0, 0, 1, 0]]


@pytest.mark.parametrize("half_life", [0.01, 7.0])
def test_recency_model_keeps_a_user_who_was_away_for_years(half_life):
    model = seqlib.build("recency_pooling", tiny.spec(), seed=0, half_life=half_life).eval()
    b = tiny.request(lengths=(7,))
    v = model.encoder.pool(b.events, b.time)
    later = b.time + 20 * 365 * tiny.DAY
    model.encoder.embed.config = dataclasses.replace(model.encoder.embed.config, use_time=False)
    now, then = (model.encoder.pool(b.events, t) for t in (b.time, later))
    torch.testing.assert_close(then, now, rtol=0, atol=1e-5)
    assert v.abs().max() > 0.1
    single = model.encoder.pool(b.events, later)
    double = model.double().encoder.pool(b.events, later)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_incremental_state_equals_recomputation(life):
    """Sum, count and decayed sum follow one event at a time, in O(d)."""
    tokens, mask, age = life
    lam = 2 ** (-1 / HALF_LIFE)
    numerator = torch.zeros(4).double()
    denominator = 0.0
    last = None
    for j in range(5, -1, -1):  # oldest first
        gap = 0.0 if last is None else last - float(age[0, j])
        numerator = lam**gap * numerator + tokens[0, j]
        denominator = lam**gap * denominator + 1
        last = float(age[0, j])
    raw = lam**last * numerator  # to the request time
    torch.testing.assert_close(raw, pool("recency raw", *life))
    torch.testing.assert_close(numerator / denominator, pool("recency normalised", *life))


def test_empty_histories():
    mask = torch.zeros(1, 4, dtype=torch.bool)
    age = torch.zeros(1, 4)
    for kind in ("sum", "mean", "recency"):
        assert pool_weights(kind, mask, age).tolist() == [[0, 0, 0, 0]]
    assert torch.isneginf(max_pool(torch.zeros(1, 4, 2), mask)).all()
    for name in ("mean_pooling", "max_pooling", "recency_pooling"):
        model = seqlib.build(name, tiny.spec(), seed=0)
        with torch.no_grad():
            model.encoder.empty.fill_(0.5)
        b = tiny.request(lengths=(0,))
        assert model.encoder.pool(b.events, b.time).eq(0.5).all()


def test_errors_name_what_is_wrong():
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="half_life is 0; it must be positive"):
        recency_weights(torch.zeros(1), 0)
    with pytest.raises(ValueError, match="needs the events' ages"):
        pool_weights("recency", mask)
    with pytest.raises(ValueError, match="'sum', 'mean' or 'recency'"):
        pool_weights("median", mask)
    with pytest.raises(ValueError, match="one of sum, mean, max, recency"):
        seqlib.build("mean_pooling", tiny.spec(), kind="median")
    with pytest.raises(ValueError, match="unknown model 'dinn'; available: item_only"):
        seqlib.build("dinn", tiny.spec())
    with pytest.raises(ValueError, match=r"mean_pooling has no option \['depth'\]"):
        seqlib.build("mean_pooling", tiny.spec(), depth=3)
    with pytest.raises(ValueError, match="no field 'colour'"):
        seqlib.build("topic_histogram", tiny.spec(), field="colour")


def test_histogram_counts_by_hand():
    spec = tiny.spec()
    b = tiny.request(lengths=(12, 3))
    encoder = seqlib.build("topic_histogram", spec, seed=0).encoder
    table = encoder.counts(b.events)
    for row in range(2):
        want = torch.zeros(8, 5)
        for j in range(int(b.events.lengths[row])):
            topic = int(spec.items.fields["topic"][b.events.item[row, j]])
            action = int(b.events.action[row, j])
            want[topic] += torch.tensor([1.0] + [float(action >> bit & 1) for bit in range(4)])
        assert torch.equal(table[row], want)
    out = encoder(b)
    topic = spec.items.fields["topic"][b.items.id[0, 1]]
    torch.testing.assert_close(out[0, 1, :5], table[0, topic].log1p())
    torch.testing.assert_close(out[0, 1, 5:10], table[0, topic] / 12)
    torch.testing.assert_close(out[0, 1, 10:], table[0].sum(0).log1p())
