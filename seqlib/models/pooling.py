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
from ..data.schema import SECONDS_PER_DAY, DataSpec, Events, Items
from ..nn import EventEmbedding
from .registry import ModelCard, register

Kind = Literal["sum", "mean", "max", "recency"]


def recency_weights(age: Tensor, half_life: float) -> Tensor:
    """``λ^age`` with ``λ = 2^(−1/half_life)``: an event one half-life old counts one half.

    Args:
        age: any shape, ≥ 0, in the unit of ``half_life``. half_life: > 0.

    Raises:
        ValueError: ``half_life`` is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"half_life is {half_life}; it must be positive")
    return torch.exp2(-age / half_life)


def pool_weights(
    kind: Kind, mask: Tensor, age: Tensor | None = None, half_life: float = 7.0, norm: bool = True
) -> Tensor:
    """The weight of every event in a weighted-sum pool; all but ``max`` are one.

    Args:
        kind: "sum", "mean" or "recency". mask: (B, L) bool, True = real.
        age: (B, L), needed by "recency". half_life: in the unit of ``age``.
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
        w = w / w.sum(-1, keepdim=True).clamp_min(1)  # below 1 only where there is no event
    return w


def max_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """Largest value of each coordinate over real events: (B, L, D), (B, L) -> (B, D).

    Padding is −inf before the maximum; rows without events come out as −inf, to be replaced.
    """
    return tokens.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)


@dataclass(frozen=True)
class PoolingConfig:
    """Which pool.

    Attributes:
        kind: "sum", "mean", "max" or "recency". half_life: days, for "recency".
        normalise: divide recency weights by their sum. product: add v ⊙ q to the output.
    """

    kind: Kind = "mean"
    half_life: float = 7.0
    normalise: bool = True
    product: bool = True


class Pooling(nn.Module):
    """Pools the history once and hands the same vector to every candidate.

    Args:
        embed: event embedding. spec: the data set. config: which pool.

    Cost: O(L·D) per request, independent of C. Built in chapter 01.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: PoolingConfig) -> None:
        super().__init__()
        if config.kind not in ("sum", "mean", "max", "recency"):
            raise ValueError(f"kind is {config.kind!r}; one of sum, mean, max, recency")
        self.embed, self.config = embed, config
        dim = embed.items.dim
        self.out_dim = 2 * dim if config.product else dim
        self.empty = nn.Parameter(torch.zeros(dim))  # "no history"

    def pool(self, events: Events, request_time: Tensor) -> Tensor:
        """(B, D): the user's one vector."""
        e = self.embed(events, request_time)
        if self.config.kind == "max":
            v = max_pool(e, events.mask)
        else:
            age = (request_time[:, None] - events.time) / SECONDS_PER_DAY
            w = pool_weights(
                self.config.kind,
                events.mask,
                age,
                self.config.half_life,
                self.config.normalise,
            ).to(e.dtype)  # float32 counts a year only to 3 seconds
            trace.record("pool.weights", w)
            v = (w[:, None] @ e)[:, 0]
        defined = self.config.kind == "sum" or not (
            self.config.normalise or self.config.kind != "recency"
        )
        if defined:
            return v
        return torch.where(events.mask.any(-1, keepdim=True), v, self.empty)

    def forward(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, L), (B, C), (B,) -> (B, C, out_dim)."""
        v = self.pool(events, request_time)[:, None].expand(-1, items.shape[1], -1)
        if not self.config.product:
            return v
        return torch.cat([v, v * self.embed.items(items.id)], dim=-1)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs; the maximum multiplies nothing."""
        items = self.embed.items
        weighted = 0 if self.config.kind == "max" else 2 * n_requests * length * items.dim
        product = items.flops(n_requests * n_candidates) if self.config.product else 0
        return self.embed.flops(n_requests, length) + weighted + product


@dataclass(frozen=True)
class HistogramConfig:
    """A pooled histogram over the key field's values.

    Attributes:
        field: item field to count by; None is the data set's key field.
    """

    field: str | None = None


