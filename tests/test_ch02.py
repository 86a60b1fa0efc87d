"""Every check of chapter 02 against the stub, the solution, and realistic wrong answers."""

from __future__ import annotations

import torch
from answers import suite

from solutions import ch02

SOLUTIONS = {
    "E02.1": ch02.target_pool,
    "E02.2": ch02.first_layer,
    "E02.3": ch02.softmax_blind,
    "E02.4": ch02.dice,
    "E02.5": ch02.mba_decay,
    "E02.6": ch02.max_candidates,
    "E02.7": ch02.share_left,
}


def pairs(q, k, w, b):
    qq, kk = q[None].expand(len(k), *q.shape), k[:, None].expand(-1, *q.shape)
    return torch.cat([qq, kk, qq - kk, qq * kk], -1) @ w.T + b


def wrong_sign(q, k, w, b):
    w1, w2, w3, w4 = w.split(q.shape[-1], dim=1)
    return (
        torch.einsum("cd,ld,hd->lch", q, k, w4) + (q @ (w1 + w3).T) + (k @ (w2 + w3).T + b)[:, None]
    )


def all_rows(table, ids, n, lr, lam):
    return table * (1 - lr * lam / n[:, None])


def with_padding(table, ids, n, lr, lam):
    out, rows = table.clone(), ids.unique()
    out[rows] -= lr * lam / n[rows, None] * table[rows]
    return out


def twice(table, ids, n, lr, lam):
    out = table.clone()
    for j in ids[ids != 0]:
        out[j] -= lr * lam / n[j] * table[j]
    return out


def dice_padded(s, mask, alpha):
    return ch02.dice(s, torch.ones_like(mask), alpha)


def dice_rows(s, mask, alpha, eps=1e-8):
    p = torch.sigmoid(
        (s - s.mean(-1, keepdim=True)) / (s.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    )
    return p * s + (1 - p) * alpha * s


def dice_unbiased(s, mask, alpha, eps=1e-8):
    real = s[mask]
    p = torch.sigmoid((s - real.mean(0)) / (real.var(0) + eps).sqrt())
    return p * s + (1 - p) * alpha * s


ONE = torch.tensor([[1.0, 0.0]])
WRONG = [
    ("E02.1", lambda q, k, m: (q @ k.T) @ k, "mask is forgotten"),
    (
        "E02.1",
        lambda q, k, m: torch.softmax((q @ k.T).masked_fill(~m, -torch.inf), -1) @ k,
        "softmax",
    ),
    ("E02.1", lambda q, k, m: ch02.target_pool(q, k, m).T, "axes are swapped"),
    ("E02.1", lambda q, k, m: None, "returns nothing"),
    ("E02.2", pairs, "must never exist"),
    ("E02.2", wrong_sign, "sign of W3"),
    ("E02.2", lambda q, k, w, b: ch02.first_layer(q, k, w, 0 * b), "bias is forgotten"),
    ("E02.3", lambda: (ONE, 2 * ONE), "must give both the same vector"),
    ("E02.3", lambda: (ONE, ONE), "same vector without softmax too"),
    ("E02.3", lambda: ONE, "return a pair"),
    ("E02.4", dice_padded, "padding enters the statistics"),
    ("E02.4", dice_rows, "over the neurons of one event"),
    ("E02.4", dice_unbiased, "divided by n − 1"),
    ("E02.5", all_rows, "every row decays"),
    ("E02.5", with_padding, "padding (id 0) decays"),
    ("E02.5", twice, "occurs twice decays twice"),
    ("E02.6", lambda x, L, D, a, b: int(x // (2 * L * (D * a + a * b + b) + 2 * D * a)), "is free"),
    (
        "E02.6",
        lambda x, L, D, a, b: int(x // (2 * L * (2 * D * a + a * b + b) + 2 * D * a)),
        "charged per candidate",
    ),
    ("E02.6", lambda x, L, D, a, b: ch02.max_candidates(2 * x, L, D, a, b), "within 1e+09"),
    ("E02.7", lambda b, p, c: c / p, "two AUCs are divided"),
    ("E02.7", lambda b, p, c: 1 - ch02.share_left(b, p, c), "what was lost"),
    ("E02.7", lambda b, p, c: 100 * ch02.share_left(b, p, c), "in percent"),
    ("E02.7", lambda b, p, c: 1 / 0, "raised ZeroDivisionError"),
]


test_every_exercise_has_a_solution, test_stub_and_solution, test_wrong_answers = suite(
    "02", SOLUTIONS, WRONG
)
