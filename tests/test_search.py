"""Searches against what they claim to equal: sorting, walking, counting bits, indicators."""

from __future__ import annotations

import importlib
import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlib import search
from seqlib.search import Hits, SimHash, hits_at_k, kmeans, round_robin_topk, topk

kmeans_module = importlib.import_module("seqlib.search.kmeans")  # its name is the function's too

CASES = settings(max_examples=60, deadline=None)
coarse = st.sampled_from([-1.5, -1.0, 0.0, 0.5, 2.0])  # few values: many ties


def listed(hits: Hits, *at: int) -> list[int]:
    """The found indices of one row."""
    return hits.index[at][hits.mask[at]].tolist()


# --- top-k -------------------------------------------------------------------------------------


@CASES
@given(st.lists(st.tuples(coarse, st.booleans()), min_size=1, max_size=20), st.integers(1, 25))
def test_topk_sorts_by_score_then_recency(row, k):
    scores = torch.tensor([[s for s, _ in row]])
    mask = torch.tensor([[m for _, m in row]])
    want = sorted((i for i, (_, m) in enumerate(row) if m), key=lambda i: (-row[i][0], i))[:k]
    found = topk(scores, k, mask)
    assert found.index.shape == (1, min(k, len(row)))
    assert listed(found, 0) == want


def test_topk_keeps_leading_axes_and_does_not_change_its_input():
    scores = tiny.ramp(2, 3, 4, 9)
    scores[0, 0, 0] = 1.0  # one row of nothing but ties
    before = scores.clone()
    found = topk(scores, 5)
    assert found.index.shape == (2, 3, 4, 5)
    assert listed(found, 0, 0, 0) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(
        scores.gather(-1, found.index), scores.sort(-1, descending=True).values[..., :5]
    )
    assert torch.equal(scores, before)


def test_padding_never_outranks_a_negative_score():
    """The fault of a public library: score · mask gives padding 0, above every negative score."""
    scores = torch.tensor([[-3.0, -1.0, -2.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False, False]])
    assert listed(topk(scores, 2, mask), 0) == [1, 2]
    assert listed(topk(scores * mask, 2), 0) == [3, 4]  # what that library returns


def test_short_and_empty_histories_give_what_they_have():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = topk(tiny.ramp(2, 3), 3, mask)
    assert found.mask.tolist() == [[True, True, False], [False] * 3]
    assert found.index[~found.mask].eq(0).all()


@pytest.mark.parametrize("function", [topk, round_robin_topk])
def test_k_below_one_is_an_error(function):
    with pytest.raises(ValueError, match="k is 0; a search returns at least 1 event"):
        function(torch.zeros(2, 3), 0)


# --- round robin -------------------------------------------------------------------------------


def walk(scores: torch.Tensor, mask: torch.Tensor, k: int) -> list[int]:
    """The paper's words as a loop: rank 1 of heads 1…A, rank 2 of heads 1…A, …, skipping doubles."""
    n_heads, length = scores.shape
    real = [i for i in range(length) if mask[i]]
    ranked = [sorted(real, key=lambda i: (-float(scores[a, i]), i)) for a in range(n_heads)]
    taken: list[int] = []
    for rank in range(len(real)):
        for a in range(n_heads):
            if len(taken) < k and ranked[a][rank] not in taken:
                taken.append(ranked[a][rank])
    return taken


@CASES
@given(st.integers(1, 5), st.integers(1, 17), st.integers(1, 20), st.data())
def test_round_robin_equals_the_walk(n_heads, length, k, data):
    rows = st.lists(coarse | st.floats(-3, 3, width=32), min_size=length, max_size=length)
    scores = torch.tensor(data.draw(st.lists(rows, min_size=n_heads, max_size=n_heads)))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    found = round_robin_topk(scores[None], k, mask[None])
    assert listed(found, 0) == walk(scores, mask, k)
    assert found.index.shape == (1, min(k, length))


def test_round_robin_needs_depth_k_when_heads_agree_and_a_quarter_when_they_do_not():
    same = torch.linspace(1, 0, 40).expand(1, 4, 40)
    assert listed(round_robin_topk(same, 8), 0) == list(range(8))
    apart = torch.zeros(1, 4, 40)
    for head in range(4):
        apart[0, head, 10 * head : 10 * head + 10] = torch.linspace(2, 1, 10)
    assert listed(round_robin_topk(apart, 8), 0) == [0, 10, 20, 30, 1, 11, 21, 31]


