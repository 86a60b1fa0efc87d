"""Every check of chapter 04 against the stub, the solution, and realistic wrong answers."""

from __future__ import annotations

import pytest
import torch
from answers import suite

from seqlib.checks import ramp
from seqlib.search import Hits, hits_at_k, round_robin_topk, topk
from seqlib.serving.twin_savings import (
    PAPER_CYCLE,
    PAPER_LENGTH,
    PAPER_POOL,
    PAPER_REDUCTION,
    break_even,
)
from solutions import ch04

SOLUTIONS = {
    "E04.1": ch04.cross_bias,
    "E04.2": ch04.round_robin,
    "E04.3": ch04.safe_search,
    "E04.4": ch04.search_cost,
    "E04.5": ch04.shortest_cycle,
    "E04.6": ch04.consistency,
    "E04.7": ch04.gains,
}


def constant(kc, wc, beta):
    return ch04.cross_bias(kc, wc, beta).mean(1)


def mixed(kc, wc, beta):
    return torch.einsum("ljd,akd,ak->al", kc, wc, beta)


def moves_on(alpha, k):
    taken: list[int] = []
    order = alpha.argsort(dim=1, descending=True, stable=True).tolist()
    while len(taken) < k:
        for row in order:
            taken.append(next(e for e in row if e not in taken))
    return taken[:k]


def finds_padding(alpha, k):
    taken: list[int] = []
    for rank in alpha.argsort(dim=1, descending=True, stable=True).T:
        taken += [e for e in dict.fromkeys(rank.tolist()) if e not in taken]
    return taken[:k]


def multiplied(alpha, mask, k):
    return (alpha * mask).topk(min(k, len(alpha))).indices


def masked_after(alpha, mask, k):
    best = alpha.topk(min(k, len(alpha))).indices
    return best[mask[best]]


def all_places(alpha, mask, k):
    return alpha.masked_fill(~mask, -torch.inf).topk(min(k, len(alpha))).indices


def costs(part, change):
    """The right answer with one of its numbers changed."""

    def answer(*size):
        got = list(ch04.search_cost(*size))
        got[part] = change(got[part], *size)
        return tuple(got)

    return answer


def pads_count(found, found_mask, oracle, oracle_mask):
    return ch04.consistency(found, torch.ones_like(found_mask), oracle, oracle_mask)


def place_by_place(found, found_mask, oracle, oracle_mask):
    same = (found[:, : oracle.shape[1]] == oracle) & oracle_mask & found_mask[:, : oracle.shape[1]]
    return (same.sum(1) / oracle_mask.sum(1)).mean()


def by_places(found, found_mask, oracle, oracle_mask):
    seen = (oracle[:, :, None] == found[:, None]) & found_mask[:, None] & oracle_mask[..., None]
    return (seen.any(-1).sum(1) / oracle.shape[1]).mean()


