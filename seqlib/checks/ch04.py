"""Checks of chapter 04, TWIN."""

from __future__ import annotations

import torch

from ._framework import Test, exercise, ramp


@exercise("E04.1")
def cross_bias(t: Test, answer) -> None:
    """One number per cross feature, added up per head and event."""
    kc = ramp(5, 3, 4)
    wc = ramp(2, 3, 4) + 0.2
    beta = ramp(2, 3) + 0.5
    want = torch.einsum("ljd,ajd,aj->al", kc, wc, beta)
    shared = torch.einsum("ljd,ajd,j->al", kc, wc, beta[0])
    mixed = torch.einsum("ljd,akd,ak->al", kc, wc, beta)
    t.close(
        "the bias",
        answer(kc, wc, beta),
        want,
        "bias[a, l] = Σ_j beta[a, j] · (kc[l, j] · wc[a, j])",
        known={
            "there is no axis of events: a constant per head, which softmax and top-k ignore": (
                want.mean(1)
            ),
            "the bias is summed over the events, a constant per head": want.sum(1),
            "beta is forgotten": torch.einsum("ljd,ajd->al", kc, wc),
            "all heads use the first head's beta": shared,
            "the bias is divided by the root of the width; only the dot product is": want / 2,
            "every feature meets every other's weights: the blocks off the diagonal are zero": mixed,
            "heads and events are swapped": want.T,
        },
    )
    only = kc.clone()
    only[:, 1:] = 0
    one = torch.einsum("ld,ad,a->al", kc[:, 0], wc[:, 0], beta[:, 0])
    t.close("the bias of the first feature alone", answer(only, wc, beta), one,
            "a feature that is zero adds nothing")  # fmt: skip