def test_round_robin_is_neither_the_sum_nor_a_list_per_head():
    scores = torch.tensor([[[9.0, 0.0, 5.0, 5.5], [0.0, 9.0, 5.0, 5.5]]])
    assert listed(round_robin_topk(scores, 2), 0) == [0, 1]
    assert listed(topk(scores.sum(1), 2), 0) == [3, 2]


# --- chunks, inner products, hits ----------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 50, 10**9])
def test_every_budget_finds_the_same(budget):
    q = tiny.ramp(3, 7, 5)
    keys = tiny.ramp(3, 11, 5, scale=0.9)
    mask = torch.arange(11)[None] < torch.tensor([[11], [4], [0]])
    scores = torch.einsum("bcd,bld->bcl", q, keys)
    want = topk(scores, 6, mask[:, None])
    found = search.inner_product_topk(q, keys, 6, mask, budget=budget)
    assert torch.equal(found.index, want.index)
    assert torch.equal(found.mask, want.mask)


def test_hits_are_counted_by_event_not_by_place():
    oracle = Hits(torch.tensor([[3, 1, 5, 0]]), torch.tensor([[True, True, True, False]]))
    found = Hits(torch.tensor([[5, 9, 3, 0, 0]]), torch.tensor([[True, True, True, False, False]]))
    assert hits_at_k(found, oracle).tolist() == [2]
    assert hits_at_k(oracle, oracle).tolist() == [3]
    with pytest.raises(ValueError, match="must agree in all axes but the last"):
        hits_at_k(Hits(found.index[0], found.mask[0]), oracle)


def test_gather_brings_each_candidates_events():
    found = Hits(torch.tensor([[[2, 0], [1, 1]]]), torch.ones(1, 2, 2, dtype=torch.bool))
    assert found.gather(torch.tensor([[10, 11, 12]])).tolist() == [[[12, 10], [11, 11]]]


# --- hashing -----------------------------------------------------------------------------------


