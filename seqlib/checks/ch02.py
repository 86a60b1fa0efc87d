"""Checks of chapter 02, DIN."""

from __future__ import annotations

import torch

from ._framework import Counting, Test, exercise, ramp


@exercise("E02.1")
def target_pool(t: Test, answer) -> None:
    """Masked, unnormalised target attention with dot products."""
    q = ramp(3, 4)
    k = ramp(6, 4) + 0.3
    mask = torch.tensor([True, True, True, True, False, False])
    w = q @ k.T
    want = (w * mask) @ k
    got = answer(q, k, mask)
    t.close(
        "the user vectors",
        got,
        want,
        "weight every event by its dot product with the candidate, then add the events up",
        known={
            "the mask is forgotten": w @ k,
            "the weights go through a softmax": torch.softmax(w.masked_fill(~mask, -torch.inf), -1)
            @ k,
            "candidate and event axes are swapped": ((w * mask) @ k).T,
            "the sum is divided by the number of events": want / mask.sum(),
        },
    )
    t.close(
        "the vector of an empty history",
        answer(q, k, torch.zeros(6, dtype=torch.bool)),
        torch.zeros(3, 4),
        "with every event masked the sum is zero",
    )
    twice = answer(q, torch.cat([k, k]), torch.cat([mask, mask]))
    t.close("the vector of a history repeated twice", twice, 2 * want, "weights must not be shared")


@exercise("E02.2")
def first_layer(t: Test, answer) -> None:
    """The factorised first layer: right, and without the pair tensor."""
    c = 3
    length = 5
    d = 8
    h = 2
    q = ramp(c, d)
    k = ramp(length, d) - 0.2
    w = ramp(h, 4 * d)
    b = ramp(h) + 0.5
    qq = q[None].expand(length, c, d)
    kk = k[:, None].expand(length, c, d)
    want = torch.cat([qq, kk, qq - kk, qq * kk], -1) @ w.T + b
    w1, w2, w3, w4 = w.split(d, dim=1)
    product = torch.einsum("cd,ld,hd->lch", q, k, w4)
    sign = product + (q @ (w1 + w3).T)[None] + (k @ (w2 + w3).T + b)[:, None]
    t.close(
        "the first layer",
        answer(q, k, w, b),
        want,
        "W splits into four blocks of D columns: q, k, q − k, q ⊙ k",
        known={
            "the bias is forgotten": want - b,
            "the sign of W3 is wrong on the event's side": sign,
            "the product term is left out": want - product,
            "the axes of events and candidates are swapped": want.transpose(0, 1),
        },
    )
    Counting.largest = 0
    args = [x.as_subclass(Counting) for x in (q, k, w, b)]
    answer(*args)
    limit = length * c * d
    t.true(
        f"a tensor of {Counting.largest} numbers was built",
        Counting.largest < 2 * limit,
        f"the (L, C, 4D) tensor of {4 * limit} numbers must never exist; factorise first",
    )


@exercise("E02.3")
def softmax_blind(t: Test, answer) -> None:
    """Two histories that only unnormalised attention tells apart."""
    pair = answer()
    t.true("the answer", isinstance(pair, tuple) and len(pair) == 2, "return a pair (k1, k2)")
    q = torch.tensor([1.0, 0.0], dtype=torch.float64)
    soft = []
    raw = []
    for k in pair:
        k = torch.as_tensor(k, dtype=torch.float64)
        t.true(f"a history of shape {tuple(k.shape)}", k.ndim == 2 and k.shape[1] == 2,
               "each history is a matrix (n, 2)")  # fmt: skip
        soft.append(torch.softmax(k @ q, 0) @ k)
        raw.append((k @ q) @ k)
    t.close("softmax attention on your second history", soft[1], soft[0],
            "softmax attention must give both the same vector; keep every event's share")  # fmt: skip
    t.true(
        "both histories give the same vector without softmax too",
        not torch.allclose(raw[0], raw[1]),
        "change the amount of evidence, for example by repeating all events",
    )


