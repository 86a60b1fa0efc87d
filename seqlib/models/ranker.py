"""The one ranker of the course: only its history encoder differs from chapter to chapter."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.schema import DataSpec, Events, Items, RequestBatch
from ..nn import MLP, CrossNetwork, ItemEmbedding, LogBucketEncoding, PeriodicEncoding, TaskHeads


class HistoryEncoder(Protocol):
    """What a chapter builds: histories and candidates in, one vector per candidate out."""

    out_dim: int

    def __call__(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, L), (B, C), (B,) -> (B, C, out_dim)."""

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""


@dataclass(frozen=True)
class RankerConfig:
    """Shared parts: context widths, one DCN-V2 cross, an MLP.

    Attributes:
        context_dim: width of the surface, clock and session-position vectors each.
        cross_layers, cross_rank: DCN-V2; ``cross_rank=None`` is a full matrix.
        hidden: widths of the MLP.
    """

    context_dim: int = 4
    cross_layers: int = 1
    cross_rank: int | None = None
    hidden: tuple[int, ...] = (96, 48)


class Ranker(nn.Module):
    """Scores C candidates of each request for T tasks.

    Features of a candidate: its item vector, its observed real features, where and when the
    request is made, and the history encoder's vector. They go through DCN-V2, an MLP and one head
    per task. There is no user id embedding: it would be a second, hidden memory of the history and
    would blur what a history encoder is worth.

    Args:
        items: the item embedding, shared with the encoder. encoder: see ``HistoryEncoder``.
        spec: the data set. config: widths of the shared parts.
    """

    recipe: dict[str, Any]
    encoder: Any  # a HistoryEncoder that is also a module

    def __init__(
        self, items: ItemEmbedding, encoder: nn.Module, spec: DataSpec, config: RankerConfig
    ) -> None:
        super().__init__()
        self.config, self.items, d = config, items, config.context_dim
        self.encoder = encoder
        self.surface = nn.Embedding(len(spec.surfaces), d)
        self.clock = PeriodicEncoding(d)
        self.position = LogBucketEncoding(16, d)
        self.n_dense = items.dense.shape[1]
        self.width: int = items.dim + self.n_dense + 3 * d + self.encoder.out_dim
        self.cross = CrossNetwork(self.width, config.cross_layers, config.cross_rank)
        self.mlp = MLP((self.width, *config.hidden))
        self.heads = TaskHeads(config.hidden[-1], self.width, spec.base_rates)
        self.recipe = {}

    def with_encoder(self, encoder: nn.Module) -> Ranker:
        """The same ranker, every parameter shared, with another encoder of the same width."""
        other = copy.copy(self)
        other._modules = {**self._modules, "encoder": encoder}
        return other

    def features(self, batch: RequestBatch) -> Tensor:
        """(B, C, width): what the cross network sees."""
        ids = self.items.known(batch.items.id)
        context = [
            self.surface(batch.surface),
            self.clock(batch.request_time),
            self.position(batch.position.to(self.heads.deep.weight.dtype)),
        ]
        per_request = torch.cat(context, dim=-1)[:, None].expand(-1, ids.shape[1], -1)
        events = batch.events if batch.events.shape[1] else batch.events.pad(1)
        history = self.encoder(events, batch.items, batch.request_time)
        return torch.cat([self.items(ids), self.items.dense[ids], per_request, history], dim=-1)

    def forward(self, batch: RequestBatch) -> Tensor:
        """A batch of B requests with C candidates -> logits (B, C, T)."""
        x = self.features(batch)
        return self.heads(self.mlp(self.cross(x)), x)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one forward: 2 per multiply-add, exactly as torch counts."""
        n = n_requests * n_candidates
        return (
            self.items.flops(n)
            + self.clock.flops(n_requests)
            + self.encoder.flops(n_requests, n_candidates, length)
            + self.cross.flops(n)
            + self.mlp.flops(n)
            + self.heads.flops(n)
        )