@CASES
@given(st.integers(1, 70), st.integers(0, 10**6))
def test_packed_distance_equals_counting_bits(m, seed):
    bits = torch.rand(2, 9, m, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = search.pack(bits)
    assert packed.dtype == torch.int32
    assert packed.shape == (2, 9, math.ceil(m / 32))
    assert torch.equal(search.hamming(packed[0], packed[1]), (bits[0] ^ bits[1]).sum(-1).int())


def test_signature_is_the_sign_of_the_sum():
    h = SimHash(5, 12)
    x = tiny.ramp(3, 5)
    want = [[sum(float(x[n, d]) * float(h.planes[d, i]) for d in range(5)) > 0 for i in range(12)]
            for n in range(3)]  # fmt: skip
    assert h.bits(x).tolist() == want
    inside = [[sum(float(torch.sign(x[n, d] * h.planes[d, i])) for d in range(5)) > 0
               for i in range(12)] for n in range(3)]  # fmt: skip
    assert h.bits(x).tolist() != inside  # the sign inside the sum is another function


def test_signatures_ignore_scale_and_are_the_same_every_time():
    x = tiny.ramp(20, 8)
    a = SimHash(8, 48, seed=3)
    b = SimHash(8, 48, seed=3)
    torch.randn(7)  # torch's own generator plays no part
    assert torch.equal(a(x), a(x))
    assert torch.equal(a(x), b(x))
    assert torch.equal(a(x), a(137.0 * x))
    assert not torch.equal(a(x), SimHash(8, 48, seed=4)(x))
    again = SimHash(8, 48, seed=5)
    again.load_state_dict(a.state_dict())
    assert torch.equal(a(x), again(x))


def test_distance_estimates_the_angle():
    """Mean m·θ/π, standard deviation √(m p (1 − p)) with p = θ/π: over 400 draws of 32 planes."""
    theta = 1.1
    m = 32
    draws = 400
    x = torch.tensor([[1.0, 0.0, 0.0], [math.cos(theta), math.sin(theta), 0.0]])
    d = torch.stack(
        [(lambda b: (b[0] ^ b[1]).sum())(SimHash(3, m, s).bits(x)) for s in range(draws)]
    )
    p = theta / math.pi
    spread = math.sqrt(m * p * (1 - p))
    assert abs(float(d.float().mean()) - m * p) < 4 * spread / math.sqrt(draws)
    assert abs(float(d.float().std()) / spread - 1) < 0.15


@pytest.mark.parametrize("budget", [1, 10**9])
def test_hamming_search_prefers_near_then_new_and_never_padding(budget):
    bits = torch.tensor([[[0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]]]).bool()
    mask = torch.tensor([[True, True, True, True, False]])
    query = search.pack(torch.tensor([[[0, 0, 0], [1, 1, 1]]]).bool())
    found = search.hamming_topk(query, search.pack(bits), 5, mask, budget=budget)
    assert listed(found, 0, 0) == [1, 3, 0, 2]
    assert listed(found, 0, 1) == [2, 0, 3, 1]


def test_hamming_search_errors_name_what_is_wrong():
    words = torch.zeros(1, 1, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="k is 0"):
        search.hamming_topk(words, words, 0, torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="n_bits is 0; it must be at least 1"):
        SimHash(4, 0)
    with pytest.raises(ValueError, match="width is 5; it must divide the 12 bits"):
        search.bucket_ids(torch.zeros(2, 12), 5)


# --- SDIM's tables -------------------------------------------------------------------------------


def indicator_form(s, bits_s, q_bits, mask, width):
    """SDIM word for word: one table, one event, one comparison at a time."""
    g = bits_s.shape[-1] // width
    out = torch.zeros_like(s[0])
    for table in range(g):
        cut = slice(table * width, (table + 1) * width)
        bucket = torch.zeros_like(s[0])
        for j in range(len(s)):
            if mask[j] and torch.equal(bits_s[j, cut], q_bits[cut]):
                bucket = bucket + s[j]
        norm = float(bucket.norm())
        out = out + (bucket / norm if norm > 0 else bucket) / g
    return out


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_tables_equal_the_indicator_form(width):
    h = SimHash(4, 12).double()
    s = tiny.ramp(2, 15, 4, dtype=torch.float64)
    q = tiny.ramp(2, 3, 4, dtype=torch.float64)
    mask = torch.arange(15)[None] < torch.tensor([[15], [6]])
    ids = search.bucket_ids(h.bits(s), width)
    for budget in (1, 10**9):
        tables = search.bucket_tables(ids, s * mask[..., None], 2**width, budget)
        assert tables.shape == (2, 12 // width, 2**width, 4)
        got = search.bucket_attention(tables, search.bucket_ids(h.bits(q), width))
        for b in range(2):
            for c in range(3):
                want = indicator_form(s[b], h.bits(s)[b], h.bits(q)[b, c], mask[b], width)
                torch.testing.assert_close(got[b, c], want, rtol=0, atol=1e-12)


def test_the_papers_figure_with_four_bits_in_two_tables():
    """q shares both bits of table 1 with s0 and s1, those of table 2 with s0 only."""
    bits = torch.tensor([[1, 0, 0, 1], [1, 0, 1, 1], [0, 1, 1, 0]]).bool()
    s = torch.tensor([[1.0, 2.0], [3.0, -1.0], [5.0, 5.0]])
    tables = search.bucket_tables(search.bucket_ids(bits, 2)[None], s[None], 4)
    q = search.bucket_ids(torch.tensor([[1, 0, 0, 1]]).bool(), 2)[None]
    unit = torch.nn.functional.normalize
    want = (unit(s[0] + s[1], dim=0) + unit(s[0], dim=0)) / 2
    torch.testing.assert_close(search.bucket_attention(tables, q)[0, 0], want)


def test_no_collision_gives_zeros_with_finite_gradients():
    x = torch.tensor([[[1.0, 1.0]]], requires_grad=True)
    tables = search.bucket_tables(torch.zeros(1, 1, 1, dtype=torch.long), x, 2)
    out = search.bucket_attention(tables, torch.tensor([[[1], [0]]]))
    assert out[0, 0].tolist() == [0.0, 0.0]
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_collisions_follow_one_minus_angle_to_the_width():
    """(1 − θ/π)^τ: the kernel that stands in for exp(q·s)."""
    width = 3
    n = 6000
    for cosine in (0.95, 0.5, -0.5):
        x = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
        ids = search.bucket_ids(SimHash(2, width * n, seed=1).bits(x), width)
        rate = float((ids[0] == ids[1]).float().mean())
        want = (1 - math.acos(cosine) / math.pi) ** width
        assert abs(rate - want) < 4 * math.sqrt(want * (1 - want) / n)


# --- clusters ---------------------------------------------------------------------------------


def test_kmeans_finds_separated_groups_and_is_repeatable():
    g = torch.Generator().manual_seed(0)
    group = torch.arange(300) % 5
    x = 10 * torch.eye(5)[group] + 0.1 * torch.randn(300, 5, generator=g)
    found = kmeans(x, 5, seed=3)
    pairs = {(int(a), int(b)) for a, b in zip(group, found.label, strict=True)}
    assert len(pairs) == 5
    assert torch.equal(found.label, torch.cdist(x, found.centre).argmin(-1))
    again = kmeans(x, 5, seed=3, budget=7)
    assert torch.equal(again.label, found.label)
    assert torch.equal(again.centre, found.centre)
    inertia = [kmeans(x, 3, iterations=i).inertia for i in (0, 1, 2, 8)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[0] > inertia[-1]


@pytest.mark.parametrize("far", [0.0, 1e3, 1e4, 1e5])
def test_kmeans_finds_groups_that_lie_far_from_zero(far):
    """Squares of 1e5 are rounded by 1,024 in float32, more than these groups are apart."""
    group = torch.arange(200) % 4
    x = tiny.ramp(4, 3, scale=5)[group] + tiny.ramp(200, 3, scale=0.3) + far
    found = kmeans(x, 4, iterations=20)
    assert all(len(found.label[group == g].unique()) == 1 for g in range(4))
    assert len(found.label.unique()) == 4
    torch.testing.assert_close(found.centre[found.label], _means(x, group), rtol=1e-6, atol=1e-3)


def _means(x, group):
    """(N, D): the mean of every point's own group, in float64."""
    means = torch.stack([x[group == g].double().mean(0) for g in range(4)])
    return means[group].float()


def test_kmeans_leaves_no_cluster_empty_and_takes_copies():
    x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0], [5.0]])
    assert kmeans(x, 3).label.unique().numel() == 3
    assert kmeans(torch.zeros(6, 2), 4).inertia == 0
    assert kmeans(x, 6).label.unique().numel() == 3  # no more than there are different points
    with pytest.raises(ValueError, match="must lie in 1 … 6"):
        kmeans(x, 7)
    with pytest.raises(ValueError, match="NaN"):
        kmeans(x / 0, 2)