@exercise("E02.4")
def dice(t: Test, answer) -> None:
    """Dice's statistics: over real events, per neuron."""
    s = ramp(2, 4, 3, scale=2.0) + 1.0
    alpha = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    s = s * mask[..., None]

    def by(mean, var):
        p = torch.sigmoid((s - mean) / torch.sqrt(var + 1e-8))
        return p * s + (1 - p) * alpha * s

    real = s[mask]
    flat = s.reshape(-1, 3)
    t.close(
        "Dice of a batch with padding",
        answer(s, mask, alpha),
        by(real.mean(0), real.var(0, unbiased=False)),
        "mean and variance per neuron, over real events only",
        known={
            "padding enters the statistics": by(flat.mean(0), flat.var(0, unbiased=False)),
            "the mean runs over the neurons of one event": by(
                s.mean(-1, keepdim=True), s.var(-1, keepdim=True, unbiased=False)
            ),
            "the variance is divided by n − 1 (the batch's own spread is meant)": by(
                real.mean(0), real.var(0)
            ),
            "1 − p is not multiplied with s": (
                torch.sigmoid((s - real.mean(0)) / torch.sqrt(real.var(0, unbiased=False) + 1e-8))
                * s
            ),
        },
    )
    junk = torch.where(mask[..., None], s, 1e3)
    t.close("real outputs after changing the padding", answer(junk, mask, alpha)[mask],
            answer(s, mask, alpha)[mask], "whatever stands in padding must not matter")  # fmt: skip


@exercise("E02.5")
def mba_decay(t: Test, answer) -> None:
    """Mini-batch aware decay of a table."""
    table = ramp(6, 2) + 2.0
    ids = torch.tensor([1, 3, 3, 0])
    n = torch.tensor([1.0, 1.0, 2.0, 10.0, 100.0, 5.0], dtype=torch.float64)
    before = table.clone()

    def decayed(rows, times=1.0, count=n):
        out = before.clone()
        out[rows] -= times * 0.1 * 0.5 / count[rows, None] * before[rows]
        return out

    want = decayed(torch.tensor([1, 3]))
    twice = decayed(torch.tensor([1, 3]))
    twice[3] = decayed(torch.tensor([3]), 2.0)[3]
    t.close(
        "the table after one step",
        answer(table, ids, n, 0.1, 0.5),
        want,
        "w_j loses lr · λ / n_j · w_j if the batch holds j",
        known={
            "every row decays, seen or not": decayed(torch.arange(6)),
            "padding (id 0) decays too": decayed(torch.tensor([0, 1, 3])),
            "an id that occurs twice decays twice": twice,
            "the rarity 1 / n_j is forgotten": decayed(torch.tensor([1, 3]), 1.0, torch.ones(6)),
            "nothing decays": before,
        },
    )


@exercise("E02.6")
def max_candidates(t: Test, answer) -> None:
    """Candidates that fit a budget."""
    length = 100
    d = 32
    h1 = 32
    h2 = 16
    once = 2 * length * d * h1
    pair = 2 * length * (d * h1 + h1 * h2 + h2)
    per = 2 * d * h1 + pair
    for budget in (1e9, once + 3 * per, once + 3 * per - 1):
        want = int((budget - once) // per)
        t.close(
            f"candidates within {budget:.4g} FLOPs",
            answer(budget, length, d, h1, h2),
            want,
            "once: 2·L·D·h1; per candidate: 2·D·h1 + 2·L·(D·h1 + h1·h2 + h2)",
            known={
                "the event side is charged per candidate": int(budget // (per + once)),
                "a multiply-add is counted as one": int((2 * budget - once) // per),
                "the event side is free": int(budget // per),
            }
            if budget == 1e9
            else None,
        )
    t.close("candidates without any budget", answer(0, length, d, h1, h2), 0, "never below zero")


@exercise("E02.7")
def share_left(t: Test, answer) -> None:
    """What a correction leaves of a published gain."""
    base = 0.8624
    published = 0.8818
    corrected = 0.8698
    want = (corrected - base) / (published - base)
    t.close(
        "the share of DIN's gain that is left",
        answer(base, published, corrected),
        want,
        "divide the corrected RelaImpr by the published one",
        known={
            "the two AUCs are divided": corrected / published,
            "½ is not subtracted (the ratio of ratios over AUC)": (corrected / base)
            / (published / base),
            "it is what was lost, not what is left": 1 - want,
            "the answer is in percent": 100 * want,
        },
    )
    t.close(
        "the share when nothing changed", answer(0.6, 0.65, 0.65), 1.0, "an unchanged gain is 1"
    )