class Histogram(nn.Module):
    """Counts events and actions per topic once; a candidate looks up the counts of its own topic.

    This is a sum pool over one-hot topics: K·(A + 1) numbers in place of D. For a candidate of
    topic k it returns ``log(1 + n_k,a)``, ``n_k,a / n`` and ``log(1 + n_a)`` for a = shown and
    every action. It has no trained weight, sees neither order nor age, and is the baseline a
    learned pool has to be read against.

    Args:
        embed: event embedding (for the item fields). spec: the data set. config: which field.

    Cost: O(L) once per request, O(1) per candidate, 4·K·(A + 1) bytes of state. Chapter 01.
    """

    bits: Tensor

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: HistogramConfig) -> None:
        super().__init__()
        self.field = config.field or spec.key_field
        if self.field not in spec.items.fields:
            raise ValueError(f"no field {self.field!r}; there are {list(spec.items.fields)}")
        self.items, self.n_keys = embed.items, spec.items.sizes[self.field]
        self.n_stats = len(spec.actions) + 1
        self.register_buffer("bits", 2 ** torch.arange(len(spec.actions)), persistent=False)
        self.out_dim = 3 * self.n_stats

    def counts(self, events: Events) -> Tensor:
        """(B, K, A + 1): how often each value was shown, and got each action."""
        keys = self.items.field_ids(self.field, events.item)
        acted = (events.action[..., None] & self.bits) > 0
        stats = torch.cat([torch.ones_like(acted[..., :1]), acted], dim=-1)
        stats = (stats & events.mask[..., None]).to(self.items.proj.weight.dtype)
        out = stats.new_zeros(len(keys), self.n_keys, self.n_stats)
        return out.scatter_add_(1, keys[..., None].expand_as(stats), stats)

    def forward(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, L), (B, C), (B,) -> (B, C, 3·(A + 1))."""
        table = self.counts(events)
        keys = self.items.field_ids(self.field, items.id)[..., None]
        mine = table.gather(1, keys.expand(-1, -1, self.n_stats))
        total = table.sum(1, keepdim=True).expand_as(mine)
        share = mine / total[..., :1].clamp_min(1)
        return torch.cat([mine.log1p(), share, total.log1p()], dim=-1)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Counting multiplies no matrices."""
        return 0


@dataclass(frozen=True)
class NoHistoryConfig:
    """Item and context only has nothing to choose."""


class NoHistory(nn.Module):
    """Item and context only: the baseline that every history has to beat. Returns (B, C, 0)."""

    out_dim = 0

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: NoHistoryConfig) -> None:
        super().__init__()

    def forward(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, C, 0)."""
        return request_time.new_zeros(*items.shape, 0, dtype=torch.get_default_dtype())

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """None."""
        return 0


_POOL = dict(
    length="any; 50–200 is usual where a pool is all there is",
    attention="none: weights see no candidate",
    reduction="L × D to one D-vector per user",
    computed="online per request, or kept as a running state and updated per event",
    chapter="01",
)
_TOKEN = "item fields, content, action set, age and rank, summed"

register(
    ModelCard(
        name="item_only",
        title="Item and context only",
        source="baseline",
        token="none",
        length="0",
        attention="none",
        reduction="everything is dropped",
        computed="online",
        chapter="01",
    ),
    NoHistoryConfig,
    NoHistory,
)
for _kind, _title, _source in (
    ("sum", "Sum pooling", "DIN (arXiv:1706.06978), Eq. 1, sum"),
    ("mean", "Mean pooling", "DIN (arXiv:1706.06978), Eq. 1, average"),
    ("max", "Max pooling", "standard practice"),
    ("recency", "Recency-weighted pooling", "standard practice"),
):
    register(
        ModelCard(
            name=f"{_kind}_pooling",
            title=_title,
            source=_source,
            token=_TOKEN,
            departures=(
                "the ranker also gets v ⊙ q",
                "empty histories get a learned vector where the pool is undefined",
            ),
            **_POOL,
        ),
        PoolingConfig,
        Pooling,
        kind=_kind,
    )
register(
    ModelCard(
        name="topic_histogram",
        title="Pooled topic histogram",
        source="baseline of this course",
        token="one-hot topic, times what was done",
        length="any",
        attention="none learned; the candidate looks up its own topic's counts",
        reduction="L events to K topics × (A + 1) counts",
        computed="a counter per user and topic, exact after every event",
        chapter="01",
    ),
    HistogramConfig,
    Histogram,
)