def test_the_start_of_kmeans_spreads_the_centres_by_squared_distance():
    """No iteration: the centres are the start. A uniform draw of 8 out of 8 crowds of 1,000 points
    meets all of them with a chance of 8! / 8^8 = .0024; by distance it is next to certain."""
    crowd = torch.arange(8_000) % 8
    x = 100 * torch.eye(8)[crowd] + tiny.ramp(8_000, 8, scale=0.1)
    for seed in range(5):
        start = kmeans(x, 8, iterations=0, seed=seed)
        assert start.centre.argmax(-1).unique().numel() == 8
        assert (start.centre[:, None] == x).all(-1).any(-1).all()  # each is a point


def test_the_start_of_kmeans_draws_and_does_not_take_the_farthest():
    """From a centre at 0 the points at 1 and 3 are drawn with shares of 1/10 and 9/10."""
    x = torch.tensor([[0.0], [1.0], [3.0]])
    starts = [
        kmeans(x, 2, iterations=0, seed=seed).centre.flatten().tolist() for seed in range(900)
    ]
    from_zero = [second for first, second in starts if first == 0.0]
    assert set(from_zero) == {1.0, 3.0}
    share = from_zero.count(3.0) / len(from_zero)
    assert abs(share - 9 / 10) < 4 * math.sqrt(9 / 10**2 / len(from_zero))


def test_kmeans_repairs_a_cluster_that_loses_its_points(monkeypatch):
    """From this start the centre at 100 is nearest to nobody. Left there, three groups would share
    two centres; moved to the farthest point it finds the third group."""
    group = torch.arange(30) % 3
    x = torch.tensor([[0.0], [10.0], [20.0]])[group] + tiny.ramp(30, 1, scale=0.1)
    start = torch.tensor([[0.0], [12.0], [100.0]])
    monkeypatch.setattr(kmeans_module, "_spread", lambda x, k, generator: start.clone())
    found = kmeans(x, 3)
    assert [len(found.label[group == g].unique()) for g in range(3)] == [1, 1, 1]
    assert torch.bincount(found.label, minlength=3).tolist() == [10, 10, 10]
    for g in range(3):
        torch.testing.assert_close(found.centre[found.label[group == g]][0], x[group == g].mean(0))


def test_kmeans_gives_several_lost_centres_different_points(monkeypatch):
    x = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    start = torch.tensor([[0.0], [50.0], [60.0], [70.0]])
    monkeypatch.setattr(kmeans_module, "_spread", lambda x, k, generator: start.clone())
    found = kmeans(x, 4, iterations=2)  # the first brings three back, the second the one at 0
    assert found.label.unique().numel() == 4
