"""Counting: how often each topic was shown to the user and got each action. The honest rival.

What a learned pool has to be read against: it keeps exact amounts per topic and per action, which a
mean of vectors loses, and needs no training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data.schema import DataSpec, Events, Items, Request
from ...data.tensors import Tensors
from ...nn import EventEmbedding
from ..registry import ModelCard, register


@dataclass(frozen=True)
class HistogramConfig:
    """A pooled histogram over the key field's values.

    Attributes:
        field: item field to count by; None is the data set's key field.
    """

    field: str | None = None


@dataclass(frozen=True, eq=False)
class Counts(Tensors):
    """(B, K, A + 1): how often each value was shown, and got each action."""

    table: Tensor


class Histogram(nn.Module):
    """Counts events and actions per topic once; a candidate looks up the counts of its own topic.

    This is a sum pool over one-hot topics: K·(A + 1) numbers in place of D. For a candidate of
    topic k it returns ``log(1 + n_k,a)``, ``n_k,a / n`` and ``log(1 + n_a)`` for a = shown and
    every action. It has no trained weight, sees neither order nor age, and is the baseline a
    learned pool has to be read against.

    Args:
        embed: event embedding (for the item fields).
        spec: the data set.
        config: which field.

    Cost: O(L) once per request, O(1) per candidate, 4·K·(A + 1) bytes of state. Chapter 01.
    """

    bits: Tensor

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: HistogramConfig) -> None:
        super().__init__()
        self.field = config.field or spec.key_field
        if self.field not in spec.items.fields:
            raise ValueError(f"no field {self.field!r}; there are {list(spec.items.fields)}")
        self.items = embed.items
        self.n_keys = spec.items.sizes[self.field]
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

    def prefill(self, request: Request) -> Counts:
        """The counts, for all candidates."""
        return Counts(self.counts(request.events))

    def score(self, state: Counts, items: Items) -> Tensor:
        """Counts and (B, C) candidates -> (B, C, 3·(A + 1))."""
        table = state.table
        keys = self.items.field_ids(self.field, items.id)[..., None]
        mine = table.gather(1, keys.expand(-1, -1, self.n_stats))
        total = table.sum(1, keepdim=True).expand_as(mine)
        share = mine / total[..., :1].clamp_min(1)
        return torch.cat([mine.log1p(), share, total.log1p()], dim=-1)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, 3·(A + 1))."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Counting multiplies no matrices."""
        return 0


register(
    ModelCard(
        name="topic_histogram",
        title="topic histogram",
        source="baseline of this course",
        token="one-hot topic, times what was done",
        length="any",
        attention="none learned; the candidate looks up its own topic's counts",
        reduction="L events to K topics × (A + 1) counts",
        computed="a counter per user and topic, exact after every event",
        trained="by nobody's: it counts",
        chapter="01",
    ),
    HistogramConfig,
    Histogram,
)
