"""Two encoders side by side: a long history and the recent events, or a life and its last hour."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.schema import Items, Request
from ..data.tensors import Tensors


@dataclass(frozen=True, eq=False)
class BesideState(Tensors):
    """The states of both encoders."""

    main: Tensors
    beside: Tensors


class Beside(nn.Module):
    """The vectors of two staged encoders, concatenated.

        request ──┬── main ──────────────────── (B, C, E₁) ──┐
                  └── newest n events ── beside ─ (B, C, E₂) ─┴─ (B, C, E₁ + E₂)

    Args:
        main: a staged encoder that reads the whole history.
        beside: another one.
        newest: events that ``beside`` reads; None is all.
    """

    def __init__(self, main: Any, beside: Any, newest: int | None = None) -> None:
        super().__init__()
        self.main: Any = main
        self.beside: Any = beside
        self.newest = newest
        self.out_dim: int = main.out_dim + beside.out_dim

    def prefill(self, request: Request, **main: Any) -> BesideState:
        """Both states; keyword arguments go to the main encoder's ``prefill``."""
        newest = dataclasses.replace(request, events=request.events[:, : self.newest])
        return BesideState(self.main.prefill(request, **main), self.beside.prefill(newest))

    def search(self, state: BesideState, items: Items, k: int | None = None) -> Any:
        """The main encoder's search."""
        return self.main.search(state.main, items, k)

    def score(self, state: BesideState, items: Items, **main: Any) -> Tensor:
        """(B, C, out_dim); keyword arguments go to the main encoder's ``score``."""
        return self.join(self.main.score(state.main, items, **main), state, items)

    def join(self, vector: Tensor, state: BesideState, items: Items) -> Tensor:
        """The main encoder's vector (B, C, E₁), made elsewhere, and the other one's beside it."""
        return torch.cat([vector, self.beside.score(state.beside, items)], dim=-1)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        seen = length if self.newest is None else min(length, self.newest)
        main = self.main.flops(n_requests, n_candidates, length)
        return main + self.beside.flops(n_requests, n_candidates, seen)
