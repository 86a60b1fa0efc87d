"""Checks of chapter 03, TransAct."""

from __future__ import annotations

import torch

from ._framework import Counting, Test, exercise, ramp


@exercise("E03.1")
def early_fusion(t: Test, answer) -> None:
    """Tokens that contain the candidate."""
    u = ramp(5, 4)
    c = ramp(3, 2) + 0.2
    uu = u[None].expand(3, -1, -1)
    cc = c[:, None].expand(-1, 5, -1)
    want = torch.cat([uu, cc], -1)
    first = torch.cat([c.new_zeros(3, 1, 2), c[:, None]], -1)
    t.close(
        "the tokens",
        answer(u, c),
        want,
        "repeat the actions per candidate, the candidate per action, and join the last axis",
        known={
            "the candidate stands in front of the action": torch.cat([cc, uu], -1),
            "the axes of candidates and actions are swapped": want.transpose(0, 1),
            "the candidate is appended as one more token": torch.cat([first, uu], 1),
        },
    )
    moved = answer(u, c.flip(0))
    t.close("the tokens with the candidates reversed", moved, want.flip(0), "one row per candidate")


@exercise("E03.2")
def shared_attention(t: Test, answer) -> None:
    """The factorised first layer: right, masked, stable, and without (C, L, L)."""
    n = 12
    c = 4
    d = 2
    s = ramp(n, n, scale=2.0)
    t_c = ramp(c, n, scale=2.0)
    v = ramp(n, d) + 0.5
    keys = torch.arange(n) < 9

    def plain(s, t_c, keys):
        logits = (s[None] + t_c[:, None]).masked_fill(~keys, -torch.inf)
        return torch.softmax(logits, -1) @ v

    want = plain(s, t_c, keys)
    everything = torch.ones_like(keys)
    only = torch.softmax(s.masked_fill(~keys, -torch.inf), -1)
    one_row = only.sum(-1)[None, :, None] * plain(0 * s, t_c, keys)
    t.close(
        "the attention's output",
        answer(s, t_c, v, keys),
        want,
        "A_ij = E_ij g_j / Σ_j E_ij g_j with E = exp(s), g = exp(t)",
        known={
            "the mask is forgotten": plain(s, t_c, everything),
            "the candidate's term t is left out": (only @ v)[None].expand(c, -1, -1),
            "two softmaxes are multiplied and the product is not normalised again": only
            @ (torch.softmax(t_c.masked_fill(~keys, -torch.inf), -1)[..., None] * v),
            "the shared term s is left out": one_row,
            "t is added to the queries' axis": torch.softmax(
                (s[None] + t_c[..., None]).masked_fill(~keys, -torch.inf), -1
            )
            @ v,
        },
    )
    far = answer(s + 800.0, t_c - 800.0, v, keys)
    t.close("the output with 800 added to s and taken from t", far, want,
            "exp overflows: take the largest logit out first, a row may be rescaled")  # fmt: skip
    Counting.largest = 0
    answer(*(x.as_subclass(Counting) for x in (s, t_c, v)), keys)
    t.true(
        f"a tensor of {Counting.largest} numbers was built",
        Counting.largest < c * n * n,
        f"no (C, L, L) tensor of {c * n * n} numbers is needed: multiply g into the values",
    )


@exercise("E03.3")
def strict_window(t: Test, answer) -> None:
    """Which actions may be seen: window in training, guard in evaluation."""
    age = torch.tensor(
        [[-30.0, 0.0, 10.0, 3600.0, 9000.0], [20.0, 4000.0, 4e8, 4e8, 4e8]]
    )  # time 0
    age = age.double()
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    for name, limit in (("in training with T = 3600 s", 3600.0), ("in evaluation (T = 0)", 0.0)):
        want = real & (age > limit)
        first = want.clone()
        first[:, 0] = True
        t.close(
            f"what may be seen {name}",
            answer(age, real, limit),
            want,
            "a real action that is strictly older than the limit",
            known={
                "padding is seen": age > limit,
                "the sign is turned: it is what is hidden": ~want,
                "old actions are hidden and young ones seen": real & (age < limit),
                "position 0 is always seen, even from the future": first,
                "an action of exactly the limit's age is seen; at T = 0 that is the request itself": (
                    real & (age >= limit)
                ),
                "nothing is hidden": real,
            },
        )


