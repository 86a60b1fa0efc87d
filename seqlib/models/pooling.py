"""Pooling: one vector per user, whatever the candidate.

``v = Σ_j w_j e_j`` with weights that see no candidate: 1 (sum), 1/n (mean), λ^age (recency), or a
maximum per coordinate. Cost O(L·d) once per request. Every long-sequence model of the course is
an answer to what this loses.

Sources: average pooling as in the Embedding & MLP base model (DIN, arXiv:1706.06978, Eq. 1); the
recency forms are standard practice without a canonical reference.

Departures: the pool is given to the ranker twice, as v and as v ⊙ q with the candidate's item
vector q, because the product is what a two-tower dot product would see; empty histories get a
learned vector where the formula is undefined (mean, max, normalised recency).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .. import trace
from ..data.schema import SECONDS_PER_DAY, DataSpec, Events, Items, Request
from ..data.tensors import Tensors
from ..nn import EventEmbedding
from .registry import WITH_THE_RANKER, ModelCard, register, variant

Kind = Literal["sum", "mean", "max", "recency"]


def recency_weights(age: Tensor, half_life: float) -> Tensor:
    """``λ^age`` with ``λ = 2^(−1/half_life)``: an event one half-life old counts one half.

    Args:
        age: any shape, ≥ 0, in the unit of ``half_life``.
        half_life: > 0.

    Raises:
        ValueError: ``half_life`` is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"half_life is {half_life}; it must be positive")
    return torch.exp2(-age / half_life)


def pool_weights(
    kind: Kind,
    mask: Tensor,
    age: Tensor | None = None,
    half_life: float = 7.0,
    norm: bool = True,
) -> Tensor:
    """The weight of every event in a weighted-sum pool; all but ``max`` are one.

    Args:
        kind: "sum", "mean" or "recency".
        mask: (B, L) bool, True = real.
        age: (B, L), needed by "recency".
        half_life: in the unit of ``age``.
        norm: for "recency", divide by the sum of the weights. Ages are then counted from the row's
            newest event, which changes no share: λ^age itself is 0 in float32 beyond 149
            half-lives, and a user who comes back after so long would have no history.

    Returns:
        (B, L) float, zero where there is no event; rows without events are all zero.

    Built in chapter 01.
    """
    w = mask.to(torch.get_default_dtype() if age is None else age.dtype)
    if kind == "recency":
        if age is None:
            raise ValueError("recency pooling needs the events' ages")
        age = age.clamp_min(0).masked_fill(~mask, torch.inf)
        if norm and age.numel():
            newest = age.amin(-1, keepdim=True)
            age = age - newest.where(mask.any(-1, keepdim=True), 0.0)
        w = recency_weights(age, half_life)
    elif kind not in ("sum", "mean"):
        raise ValueError(f"kind is {kind!r}; a weighted pool is 'sum', 'mean' or 'recency'")
    if kind == "mean" or (kind == "recency" and norm):
        w = w / w.sum(-1, keepdim=True).clamp_min(
            1
        )  # the sum is below 1 only where there is no event
    return w


def max_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """Largest value of each coordinate over real events: (B, L, D), (B, L) -> (B, D).

    Padding is −inf before the maximum; rows without events come out as −inf, to be replaced.
    """
    return tokens.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)


@dataclass(frozen=True, eq=False)
class UserVector(Tensors):
    """What an encoder that sees no candidate makes of a history: (B, D)."""

    vector: Tensor


@dataclass(frozen=True)
class PoolingConfig:
    """Which pool.

    Attributes:
        kind: "sum", "mean", "max" or "recency".
        half_life: days, for "recency".
        normalise: divide recency weights by their sum.
        product: add v ⊙ q to the output.
    """

    kind: Kind = "mean"
    half_life: float = 7.0
    normalise: bool = True
    product: bool = True


class Pooling(nn.Module):
    """Pools the history once and hands the same vector to every candidate.

    Args:
        embed: event embedding.
        spec: the data set.
        config: which pool.

    Cost: O(L·D) per request, independent of C. Built in chapter 01.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: PoolingConfig) -> None:
        super().__init__()
        if config.kind not in ("sum", "mean", "max", "recency"):
            raise ValueError(f"kind is {config.kind!r}; one of sum, mean, max, recency")
        self.embed = embed
        self.config = config
        dim = embed.items.dim
        self.out_dim = 2 * dim if config.product else dim
        self.empty = nn.Parameter(torch.zeros(dim))  # stands for "no history"

    def pool(self, events: Events, request_time: Tensor) -> Tensor:
        """(B, L), (B,) seconds -> (B, D): the user's one vector."""
        c = self.config
        e = self.embed(events, request_time)
        if c.kind == "max":
            v = max_pool(e, events.mask)
        else:
            # Ages stay in float64 until they are weights: float32 counts a year only to 3 seconds.
            age = (request_time[:, None] - events.time) / SECONDS_PER_DAY
            w = pool_weights(c.kind, events.mask, age, c.half_life, c.normalise).to(e.dtype)
            trace.record("pool.weights", w)
            v = (w[:, None] @ e)[:, 0]  # (B, 1, L) @ (B, L, D)
        is_plain_sum = c.kind == "sum" or (c.kind == "recency" and not c.normalise)
        if is_plain_sum:  # then an empty history has a value, 0
            return v
        return torch.where(events.mask.any(-1, keepdim=True), v, self.empty)

    def prefill(self, request: Request) -> UserVector:
        """The pool, (B, D)."""
        return UserVector(self.pool(request.events, request.time))

    def score(self, state: UserVector, items: Items) -> Tensor:
        """The pool for every candidate, and its product with each: (B, C, out_dim)."""
        v = state.vector[:, None].expand(-1, items.shape[1], -1)
        if not self.config.product:
            return v
        return torch.cat([v, v * self.embed.items(items.id)], dim=-1)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs; the maximum multiplies nothing."""
        items = self.embed.items
        weighted = 0 if self.config.kind == "max" else 2 * n_requests * length * items.dim
        product = items.flops(n_requests * n_candidates) if self.config.product else 0
        return self.embed.flops(n_requests, length) + weighted + product


register(
    ModelCard(
        name="sum_pooling",
        title="sum pooling",
        source="DIN (arXiv:1706.06978), Eq. 1, sum",
        token="item fields, content, action set, age and rank, summed",
        length="any; 50–200 is usual where a pool is all there is",
        attention="none: weights see no candidate",
        reduction="L × D to one D-vector per user",
        computed="online per request, or kept as a running state and updated per event",
        trained=WITH_THE_RANKER,
        chapter="01",
        departures=(
            "the ranker also gets v ⊙ q",
            "empty histories get a learned vector where the pool is undefined",
        ),
    ),
    PoolingConfig,
    Pooling,
    kind="sum",
)
variant(
    "sum_pooling",
    "mean_pooling",
    "mean pooling",
    card={"source": "DIN (arXiv:1706.06978), Eq. 1, average"},
    kind="mean",
)
for _kind in ("max", "recency"):
    variant(
        "sum_pooling",
        f"{_kind}_pooling",
        f"{_kind} pooling",
        card={"source": "standard practice"},
        kind=_kind,
    )