WRONG = [
    ("E04.1", constant, "softmax and top-k ignore"),
    ("E04.1", mixed, "off the diagonal are zero"),
    ("E04.1", lambda kc, wc, b: torch.einsum("ljd,ajd->al", kc, wc), "beta is forgotten"),
    ("E04.1", lambda kc, wc, b: ch04.cross_bias(kc, wc, b) / 2, "only the dot product"),
    ("E04.1", lambda kc, wc, b: ch04.cross_bias(kc, wc, b[:1].expand(2, -1)), "first head's beta"),
    ("E04.1", lambda kc, wc, b: ch04.cross_bias(kc, wc, b).T, "heads and events are swapped"),
    ("E04.1", lambda kc, wc, b: None, "returns nothing"),
    ("E04.2", lambda a, k: a.sum(0).topk(k).indices, "scores are added"),
    (
        "E04.2",
        lambda a, k: a.amax(0).argsort(descending=True, stable=True)[:k],
        "best score of any",
    ),
    ("E04.2", moves_on, "its turn is lost"),
    ("E04.2", finds_padding, "history of three events"),
    ("E04.2", lambda a, k: a[0].topk(k).indices, "only the first head"),
    ("E04.2", lambda a, k: sorted(ch04.round_robin(a, k)), "order of collection is lost"),
    ("E04.2", lambda a, k: None, "returns nothing"),
    ("E04.3", multiplied, "outranks every real event"),
    ("E04.3", masked_after, "taken out after ranking"),
    ("E04.3", all_places, "and no padding"),
    ("E04.3", lambda a, m, k: a.topk(k).indices, "the mask is not used"),
    ("E04.3", lambda a, m, k: None, "returns nothing"),
    ("E04.4", lambda *s: ch04.search_cost(*s)[0], "return three numbers"),
    ("E04.4", lambda *s: tuple(2 * x for x in ch04.search_cost(*s)), "counts as two"),
    (
        "E04.4",
        costs(0, lambda n, L, C, H, J, D, A, d_k: n + (C - 1) * L * (H + J * D) * A * d_k),
        "for every candidate",
    ),
    (
        "E04.4",
        costs(0, lambda n, L, C, H, J, D, A, d_k: n - C * L * A * d_k),
        "products per candidate",
    ),
    ("E04.4", costs(1, lambda n, *s: ch04.search_cost(*s)[0]), "projected to d_k"),
    ("E04.4", costs(2, lambda n, L, C, H, J, D, A, d_k: n - C * H * A * d_k), "must be fresh"),
    ("E04.4", costs(2, lambda n, L, C, H, J, D, A, d_k: n - L * J * D * A), "bias is stored"),
    ("E04.5", lambda p, r, L, s: p / (s * r * L), "for the one saved"),
    ("E04.5", lambda p, r, L, s: p / ((1 - s) * r), "length is forgotten"),
    ("E04.5", lambda p, r, L, s: p / (r * L), "breaks even"),
    ("E04.5", lambda p, r, L, s: (1 - s) * r * L, "projector's rate"),
    ("E04.6", pads_count, "count as event 0"),
    ("E04.6", place_by_place, "place by place"),
    ("E04.6", by_places, "not by its events"),
    ("E04.6", lambda f, fm, o, om: 0, "expected"),
    ("E04.7", lambda a, b: (b - a, (b - a) / (a - 0.5)), "difference itself"),
    ("E04.7", lambda a, b: (b / a - 1, (b - a) / (1 - a)), "missing to 1"),
    ("E04.7", lambda a, b: (b / a - 1, b / a - 1), "chance is taken for 0"),
    ("E04.7", lambda a, b: b / a - 1, "return two numbers"),
]


test_every_exercise_has_a_solution, test_stub_and_solution, test_wrong_answers = suite(
    "04", SOLUTIONS, WRONG
)


def test_the_walk_is_the_librarys_round_robin():
    alpha = ramp(4, 50)
    for k in (1, 7, 50):
        want = round_robin_topk(alpha[None], k)
        assert ch04.round_robin(alpha, k) == want.index[0][want.mask[0]].tolist()


def test_the_search_is_the_librarys():
    alpha, mask = ramp(30), torch.arange(30) < 11
    for k in (5, 20):
        want = topk(alpha, k, mask)
        assert ch04.safe_search(alpha, mask, k).tolist() == want.index[want.mask].tolist()


def test_the_cycle_is_the_papers_at_the_rate_that_explains_it():
    rate = break_even(PAPER_POOL, PAPER_CYCLE, reduction=PAPER_REDUCTION)
    got = ch04.shortest_cycle(PAPER_POOL, rate, PAPER_LENGTH, PAPER_REDUCTION)
    assert got == pytest.approx(PAPER_CYCLE)


def test_consistency_counts_as_the_library_does():
    found = Hits(
        torch.tensor([[3, 1, 0], [2, 0, 0]]), torch.tensor([[True] * 3, [True, False, False]])
    )
    oracle = Hits(torch.tensor([[1, 4], [0, 2]]), torch.ones(2, 2, dtype=torch.bool))
    want = (hits_at_k(found, oracle) / 2).mean()
    got = ch04.consistency(found.index, found.mask, oracle.index, oracle.mask)
    assert float(got) == pytest.approx(float(want))
