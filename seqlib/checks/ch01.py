"""Checks of chapter 01, pooling."""

from __future__ import annotations

import torch

from ._framework import Test, exercise, ramp


def _life() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three users with 5, 2 and 0 events: x (3, 5, 2), mask (3, 5), age (3, 5)."""
    mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    x = (ramp(3, 5, 2) - 1.5) * mask[..., None]
    age = torch.tensor([[0.5, 1.0, 3.0, 10.0, 40.0]], dtype=torch.float64).expand(3, 5) * mask
    return x, mask, age


def _junk(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask[..., None], x, 1e3)


@exercise("E01.1")
def masked_mean(t: Test, answer) -> None:
    """Mean over real events."""
    x, mask, _ = _life()
    n = mask.sum(1, keepdim=True)
    want = x.sum(1) / n.clamp(min=1)
    t.close(
        "the pooled vectors",
        answer(x, mask),
        want,
        "add up real events and divide by their number",
        known={
            "the mask is forgotten (divided by L)": x.mean(1),
            "nothing is divided (a sum)": x.sum(1),
            "the empty history is divided by zero": x.sum(1) / n,
        },
    )
    t.close("the result when padding holds junk", answer(_junk(x, mask), mask), want,
            "multiply by the mask before adding up")  # fmt: skip


@exercise("E01.2")
def recency_pool(t: Test, answer) -> None:
    """Normalised recency weights."""
    x, mask, age = _life()

    def by(w):
        w = w * mask
        return ((w / w.sum(1, keepdim=True).clamp(min=1e-30))[..., None] * x).sum(1)

    lam = 2 ** (-age / 3.0)
    want = by(lam)
    t.close(
        "the pooled vectors",
        answer(x, mask, age, 3.0),
        want,
        "weights 2^(−age / half_life), zero on padding, divided by their sum",
        known={
            "the weights are not divided by their sum": ((lam * mask)[..., None] * x).sum(1),
            "e is used in place of 2 (a decay rate, not a half-life)": by(torch.exp(-age / 3.0)),
            "old events weigh more (the sign of the age)": by(2 ** (age / 3.0)),
            "half_life multiplies the age": by(2 ** (-age * 3.0)),
            "padding joins the sum of the weights": (
                (lam / lam.sum(1, keepdim=True))[..., None] * x
            ).sum(1),
        },
    )
    shifted = answer(x, mask, age + 7.0 * mask, 3.0)
    t.close("the result when all ages grow by a week", shifted, want, "normalised: only gaps count")


@exercise("E01.3")
def max_pool(t: Test, answer) -> None:
    """Maximum with mask and empty history."""
    x, mask, _ = _life()
    empty = torch.tensor([7.0, 8.0], dtype=torch.float64)
    want = x.masked_fill(~mask[..., None], -torch.inf).amax(1)
    bare = want.clone()
    want[2] = empty
    zero = want.clone()
    zero[2] = 0
    t.close(
        "the pooled vectors",
        answer(x, mask, empty),
        want,
        "put −inf on padding before the maximum, and `empty` where there is no event",
        known={
            "padding is multiplied by zero and wins over negative values": x.amax(1),
            "the empty history stays at −inf": bare,
            "the empty history becomes zero": zero,
        },
    )
    t.close("the result when padding holds junk", answer(_junk(x, mask), mask, empty), want,
            "padding must never be looked at")  # fmt: skip


@exercise("E01.4")
def twins(t: Test, answer) -> None:
    """Two histories that sum and max can't tell apart."""
    pair = answer()
    t.true("the answer", isinstance(pair, tuple) and len(pair) == 2, "return a pair of histories")
    a, b = (torch.as_tensor(h, dtype=torch.float64) for h in pair)
    for h in (a, b):
        t.true(f"a history of shape {tuple(h.shape)}", h.ndim == 2 and h.shape[1] == 2,
               "each is a matrix (n, 2)")  # fmt: skip
        t.true(f"a history of {len(h)} event", len(h) >= 2, "take at least two events")
    t.close("the sum of your second history", b.sum(0), a.sum(0), "both sums must agree")
    t.close("the maximum of your second history", b.amax(0), a.amax(0), "both maxima must agree")
    same = a.shape == b.shape and torch.equal(
        torch.tensor(sorted(a.tolist())), torch.tensor(sorted(b.tolist()))
    )
    t.true(
        "both histories hold the same events",
        not same,
        "another order is not another history here; move value from one event to another",
    )


@exercise("E01.5")
def update(t: Test, answer) -> None:
    """The running state against recomputation."""
    events = ramp(5, 3)
    times = (0.0, 1.0, 1.5, 6.0, 20.0)

    def run(step):
        state = (torch.zeros(3, dtype=torch.float64), 0.0, None)
        for e, now in zip(events, times, strict=True):
            state = step(*state, e, now, 4.0)
        return state

    age = times[-1] - torch.tensor(times, dtype=torch.float64)
    w = 2 ** (-age / 4.0)
    got = run(answer)
    t.true("the answer", isinstance(got, tuple) and len(got) == 3, "return (S, N, last)")
    t.close(
        "S after five events",
        got[0],
        w @ events,
        "fade the old sum by 2^(−gap / half_life), then add the event",
        known={
            "nothing fades": events.sum(0),
            "e is used in place of 2": torch.exp(-age / 4.0) @ events,
            "the new event fades too": (w @ events)
            - events[-1]
            + events[-1] * 2 ** (-(times[-1] - times[-2]) / 4.0),
        },
    )
    t.close("N after five events", got[1], w.sum(), "the count fades like the sum",
            known={"the count does not fade": 5.0})  # fmt: skip
    t.close("the time of the last event", got[2], times[-1], "return `now`")


@exercise("E01.6")
def pool_and_attend(t: Test, answer) -> None:
    """FLOPs of both designs."""
    c = 1000
    length = 200
    d = 32
    got = answer(c, length, d)
    t.true("the answer", isinstance(got, tuple) and len(got) == 2, "return a pair (pool, attend)")
    t.close(
        "FLOPs of the pool",
        got[0],
        2 * length * d + 2 * c * d,
        "2·L·D once for the sum, 2·D per candidate for its dot product",
        known={
            "the sum is charged per candidate": c * (2 * length * d + 2 * d),
            "a multiply-add is counted as one": length * d + c * d,
            "the candidates' dot products are left out": 2 * length * d,
        },
    )
    t.close(
        "FLOPs of attention",
        got[1],
        4 * c * length * d,
        "per candidate: L dot products and a weighted sum of L vectors",
        known={
            "the weighted sum is left out": 2 * c * length * d,
            "a multiply-add is counted as one": 2 * c * length * d,
            "it is charged once, not per candidate": 4 * length * d,
        },
    )
