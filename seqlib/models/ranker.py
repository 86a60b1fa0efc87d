"""The one ranker of the course: only its history encoder differs from chapter to chapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.schema import DataSpec, Items, Request
from ..data.tensors import Tensors
from ..nn import MLP, CrossNetwork, ItemEmbedding, LogBucketEncoding, PeriodicEncoding, TaskHeads
from ..nn.heads import predictions


class HistoryEncoder(Protocol):
    """What a chapter builds: requests in, one vector per candidate out."""

    out_dim: int

    def __call__(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""


class StagedEncoder(HistoryEncoder, Protocol):
    """An encoder in two stages: what all candidates of a request share, and what each one adds.

    ``encoder(request)`` is ``score(prefill(request), request.items)``. A state holds nothing of the
    candidates, so one state serves any number of them, in as many calls as one likes.
    """

    def prefill(self, request: Request) -> Tensors:
        """The history's part, made once per request. ``request.items`` is not looked at."""

    def score(self, state: Any, items: Items) -> Tensor:
        """A state of B requests and (B, C) candidates -> (B, C, out_dim)."""


@dataclass(frozen=True)
class RankerConfig:
    """Shared parts: context widths, one DCN-V2 cross, an MLP.

    Attributes:
        context_dim: width of the surface, clock and session-position vectors each.
        cross_layers: of DCN-V2.
        cross_rank: of DCN-V2; None is a full matrix.
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
        items: the item embedding, shared with the encoder.
        encoder: see ``HistoryEncoder``.
        spec: the data set.
        config: widths of the shared parts.
    """

    recipe: dict[str, Any]
    encoder: Any  # a HistoryEncoder that is also a module

    def __init__(
        self,
        items: ItemEmbedding,
        encoder: nn.Module,
        spec: DataSpec,
        config: RankerConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.items = items
        self.encoder = encoder
        self.tasks = spec.tasks
        d = config.context_dim
        self.surface = nn.Embedding(len(spec.surfaces), d)
        self.clock = PeriodicEncoding(d)
        self.position = LogBucketEncoding(16, d)
        self.n_dense = items.dense.shape[1]
        self.width: int = items.dim + self.n_dense + 3 * d + self.encoder.out_dim
        self.cross = CrossNetwork(self.width, config.cross_layers, config.cross_rank)
        self.mlp = MLP((self.width, *config.hidden))
        self.heads = TaskHeads(config.hidden[-1], self.width, spec.base_rates, spec.tasks)
        self.recipe = {}

    def features(self, request: Request, history: Tensor) -> Tensor:
        """(B, C, width): what the cross network sees of each candidate."""
        ids = self.items.known(request.items.id)
        context = [
            self.surface(request.surface),
            self.clock(request.time),
            self.position(request.position.to(self.heads.deep.weight.dtype)),
        ]
        per_request = torch.cat(context, dim=-1)[:, None].expand(-1, ids.shape[1], -1)
        return torch.cat([self.items(ids), self.items.dense[ids], per_request, history], dim=-1)

    def rank(self, request: Request, history: Tensor) -> Tensor:
        """The seam between encoder and ranker: candidates with the history's vectors -> logits.

        A server that has made the vectors in another way (from stored keys, a cached prefix)
        continues here.

        Args:
            request: B requests of C candidates.
            history: (B, C, encoder.out_dim).

        Returns:
            (B, C, T): logits of binary tasks, predicted values of real ones.
        """
        x = self.features(request, history)
        return self.heads(self.mlp(self.cross(x)), x)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, T), see ``rank``."""
        return self.rank(request, self.encoder(request))

    def predictions(self, outputs: Tensor) -> Tensor:
        """(B, C, T) of ``rank`` -> probabilities of binary tasks, real ones as they are."""
        return predictions(outputs, self.tasks)

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