@exercise("E04.2")
def round_robin(t: Test, answer) -> None:
    """One list of k events for all heads."""
    alpha = torch.tensor(
        [
            [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0],
            [3.0, -1.0, 2.0, -4.0, 1.5, 0.0, -2.0, -3.0],
            [5.0, 8.0, 1.0, 7.0, 2.0, 3.0, 9.5, 4.0],
        ],
        dtype=torch.float64,
    )

    def lists(x):
        return x.argsort(dim=1, descending=True, stable=True)

    def walk(x, k):
        taken: list[int] = []
        for rank in range(x.shape[1]):
            for event in lists(x)[:, rank].tolist():
                head_has = (x[:, event] > -torch.inf).any()
                if len(taken) < k and event not in taken and head_has:
                    taken.append(event)
        return taken

    def greedy(x, k):
        taken: list[int] = []
        while len(taken) < k:
            for order in lists(x).tolist():
                taken.append(next(e for e in order if e not in taken))
        return taken[:k]

    def listed(got):
        if isinstance(got, torch.Tensor):
            got = got.tolist()
        return got if got is None else [int(i) for i in got]

    k = 5
    got = listed(answer(alpha, k))
    own = [e for order in lists(alpha)[:, : k // 3].tolist() for e in order]
    t.true("the list is None", got is not None, "the function returns nothing")
    for what, wrong in {
        "the heads' scores are added and the best sums taken": lists(alpha.sum(0)[None])[0, :k],
        "the best score of any head decides": lists(alpha.amax(0)[None])[0, :k],
        "a head whose event is taken moves on to its next one; its turn is lost": greedy(alpha, k),
        "each head fills a list of its own, and they are put one behind the other": own,
        "only the first head is walked": lists(alpha)[0, :k],
        "an event that is already taken is taken again": lists(alpha).T.flatten()[:k],
        "the order of collection is lost": sorted(walk(alpha, k)),
    }.items():
        t.true(f"the list {got}", got != listed(wrong), f"this is what you get when {what}")
    t.same("the list", got, walk(alpha, k),
           "rank 1 of head 1, 2, 3, then rank 2 of head 1, 2, 3, …; skip what is taken")  # fmt: skip
    padded = torch.cat([alpha[:, :3], torch.full((3, 5), -torch.inf, dtype=torch.float64)], 1)
    t.same("the list of a history of three events", listed(answer(padded, 5)), walk(padded, 5),
           "an event with −∞ does not exist and is never taken")  # fmt: skip
    alike = alpha[:1].expand(3, -1)
    t.same("the list of three heads that agree", listed(answer(alike, 4)), [0, 1, 2, 3],
           "heads that agree reach depth k")  # fmt: skip


@exercise("E04.3")
def search(t: Test, answer) -> None:
    """Padding must not be found."""
    alpha = torch.tensor([-1.0, 0.5, -2.0, -0.5, 0.7, -3.0], dtype=torch.float64)
    mask = torch.tensor([True, True, True, True, False, False])

    def listed(a, m, k):
        got = answer(a, m, k)
        t.true("the answer is None", got is not None, "the function returns nothing")
        return [int(i) for i in got]

    got = listed(alpha, mask, 3)
    multiplied = (alpha * mask).topk(3).indices.tolist()
    after = [i for i in alpha.topk(3).indices.tolist() if mask[i]]
    t.true(f"the events {got}", got != multiplied,
           "a padded score of 0 outranks every real event with a negative one")  # fmt: skip
    t.true(f"the events {got}", got != after,
           "padding is taken out after ranking, so fewer than k are left though there are enough")  # fmt: skip
    t.true(f"the events {got}", got != alpha.topk(3).indices.tolist(), "the mask is not used")
    t.same("the events", got, [1, 3, 0], "−∞ where there is no event, then the k best")
    short = listed(alpha, mask, 6)
    t.true(f"the events {short} of a history of four", all(bool(mask[i]) for i in short),
           "a history shorter than k gives all it has, and no padding")  # fmt: skip
    t.same("the events of a history of four", short, [1, 3, 0, 2],
           "a history shorter than k gives all it has")  # fmt: skip
    none = listed(alpha, torch.zeros_like(mask), 3)
    t.same("the events of an empty history", none, [], "nothing can be found in it")


@exercise("E04.4")
def search_cost(t: Test, answer) -> None:
    """Multiply-adds of the search: dense keys, split, stored."""
    size = {"L": 1_000, "C": 30, "H": 20, "J": 3, "D": 4, "A": 2, "d_k": 8}
    n, c, h, j, d, a, d_k = size.values()
    query = c * h * a * d_k
    dots = c * n * a * d_k
    bias = n * j * d * a
    keys = n * h * a * d_k
    dense = n * (h + j * d) * a * d_k + query + dots
    got = answer(n, c, h, j, d, a, d_k)
    t.true("the answer", isinstance(got, (tuple, list)) and len(got) == 3,
           "return three numbers: dense, split, stored")  # fmt: skip
    t.close(
        "the multiply-adds with dense keys",
        got[0],
        dense,
        "keys: L·(H + J·D)·A·d_k, once; queries: C·H·A·d_k; products: C·L·A·d_k",
        known={
            "the keys are projected for every candidate": dense
            + (c - 1) * n * (h + j * d) * a * d_k,
            "the products per candidate are forgotten": dense - dots,
            "the query's projection is forgotten": dense - query,
            "a multiply-add counts as two": 2 * dense,
        },
    )
    t.close(
        "the multiply-adds of the split",
        got[1],
        keys + bias + query + dots,
        "the cross part costs J·D per head and event, not (J·D)·d_k",
        known={
            "the cross part is projected to d_k numbers": dense,
            "the bias is charged per candidate": keys + c * bias + query + dots,
            "the bias is forgotten": keys + query + dots,
        },
    )
    t.close(
        "the multiply-adds with stored keys",
        got[2],
        bias + query + dots,
        "only the projection of the inherent features goes away",
        known={
            "the bias is stored as well; it is this user's and cannot be": query + dots,
            "the query is stored as well: it must be fresh": bias + dots,
            "nothing but the bias is left; the products per candidate stay": bias,
        },
    )


@exercise("E04.5")
def shortest_cycle(t: Test, answer) -> None:
    """How often may a pool of items be projected anew?"""
    pool = 6e6
    rate = 500.0
    length = 2_000.0
    share = 0.9
    want = pool / ((1 - share) * rate * length)
    t.close(
        "the seconds",
        answer(pool, rate, length, share),
        want,
        "share = 1 − (pool / cycle) / (rate · L), solved for cycle",
        atol=1e-6,
        known={
            "the share that is left is taken for the one saved": pool / (share * rate * length),
            "the histories' length is forgotten": pool / ((1 - share) * rate),
            "the share is left out: this is where a store breaks even": pool / (rate * length),
            "rows are divided by seconds: it is the projector's rate": (1 - share) * rate * length,
        },
    )
    twice = answer(pool, 2 * rate, length, share)
    t.close("the seconds at twice the traffic", twice, want / 2,
            "more traffic pays for more refreshing", atol=1e-6)  # fmt: skip


@exercise("E04.6")
def consistency(t: Test, answer) -> None:
    """Which share of the attention's own top K did the search find?"""
    found = torch.tensor([[3, 1, 0, 7], [5, 0, 0, 0], [8, 4, 6, 2]])
    found_mask = torch.tensor([[True] * 4, [True, False, False, False], [True] * 4])
    oracle = torch.tensor([[1, 3, 9], [0, 5, 0], [8, 0, 0]])
    oracle_mask = torch.tensor([[True] * 3, [True, True, False], [True, False, False]])

    def share(f, fm, o, om, of):
        same = ((o[:, :, None] == f[:, None]) & fm[:, None]).any(-1) & om
        return (same.sum(1).double() / of).mean()

    n = oracle_mask.sum(1)
    everything = torch.ones_like(found_mask)
    got = answer(found, found_mask, oracle, oracle_mask)
    t.close(
        "the consistency",
        got,
        share(found, found_mask, oracle, oracle_mask, n),
        "per row: found oracle events / the oracle's real events; then the mean over rows",
        atol=1e-6,
        known={
            "places that found nothing count as event 0": share(
                found, everything, oracle, oracle_mask, n
            ),
            "the oracle's empty places count": share(
                found, everything, oracle, torch.ones_like(oracle_mask), 3
            ),
            "it is divided by the places of the oracle, not by its events": share(
                found, found_mask, oracle, oracle_mask, 3
            ),
            "it is divided by what the search found": share(
                found, found_mask, oracle, oracle_mask, found_mask.sum(1)
            ),
            "events are compared place by place; the order is of no importance": (
                ((found[:, :3] == oracle) & oracle_mask & found_mask[:, :3]).sum(1) / n
            ).mean(),
            "the rows are pooled before dividing": share(
                found, found_mask, oracle, oracle_mask, n.double().mean()
            ),
        },
    )
    same = answer(oracle, oracle_mask, oracle, oracle_mask)
    t.close(
        "the consistency of a search with itself", same, 1.0, "an oracle finds itself", atol=1e-6
    )


@exercise("E04.7")
def gains(t: Test, answer) -> None:
    """What "+0.29 % AUC" means."""
    base = 0.7939
    new = 0.7962
    got = answer(base, new)
    t.true("the answer", isinstance(got, (tuple, list)) and len(got) == 2, "return two numbers")
    t.close(
        "the relative gain",
        got[0],
        new / base - 1,
        "new / base − 1",
        known={
            "the difference itself is taken": new - base,
            "it is divided by the better one": 1 - base / new,
            "it is given in per cent": 100 * (new / base - 1),
        },
    )
    t.close(
        "the gain above chance",
        got[1],
        (new - base) / (base - 0.5),
        "(new − base) / (base − .5): an AUC of .5 knows nothing",
        known={
            "it is divided by what is missing to 1": (new - base) / (1 - base),
            "it is divided by the better one's distance": (new - base) / (new - 0.5),
            "chance is taken for 0": new / base - 1,
            "it is given in per cent": 100 * (new - base) / (base - 0.5),
        },
    )
