"""A user embedding that is refreshed once a day and sees no candidate (PinnerFormer's role).

In Pinterest's hybrid a batch job computes one vector per user every night (arXiv:2205.04507), and
TransAct adds what has happened since (arXiv:2306.00248, Section 3.4). Here the vector is made of the
same ingredients and with the same staleness, so that the hybrid's two halves can be told apart:
it is a function of events **before the last midnight** only.

Departures: PinnerFormer is a causal transformer over 256 actions of a year, trained on its own to
predict the actions of the next weeks. Ours is a projection of the topic histogram over the whole
given history, trained with the ranker. Chapter 01 shows why: on this world exact counts carry far
more than a learned pool. The output is scaled to unit length, as PinnerFormer's is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import trace
from ...data.schema import SECONDS_PER_DAY, DataSpec, Events, Items, Request
from ...nn import EventEmbedding
from ..pooling import UserVector
from ..registry import ModelCard, register
from .histogram import Histogram, HistogramConfig


class DailyUserEmbedding(nn.Module):
    """``v = √D · unit(W log(1 + n))`` with n the counts per topic and action before midnight.

    Args:
        embed: event embedding, for the item fields.
        spec: the data set.
        dim: D.

    Cost: one pass over the history per user and day, nothing per request. Chapter 03.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, dim: int) -> None:
        super().__init__()
        self.histogram = Histogram(embed, spec, HistogramConfig())
        self.proj = nn.Linear(self.histogram.n_keys * self.histogram.n_stats, dim)

    @staticmethod
    def refreshed(request_time: Tensor) -> Tensor:
        """(B,) seconds -> the last midnight before or at it, when the vector was computed."""
        return (request_time / SECONDS_PER_DAY).floor() * SECONDS_PER_DAY

    def forward(self, events: Events, request_time: Tensor) -> Tensor:
        """(B, L), (B,) -> (B, D). Events since midnight have no influence."""
        old = events.mask & (events.time < self.refreshed(request_time)[:, None])
        counts = self.histogram.counts(dataclasses.replace(events, mask=old))
        v = self.proj(counts.log1p().flatten(1))
        v = F.normalize(v, dim=-1) * v.shape[-1] ** 0.5
        trace.record("daily.vector", v)
        return v

    def flops(self, n_users: int) -> int:
        """Matrix-multiply FLOPs for n users."""
        return 2 * n_users * self.proj.weight.numel()


@dataclass(frozen=True)
class DailyConfig:
    """Width of the daily user embedding."""

    dim: int = 64


class Daily(nn.Module):
    """The daily embedding alone: what a ranker knows before any of today's actions.

    Hands v and ``v ⊙ W q`` to the ranker, as the hybrid does.

    Args:
        embed: event embedding.
        spec: the data set.
        config: width.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: DailyConfig) -> None:
        super().__init__()
        self.items = embed.items
        self.out_dim = 2 * config.dim
        self.user = DailyUserEmbedding(embed, spec, config.dim)
        self.match = nn.Linear(embed.items.dim, config.dim, bias=False)

    def prefill(self, request: Request) -> UserVector:
        """The daily vector, (B, dim)."""
        return UserVector(self.user(request.events, request.time))

    def score(self, state: UserVector, items: Items) -> Tensor:
        """The vector, and its product with each candidate: (B, C, 2·dim)."""
        v = state.vector[:, None].expand(-1, items.shape[1], -1)
        return torch.cat([v, v * self.match(self.items(items.id))], dim=-1)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        n = n_requests * n_candidates
        match = 2 * n * self.match.weight.numel()
        return self.user.flops(n_requests) + self.items.flops(n) + match


register(
    ModelCard(
        name="daily",
        title="daily user embedding",
        source="PinnerFormer's role in arXiv:2306.00248",
        token="one-hot topic, times what was done",
        length="the whole life before the last midnight",
        attention="none",
        reduction="L events to K topics × (A + 1) counts, to one vector",
        computed="a batch job once a day; up to a day stale",
        trained="here with the ranker; PinnerFormer is a model of its own that many rankers read",
        chapter="03",
        departures=(
            "a projected topic histogram for a causal transformer",
            "trained with the ranker",
        ),
    ),
    DailyConfig,
    Daily,
)
