"""No history at all: what item and context alone are worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data.schema import DataSpec, Items, Request
from ...data.tensors import Tensors
from ...nn import EventEmbedding
from ..registry import ModelCard, register


@dataclass(frozen=True)
class NoHistoryConfig:
    """Item and context only has nothing to choose."""


@dataclass(frozen=True, eq=False)
class Nothing(Tensors):
    """What is kept of a history: nothing."""


class NoHistory(nn.Module):
    """Item and context only: the baseline that every history has to beat. Returns (B, C, 0)."""

    out_dim = 0

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: NoHistoryConfig) -> None:
        super().__init__()

    def prefill(self, request: Request) -> Nothing:
        """Nothing."""
        return Nothing()

    def score(self, state: Nothing, items: Items) -> Tensor:
        """(B, C, 0)."""
        return torch.empty(*items.shape, 0, device=items.id.device)

    def forward(self, request: Request) -> Tensor:
        """(B, C, 0)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """None."""
        return 0


register(
    ModelCard(
        name="item_only",
        title="item only",
        source="baseline",
        token="none",
        length="0",
        attention="none",
        reduction="everything is dropped",
        computed="online",
        trained="nothing is left to train",
        chapter="01",
    ),
    NoHistoryConfig,
    NoHistory,
)
