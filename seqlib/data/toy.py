"""Mira, the toy user who goes with the reader from the first chapter to the last.

Twelve named events of the last year, four interpretable embedding axes, three candidates: small
enough to compute by hand, rich enough that pooling, attention and search disagree about them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .schema import SECONDS_PER_DAY, Events, Items

AXES = ("cooking", "football", "music", "travel")
ACTIONS = ("click", "like", "share", "hide")


@dataclass(frozen=True)
class ToyEvent:
    """One event: a title, its embedding on ``AXES``, what Mira did, how many days ago."""

    title: str
    vector: tuple[float, float, float, float]
    action: int
    days_ago: float


CLICK = 1
LIKE = 2
SHARE = 4
HIDE = 8

HISTORY = (  # newest first
    ToyEvent("penalty shoot-out", (0.0, 1.0, 0.0, 0.0), CLICK, 0.01),
    ToyEvent("league table", (0.0, 0.9, 0.0, 0.1), CLICK, 0.02),
    ToyEvent("stadium songs", (0.0, 0.7, 0.7, 0.0), 0, 0.1),
    ToyEvent("five-minute pasta", (1.0, 0.0, 0.0, 0.0), CLICK | LIKE, 0.5),
    ToyEvent("transfer rumours", (0.0, 1.0, 0.0, 0.0), HIDE, 1.0),
    ToyEvent("street food in Hanoi", (0.7, 0.0, 0.0, 0.7), CLICK, 2.0),
    ToyEvent("knife skills", (0.9, 0.0, 0.1, 0.0), CLICK, 4.0),
    ToyEvent("goal of the month", (0.0, 1.0, 0.0, 0.0), CLICK, 9.0),
    ToyEvent("night train to Rome", (0.0, 0.0, 0.0, 1.0), CLICK, 30.0),
    ToyEvent("first guitar chords", (0.0, 0.0, 1.0, 0.0), CLICK | LIKE, 240.0),
    ToyEvent("tuning by ear", (0.0, 0.0, 1.0, 0.0), CLICK | LIKE | SHARE, 241.0),
    ToyEvent("fingerpicking", (0.0, 0.0, 0.9, 0.1), CLICK, 243.0),
)

CANDIDATES = (
    ToyEvent("extra time", (0.0, 1.0, 0.0, 0.0), 0, 0.0),
    ToyEvent("bread for beginners", (1.0, 0.0, 0.0, 0.0), 0, 0.0),
    ToyEvent("a new guitar song", (0.0, 0.0, 1.0, 0.0), 0, 0.0),
)


def vectors(items: tuple[ToyEvent, ...] = HISTORY) -> torch.Tensor:
    """(n, 4) float64 embeddings on ``AXES``."""
    return torch.tensor([e.vector for e in items], dtype=torch.float64)


def days_ago(items: tuple[ToyEvent, ...] = HISTORY) -> torch.Tensor:
    """(n,) float64 ages in days."""
    return torch.tensor([e.days_ago for e in items], dtype=torch.float64)


def batch(now_days: float = 400.0) -> tuple[Events, Items, torch.Tensor]:
    """Mira as a batch of one: events (1, 12), items (1, 3), request_time (1,) in seconds.

    Item ids are 2…13 for the history and 14…16 for the candidates.
    """
    n = len(HISTORY)
    now = torch.tensor([now_days * SECONDS_PER_DAY], dtype=torch.float64)
    time = now[:, None] - days_ago()[None] * SECONDS_PER_DAY
    action = torch.tensor([[e.action for e in HISTORY]])
    clicked = (action & CLICK) > 0
    events = Events(
        item=torch.arange(2, 2 + n)[None],
        action=action,
        surface=torch.zeros(1, n, dtype=torch.int64),
        time=time,
        watch=torch.where(clicked, 20.0, 2.0).float(),
        duration=torch.full((1, n), 20.0),
        mask=torch.ones(1, n, dtype=torch.bool),
    )
    return events, Items(torch.arange(2 + n, 2 + n + len(CANDIDATES))[None]), now
