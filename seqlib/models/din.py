"""DIN: every candidate weighs the history by itself (arXiv:1706.06978, KDD 2018).

``v(A) = Σ_j a(e_j, v_A) e_j`` (Eq. 3): a small network, the *local activation unit*, looks at one
event and the candidate and says how much that event matters **for this candidate**. The weights
are not normalised: their sum is the intensity of the activated interest.

    candidate q ──┬── W_q q ──────────────┐
                  ├── W_p (q ⊙ k) ────────┤
    event k ──────┴── W_k k ──────────────┴─ + ─ Dice ─ linear ─ Dice ─ linear ─ w_j ─ Σ w_j e_j

Departures:
  * The paper's text names an "out product" as third input of the unit; every public
    implementation, the authors' included, uses [q, k, q − k, q ⊙ k]. So does ``din``.
  * ``similarity`` adds ⟨q, x_j⟩/√D and the cosine of the frozen content vectors as two further
    inputs (registered as ``din_similarity``). It is ours: with random embeddings a unit discovers
    "same topic" slowly.
  * Hidden widths 32 and 16 in place of the authors' 80 and 40: widths of this course, not a result.
  * v ⊙ q is handed to the ranker beside v, as for the pools, so that the two compare.
  * ``din_code`` is the authors' released unit: sigmoid layers, scores divided by √D, softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import trace
from ..data.schema import DataSpec, Items, Request
from ..data.tensors import Tensors
from ..nn import Beside, EventEmbedding
from .registry import WITH_THE_RANKER, ModelCard, register, variant

Activation = Literal["dice", "prelu", "sigmoid"]


class Dice(nn.Module):
    """Data-adaptive activation: a PReLU whose corner sits at the mean of the data (DIN, Eq. 9).

    ``f(s) = p(s)·s + (1 − p(s))·α·s`` with ``p(s) = σ((s − E[s]) / √(Var[s] + ε))``, mean and
    variance per neuron. In training they are the batch's (give it real events only: padding would
    shift them); in evaluation moving averages, so that a score never depends on its batch
    neighbours. With E = 0 and Var = 0 it is PReLU. A batch of fewer than two rows has no variance
    and uses the moving averages. Under ``torchrun`` each process takes its own part of a batch;
    ``fit`` gives all of them the mean of their moving averages after every epoch.

    Args:
        n: number of neurons.
        eps: the paper's 1e-8.
        momentum: of the moving averages.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, n: int, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.alpha = nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))

    def forward(self, s: Tensor) -> Tensor:
        """(…, n) -> (…, n)."""
        flat = s.reshape(-1, s.shape[-1])
        batch_statistics = self.training and len(flat) > 1
        z = F.batch_norm(
            flat,
            self.mean,
            self.var,
            training=batch_statistics,
            momentum=self.momentum,
            eps=self.eps,
        )
        p = torch.sigmoid(z).view_as(s)
        return torch.lerp(self.alpha.to(s) * s, s, p)


class PReLU(nn.Module):
    """``f(s) = max(s, 0) + α·min(s, 0)`` with one α per neuron of the last axis (DIN, Eq. 8)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((n,), 0.25))

    def forward(self, s: Tensor) -> Tensor:
        """(…, n) -> (…, n)."""
        return torch.where(s > 0, s, self.alpha * s)


class Sigmoid(nn.Module):
    """The authors' released code uses sigmoids inside the unit."""

    def __init__(self, n: int) -> None:
        super().__init__()

    def forward(self, s: Tensor) -> Tensor:
        """(…, n) -> (…, n)."""
        return torch.sigmoid(s)


_ACTIVATIONS = {"dice": Dice, "prelu": PReLU, "sigmoid": Sigmoid}


