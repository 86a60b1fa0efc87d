"""Every check of chapter 01 against the stub, the solution, and realistic wrong answers."""

from __future__ import annotations

import torch
from answers import suite

from solutions import ch01

SOLUTIONS = {
    "E01.1": ch01.masked_mean,
    "E01.2": ch01.recency_pool,
    "E01.3": ch01.max_pool,
    "E01.4": ch01.twins,
    "E01.5": ch01.update,
    "E01.6": ch01.pool_and_attend,
}


def weigh(x, mask, w):
    w = w * mask
    return ((w / w.sum(1, keepdim=True).clamp(min=1e-30))[..., None] * x).sum(1)


def no_fade(S, N, last, e, now, h):
    return S + e, N + 1, now


def count_does_not_fade(S, N, last, e, now, h):
    return ch01.update(S, N, last, e, now, h)[0], N + 1, now


def natural(S, N, last, e, now, h):
    fade = 1.0 if last is None else float(torch.exp(torch.tensor(-(now - last) / h).double()))
    return fade * S + e, fade * N + 1, now


A = torch.eye(2)
WRONG = [
    ("E01.1", lambda x, m: x.mean(1), "divided by L"),
    ("E01.1", lambda x, m: x.sum(1), "a sum"),
    ("E01.1", lambda x, m: x.sum(1) / m.sum(1, keepdim=True), "divided by zero"),
    (
        "E01.1",
        lambda x, m: x.sum(1) / m.sum(1, keepdim=True).clamp(min=1),
        "before adding up",
    ),
    ("E01.2", lambda x, m, a, h: ((m * 2 ** (-a / h))[..., None] * x).sum(1), "not divided by"),
    ("E01.2", lambda x, m, a, h: weigh(x, m, torch.exp(-a / h)), "a decay rate, not a half-life"),
    ("E01.2", lambda x, m, a, h: weigh(x, m, 2 ** (a / h)), "old events weigh more"),
    ("E01.2", lambda x, m, a, h: weigh(x, m, 2 ** (-a * h)), "multiplies the age"),
    ("E01.3", lambda x, m, e: (x * m[..., None]).amax(1), "wins over negative values"),
    ("E01.3", lambda x, m, e: x.masked_fill(~m[..., None], -torch.inf).amax(1), "stays at −inf"),
    ("E01.3", lambda x, m, e: ch01.max_pool(x, m, 0 * e), "becomes zero"),
    ("E01.4", lambda: (A, A.flip(0)), "not another history"),
    ("E01.4", lambda: (A, 2 * A), "both sums must agree"),
    ("E01.4", lambda: (A[:1], A[:1]), "at least two events"),
    ("E01.5", no_fade, "nothing fades"),
    ("E01.5", count_does_not_fade, "the count does not fade"),
    ("E01.5", natural, "e is used in place of 2"),
    ("E01.6", lambda C, L, D: (C * (2 * L * D + 2 * D), 4 * C * L * D), "charged per candidate"),
    ("E01.6", lambda C, L, D: (L * D + C * D, 2 * C * L * D), "counted as one"),
    ("E01.6", lambda C, L, D: (2 * L * D + 2 * C * D, 4 * L * D), "charged once"),
    ("E01.6", lambda C, L, D: 7, "return a pair"),
]


test_every_exercise_has_a_solution, test_stub_and_solution, test_wrong_answers = suite(
    "01", SOLUTIONS, WRONG
)


def test_the_recency_solution_outlasts_a_long_absence():
    """2^-a is 0 beyond 1,074 half-lives, in float64 too; shares depend on gaps alone."""
    x = torch.tensor([[[1.0], [3.0], [9.0]]] * 2, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    age = torch.tensor([[2.0, 5.0, 0.0]] * 2, dtype=torch.float64)
    want = torch.tensor([[(1 + 3 * 0.5) / 1.5], [0.0]], dtype=torch.float64)
    for away in (0.0, 600.0, 1e5):
        torch.testing.assert_close(ch01.recency_pool(x, mask, age + away * mask, 3.0), want)