@exercise("E03.4")
def safe_attention(t: Test, answer) -> None:
    """A softmax with nothing to look at."""
    s = ramp(3, 4)
    v = ramp(3, 4, 2) + 0.5
    empty = torch.tensor([7.0, -7.0], dtype=torch.float64)
    keys = torch.tensor([[True] * 4, [False] * 4, [False, False, True, True]])

    def pooled(keys):
        w = torch.softmax(s.masked_fill(~keys, -torch.inf), -1)
        return torch.einsum("bl,bld->bd", w, v)

    want = torch.where(keys.any(-1, keepdim=True), pooled(keys), empty)
    got = answer(s, v, keys, empty)
    t.true("the row without a key is NaN", torch.isfinite(torch.as_tensor(got)).all(),
           "a softmax of −∞ alone is 0/0; give that row another value before or after")  # fmt: skip
    always = keys.clone()
    none = keys.clone()
    always[:, 0] = True
    none[1, 0] = True
    flat = torch.einsum("bl,bld->bd", torch.softmax(s.masked_fill(~keys, -1e9), -1), v)
    t.close(
        "the vectors",
        got,
        want,
        "rows with a key: softmax over their keys; the row without: the vector `empty`",
        known={
            "position 0 is un-masked in every row: it leaks what is hidden there": pooled(always),
            "position 0 is un-masked where nothing is visible: padding is read": pooled(none),
            "−10⁹ in place of −∞: the row without a key averages its padding": flat,
            "the row without a key is zero, not `empty`": torch.where(
                keys.any(-1, keepdim=True), pooled(keys), 0.0
            ),
            "every row is `empty`": empty.expand(3, -1),
        },
    )
    leaves = [x.clone().requires_grad_() for x in (s, v)]
    answer(*leaves, keys, empty).sum().backward()
    finite = all(x.grad is not None and torch.isfinite(x.grad).all() for x in leaves)
    t.true("the gradient has NaN", finite,
           "torch.where picks values, but 0 · NaN is NaN in backward; mend the softmax's input")  # fmt: skip


@exercise("E03.5")
def head_weights(t: Test, answer) -> None:
    """Label weights with a column for "nothing done"."""
    m = torch.tensor([[100.0, 0, 100, 1], [0, 100, 100, 2], [1, 5, 10, 3]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
    nothing = 1 - y.amax(-1, keepdim=True)
    want = torch.cat([y, nothing], -1) @ m.T
    always = torch.cat([y, torch.ones_like(nothing)], -1) @ m.T
    t.close(
        "the weights",
        answer(m, y),
        want,
        "w_h = Σ_a M[h, a] y_a, and the last column where no action was seen",
        known={
            "the column for nothing done is forgotten": y @ m[:, :3].T,
            "the column for nothing done is added to every row": always,
            "rows and columns of M are swapped": y @ m[:, :3] + nothing * m[:, 3],
            "only the head's own action counts": y * m[:, :3].diagonal() + nothing * m[:, 3],
        },
    )
    batch = answer(m, y.view(2, 2, 3))
    t.close("the weights of a batch (B, C, H)", batch, want.view(2, 2, 3), "work on the last axis")


@exercise("E03.6")
def hit_at_3(t: Test, answer) -> None:
    """HIT@3: positives among the three best of every request, per user."""
    score = torch.tensor([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [2, 1, 5, 4, 3], [1, 3, 2, 5, 4]])
    label = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 1, 0], [0, 1, 1, 1, 1], [1, 0, 1, 0, 1]])
    score = score.double()
    label = label.double()
    user = torch.tensor([7, 7, 9, 9])
    best, worst = (score.topk(3, 1, largest=x).indices for x in (True, False))
    found = label.gather(1, best).sum(1)
    t.close(
        "HIT@3",
        answer(score, label, user),
        found.sum() / 2,
        "count the positives among the three best of every request, divide by the number of users",
        known={
            "it is divided by the number of requests": found.sum() / 4,
            "a request with several hits counts once": (found > 0).double().sum() / 2,
            "the three worst are taken": label.gather(1, worst).sum() / 2,
            "it is divided by three places as well": found.sum() / 6,
            "all positives are counted, wherever they stand": label.sum() / 2,
        },
    )
    few = answer(score[:, :2], label[:, :2], user)
    t.close("HIT@3 of requests with two candidates", few, label[:, :2].sum() / 2,
            "a short request is taken whole")  # fmt: skip


@exercise("E03.7")
def attention_flops(t: Test, answer) -> None:
    """FLOPs of fused attention and of the shared first layer."""
    length = 100
    c = 500
    d = 96
    d_u = 64
    fused = c * 2 * (4 * length * d * d + 2 * length**2 * d)
    once = 2 * (3 * length * d_u * d + length**2 * d + length * d * d)
    each = 2 * (2 * (d - d_u) * d + length * d + length**2 * (d + 1) + d * d)
    pair = answer(length, c, d, d_u)
    t.true("the answer", isinstance(pair, tuple) and len(pair) == 2, "return (fused, shared)")
    t.close(
        "the FLOPs of fused attention",
        pair[0],
        fused,
        "q, k, v and W_O: 4·L·d²; Q Kᵀ and A V: 2·L²·d; all of it C times, two FLOPs each",
        known={
            "a multiply-add is counted as one": fused / 2,
            "only one candidate is counted": fused / c,
            "W_O is forgotten": c * 2 * (3 * length * d * d + 2 * length**2 * d),
        },
    )
    t.close(
        "the FLOPs with a shared first layer",
        pair[1],
        once + c * each,
        "once: q, k, v of u, S, W_O on the values; per candidate: q(c), v(c), t, E (g ⊙ V), W_O v(c)",
        known={
            "the shared part is charged per candidate": c * (once + each),
            "the candidates' part is charged once": once + each,
            "the denominators E g are forgotten": once + c * (each - 2 * length**2),
            "a multiply-add is counted as one": (once + c * each) / 2,
        },
    )
    one = answer(length, 1, d, d_u)
    t.close("the shared FLOPs of one candidate", one[1], once + each, "once plus C times each")