class ActivationUnit(nn.Module):
    """``a(e_j, v_A)``: how much event k matters for candidate q (DIN, Eq. 3).

    Its input is [q, k, q − k, q ⊙ k], but the concatenation never exists. With
    ``W = [W1 W2 W3 W4]`` the first layer is ``(W1 + W3) q + (W2 − W3) k + W4 (q ⊙ k)``: the first
    term once per candidate, the second once per event, and only the third per pair. The third is
    one matrix product too, ``(W4 · diag(q)) k``, so the (B, L, C, 4D) tensor is never formed.
    From there on only the n real events of the batch are computed: padding costs nothing and
    can't enter Dice's statistics.

    Args:
        dim: D.
        hidden: two widths.
        activation: "dice", "prelu" or "sigmoid".
        n_extra: extra inputs per pair (similarities).

    Cost: per pair ``2·(D·H1 + n_extra·H1 + H1·H2 + H2)``, times B·C·L. Built in chapter 02.
    """

    def __init__(
        self,
        dim: int,
        hidden: tuple[int, int] = (32, 16),
        activation: Activation = "dice",
        n_extra: int = 0,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; one of {', '.join(_ACTIVATIONS)}")
        if len(hidden) != 2:
            raise ValueError(f"hidden is {hidden}; the unit has two hidden layers")
        h1, h2 = hidden
        self.dim = dim
        self.hidden = (h1, h2)
        self.n_extra = n_extra
        self.first = nn.Linear(4 * dim, h1)
        self.extra = nn.Linear(n_extra, h1, bias=False) if n_extra else None
        self.second = nn.Linear(h1, h2)
        self.last = nn.Linear(h2, 1)
        self.act1 = _ACTIVATIONS[activation](h1)
        self.act2 = _ACTIVATIONS[activation](h2)
        with torch.no_grad():
            self.last.weight.mul_(0.1)  # sums of up to 10^4 weights start small

    def forward(self, q: Tensor, k: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """q (B, C, D), k (B, L, D), mask (B, L), extra (B, L, C, n_extra) -> (B, L, C), 0 on pads."""
        b, c, d = q.shape
        length = k.shape[1]
        h1 = self.hidden[0]
        w1, w2, w3, w4 = self.first.weight.split(d, dim=1)
        per_candidate = q @ (w1 + w3).T  # (B, C, H1)
        per_event = k @ (w2 - w3).T + self.first.bias  # (B, L, H1)
        gated = (q[:, :, None] * w4).view(b, c * h1, d)  # W4 · diag(q), per candidate
        per_pair = (k @ gated.transpose(1, 2)).view(b, length, c, h1)
        s = (per_pair + per_candidate[:, None] + per_event[:, :, None])[mask]  # (n, C, H1)
        if self.extra is not None:
            if extra is None:
                raise ValueError(f"this unit needs {self.n_extra} extra inputs per pair, got none")
            s = s + self.extra(extra[mask])
        w = self.last(self.act2(self.second(self.act1(s))))[..., 0]  # (n, C)
        return w.new_zeros(b, length, c).index_put((mask,), w)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call when no event is padding."""
        h1, h2 = self.hidden
        pairs = n_requests * n_candidates * length
        once = n_requests * (n_candidates + length) * self.dim * h1
        return 2 * (once + pairs * (self.dim * h1 + self.n_extra * h1 + h1 * h2 + h2))


@dataclass(frozen=True)
class DINConfig:
    """Which unit, and what happens to its weights.

    Attributes:
        hidden: widths of the activation unit.
        activation: of the activation unit.
        softmax: normalise the weights over the history (the released code does, the paper not).
        scale: divide scores by √D before the softmax.
        similarity: give the unit ⟨q, x_j⟩/√D and the content cosine as inputs.
        product: hand v ⊙ q to the ranker beside v.
    """

    hidden: tuple[int, int] = (32, 16)
    activation: Activation = "dice"
    softmax: bool = False
    scale: bool = False
    similarity: bool = False
    product: bool = True


@dataclass(frozen=True, eq=False)
class DINState(Tensors):
    """What a request's candidates share.

    Attributes:
        item: (B, L) ids.
        mask: (B, L).
        x: (B, L, D) item vectors.
        k: (B, L, D) tokens.
    """

    item: Tensor
    mask: Tensor
    x: Tensor
    k: Tensor


class DIN(nn.Module):
    """Target attention over the history: one user vector **per candidate**.

    Args:
        embed: event embedding.
        spec: the data set.
        config: see ``DINConfig``.

    Cost: O(B·C·L·(D·H1 + H1·H2)). Nothing but the event tokens and ``W_k k`` can be shared by a
    request's candidates. Built in chapter 02.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: DINConfig) -> None:
        super().__init__()
        self.embed = embed
        self.config = config
        self.dim = embed.items.dim
        n_extra = 2 if config.similarity else 0
        self.unit = ActivationUnit(self.dim, config.hidden, config.activation, n_extra)
        self.out_dim = 2 * self.dim if config.product else self.dim
        if config.softmax:
            self.empty = nn.Parameter(torch.zeros(self.dim))  # stands for "no history"

    def similarities(self, state: DINState, items: Items, q: Tensor) -> Tensor:
        """(B, L, C, 2): inner product of item vectors x (B, L, D), q over √D; content cosine."""
        table = self.embed.items
        inner = state.x @ q.transpose(1, 2) / math.sqrt(self.dim)
        kc = table.content[table.known(state.item)]
        qc = table.content[table.known(items.id)]
        return torch.stack([inner, kc @ qc.transpose(1, 2)], dim=-1)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor, extra: Tensor | None) -> Tensor:
        """(B, L, C): the weight of every event for every candidate, zero on padding."""
        w = self.unit(q, k, mask, extra)
        if not self.config.softmax:
            return w
        real = mask[..., None]
        w = w / math.sqrt(self.dim) if self.config.scale else w
        return w.masked_fill(~real, torch.finfo(w.dtype).min).softmax(dim=1) * real

    def prefill(self, request: Request) -> DINState:
        """Item vectors and tokens of the events."""
        events = request.events
        x = self.embed.items(events.item)
        return DINState(events.item, events.mask, x, self.embed(events, request.time, x))

    def score(self, state: DINState, items: Items) -> Tensor:
        """Every candidate weighs the tokens by itself: (B, C, out_dim)."""
        q = self.embed.items(items.id)
        extra = self.similarities(state, items, q) if self.config.similarity else None
        w = self.weights(q, state.k, state.mask, extra)
        trace.record("din.weights", w.transpose(1, 2))
        v = w.transpose(1, 2) @ state.k  # Eq. 3
        if self.config.softmax:
            v = torch.where(state.mask.any(-1)[:, None, None], v, self.empty)
        return torch.cat([v, v * q], dim=-1) if self.config.product else v

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        items = self.embed.items
        pairs = n_requests * n_candidates * length
        total = self.embed.flops(n_requests, length) + items.flops(n_requests * n_candidates)
        if self.config.similarity:
            total += 2 * pairs * (self.dim + items.content.shape[1])
        return total + self.unit.flops(n_requests, n_candidates, length) + 2 * pairs * self.dim


def beside_recent(main: nn.Module, embed: EventEmbedding, spec: DataSpec, newest: int) -> nn.Module:
    """A search over the whole life, and beside it DIN with similarities on the newest events.

    Args:
        main: a staged encoder.
        embed: event embedding.
        spec: the data set.
        newest: events of the short branch; 0 leaves it out.

    Raises:
        ValueError: ``newest`` is negative.
    """
    if newest < 0:
        raise ValueError(f"short is {newest}; it must not be negative")
    if newest == 0:
        return main
    return Beside(main, DIN(embed, spec, DINConfig(similarity=True)), newest)


_WIDTHS = "hidden 32, 16 in place of the authors' 80, 40"
register(
    ModelCard(
        name="din",
        title="DIN",
        source="arXiv:1706.06978, Eq. 3",
        token="item fields, content, action set, age and rank, summed",
        length="50–200 here and in practice; cost grows with candidates × events",
        attention="target attention: an MLP per (candidate, event) pair, weights not normalised",
        reduction="L × D to one D-vector per candidate",
        computed="online, once per candidate; always fresh",
        trained=WITH_THE_RANKER,
        chapter="02",
        departures=("[q, k, q−k, q⊙k] for the text's “out product”", _WIDTHS, "v ⊙ q added"),
    ),
    DINConfig,
    DIN,
)
variant(
    "din",
    "din_code",
    "DIN, authors' code",
    card={
        "source": "DeepInterestNetwork, the authors' repository",
        "attention": "target attention: a sigmoid MLP per pair, scores over √D, softmax",
        "departures": (_WIDTHS, "no batch normalisation around the unit", "v ⊙ q added"),
    },
    activation="sigmoid",
    softmax=True,
    scale=True,
)
variant(
    "din",
    "din_similarity",
    "DIN with similarities",
    card={
        "source": "arXiv:1706.06978, Eq. 3, with two inputs of this course",
        "attention": "as DIN; the unit also sees inner product and content cosine",
        "departures": ("two similarity inputs", _WIDTHS, "v ⊙ q added"),
    },
    similarity=True,
)
