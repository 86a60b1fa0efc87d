"""A convolution, an RNN and an LSTM over recent actions: TransAct's Table 3 baselines.

Each reads the event tokens newest last, sees no candidate, and so runs once per request. They are
here to tell how much of TransAct's gain is the transformer and how much the rest.

Departures: the paper says no more of them than their names; kernel 5, one layer and the course's
tokens are ours. The convolution is pooled by a masked maximum; the recurrent ones give their last
state. v ⊙ q is handed to the ranker beside v, as for the pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...data.schema import DataSpec, Events, Items, Request
from ...nn import EventEmbedding
from ..pooling import UserVector, max_pool
from ..registry import WITH_THE_RANKER, ModelCard, register, variant


@dataclass(frozen=True)
class RecurrentConfig:
    """Which network, and its sizes.

    Attributes:
        kind: "cnn", "rnn" or "lstm".
        seq_len: the newest events that are read.
        hidden: width of the state.
        kernel: of the convolution, odd.
    """

    kind: Literal["cnn", "rnn", "lstm"] = "lstm"
    seq_len: int = 100
    hidden: int = 64
    kernel: int = 5

    def __post_init__(self) -> None:
        if self.kind not in ("cnn", "rnn", "lstm"):
            raise ValueError(f"kind is {self.kind!r}; one of cnn, rnn, lstm")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; it must be odd to have a middle")


class Recurrent(nn.Module):
    """One pass over the recent events, oldest first; the same vector for every candidate.

    Args:
        embed: event embedding.
        spec: the data set.
        config: see ``RecurrentConfig``.

    Cost: O(L·D·hidden) once per request; L steps that wait for each other (not the CNN).
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: RecurrentConfig) -> None:
        super().__init__()
        self.embed = embed
        self.config = config
        dim = embed.items.dim
        if config.kind == "cnn":
            self.net: nn.Module = nn.Conv1d(
                dim,
                config.hidden,
                config.kernel,
                padding=config.kernel // 2,
            )
        else:
            net = nn.RNN if config.kind == "rnn" else nn.LSTM
            self.net = net(dim, config.hidden, batch_first=True)
        self.out = nn.Linear(config.hidden, dim)
        self.empty = nn.Parameter(torch.zeros(dim))  # stands for "no history"
        self.out_dim = 2 * dim

    def state(self, events: Events, request_time: Tensor) -> Tensor:
        """(B, D): what the network says of the history."""
        events = events[:, : self.config.seq_len]
        e = self.embed(events, request_time)
        if self.config.kind == "cnn":
            x = self.net(e.mT).relu().mT
            h = torch.where(events.mask.any(-1, keepdim=True), max_pool(x, events.mask), 0.0)
        else:
            h = self._last(e, events.lengths)
        return torch.where(events.mask.any(-1, keepdim=True), self.out(h), self.empty)

    def _last(self, e: Tensor, lengths: Tensor) -> Tensor:
        """State after the newest event. Rows are turned round: oldest first, padding behind."""
        n = e.shape[1]
        order = (lengths[:, None] - 1 - torch.arange(n, device=e.device)) % n
        states = self.net(e.gather(1, order[..., None].expand_as(e)))[0]
        at = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[-1])
        return states.gather(1, at)[:, 0]

    def prefill(self, request: Request) -> UserVector:
        """The state after the newest event, (B, D)."""
        return UserVector(self.state(request.events, request.time))

    def score(self, state: UserVector, items: Items) -> Tensor:
        """The state, and its product with each candidate: (B, C, 2·D)."""
        v = state.vector[:, None].expand(-1, items.shape[1], -1)
        return torch.cat([v, v * self.embed.items(items.id)], dim=-1)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        c = self.config
        items = self.embed.items
        s = min(length, self.config.seq_len)
        if c.kind == "cnn":
            net = items.dim * c.hidden * c.kernel
        else:
            net = (1 if c.kind == "rnn" else 4) * c.hidden * (items.dim + c.hidden)
        total = self.embed.flops(n_requests, s) + 2 * n_requests * (s * net + c.hidden * items.dim)
        return total + items.flops(n_requests * n_candidates)


register(
    ModelCard(
        name="cnn",
        title="convolution",
        source="arXiv:2306.00248, Table 3",
        token="item fields, content, action set, age and rank, summed",
        length="the newest 100",
        attention="none",
        reduction="a convolution and a maximum",
        computed="online, once per request",
        trained=WITH_THE_RANKER,
        chapter="03",
        departures=("sizes are ours", "the ranker also gets v ⊙ q"),
    ),
    RecurrentConfig,
    Recurrent,
    kind="cnn",
)
for _kind in ("rnn", "lstm"):
    variant("cnn", _kind, _kind.upper(), card={"reduction": "the last state"}, kind=_kind)
