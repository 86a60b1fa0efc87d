"""TransAct: recent actions and the candidate, read together by a transformer.

arXiv:2306.00248 (KDD 2023), Pinterest's Homefeed ranker. One token per action holds *what was done*,
*to what*, and **the candidate**: ``u_i = [a_i ; p_i ; c]`` (early fusion by concatenation). Two
encoder layers follow, then a compression to the newest K rows and one maximum:

    actions  a_i ─┐
    pins     p_i ─┼─ [a ; p ; c] ─ layer ─ layer ─┬─ o_0 … o_{K−1} ─┐
    candidate c ──┘                               └─ max over rows ─┴─ z, (K + 1)·d wide

Since c stands in every token, the encoder runs once per candidate. Not all of it has to: in the
**first** layer the attention logits are, up to terms that a softmax ignores,
``S_ij + b_j(c)`` with S free of the candidate, so that exp(S) is computed once per request and a
candidate only rescales its columns (``nn.early_fusion.SelfAttention.first``). From the second layer
on every token has seen the candidate, and nothing can be shared any more.

Three modes, one code path:
  * ``transact``: the paper's layout, and **strict**: padding and actions inside the random window
    are hidden altogether.
  * ``transact_paper``: the paper's layout with the authors' masks (``mask="leaky"``): hidden
    actions are hidden as attention keys only; as rows they still reach the K rows and the maximum.
  * ``transact_code``: the authors' public code: two heads, a window of one hour, the maximum
    through a linear layer and in front. ``transact_official`` takes that code's state dict as it is.

Departures:
  * Items are the course's learned item vectors, as for every model here; ``item="content"`` takes
    the frozen content vectors, the paper's PinSage.
  * An action is the set of what was done to one impression, with the watch bucket.
  * z goes through LayerNorm (post-LN stacks were reported to collapse without) and a linear layer
    to ``out_dim`` numbers, so that the shared ranker stays as it is; ``out_dim=None`` hands z on.
  * Layers are initialised one by one; the authors' are copies of one another.
  * Attention dropout in the first layer draws one mask for all candidates of a request, and leaves
    the candidate's own value alone (the weights sum to one, so it is a constant). A request of one
    candidate shares nothing and is the paper's layer as printed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.schema import DataSpec, Events, Items, Request
from ..data.tensors import Tensors
from ..nn import Beside, Encoder, EventEmbedding, LogBucketEncoding, action_table
from ..nn.embedding import MINUTE
from ..nn.time import HOUR
from .baselines.daily import Daily, DailyConfig
from .registry import WITH_THE_RANKER, ModelCard, register, variant


@dataclass(frozen=True)
class TransActConfig:
    """The paper's sizes, and its ablations.

    Attributes:
        seq_len: S, the newest actions that are read.
        d_action: width of the action embedding; 0 leaves actions out.
        item: "learned" or "content" (frozen).
        fusion: "concat" (the candidate in every token), "none", or "append" (one more token, as
            BST, whose row is read beside the others).
        position: "none" (the paper), "learned", "sinusoidal" (by rank) or "age" (log buckets).
        n_layers: of the encoder.
        n_heads: of the encoder.
        hidden: of the encoder, width of its feed-forward nets.
        dropout: of the encoder.
        rows: which outputs are read: "first" n_rows, "random" n_rows (drawn once), "all", "none".
        pool: also read the maximum over rows.
        mask: "strict" or "leaky".
        window: hours of the random window, 0 for none.
        positive_only: drop events without a positive action before cutting to seq_len.
        code_layout: the public code's output: pooled vector first, through a linear layer.
        out_dim: width handed to the ranker, through LayerNorm and a linear layer; None is z itself.
        daily: width of a daily user embedding beside z; 0 for none.
        tied: start the first layer at "like attends to like" with this gain, see ``tie``; 0 starts
            at random. Ours: it lets a minute's training show what the model is.
    """

    seq_len: int = 100
    d_action: int = 32
    item: Literal["learned", "content"] = "learned"
    fusion: Literal["concat", "append", "none"] = "concat"
    position: Literal["none", "learned", "sinusoidal", "age"] = "none"
    n_layers: int = 2
    n_heads: int = 1
    hidden: int = 32
    dropout: float = 0.1
    rows: Literal["first", "random", "all", "none"] = "first"
    n_rows: int = 10
    pool: bool = True
    mask: Literal["strict", "leaky"] = "strict"
    window: float = 24.0
    positive_only: bool = False
    code_layout: bool = False
    out_dim: int | None = 64
    daily: int = 0
    tied: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "item": ("learned", "content"),
            "fusion": ("concat", "append", "none"),
            "position": ("none", "learned", "sinusoidal", "age"),
            "rows": ("first", "random", "all", "none"),
            "mask": ("strict", "leaky"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value!r}; one of {', '.join(map(repr, allowed))}")
        if self.rows == "none" and not self.pool:
            raise ValueError(
                "rows is 'none' and pool is False; nothing of the output would be read"
            )
        if not 1 <= self.n_rows <= self.seq_len:
            raise ValueError(f"n_rows is {self.n_rows}; it must be in 1..seq_len = {self.seq_len}")
        if self.window < 0:
            raise ValueError(f"window is {self.window}; hours must not be negative")

    @property
    def n_read(self) -> int:
        """How many single rows are read beside the maximum; an appended candidate's is one more."""
        n_kept = {"first": self.n_rows, "random": self.n_rows, "all": self.seq_len, "none": 0}
        kept = n_kept[self.rows]
        return kept + (self.fusion == "append" and kept > 0)

    @property
    def n_computed(self) -> int | None:
        """Rows that the last layer has to compute; None is all."""
        return self.n_read if self.rows == "first" and not self.pool else None


@dataclass(frozen=True, eq=False)
class TransActState(Tensors):
    """What a request's candidates share.

    Attributes:
        u: (B, L, d_u) tokens without the candidate.
        keys: (B, L) what may be attended.
        visible: (B, L) what may be read.
    """

    u: Tensor
    keys: Tensor
    visible: Tensor


class TransAct(nn.Module):
    """Recent actions and each candidate through one transformer.

    Args:
        embed: event embedding, of which the item vectors and the action ids are used.
        spec: the data set.
        config: see ``TransActConfig``.

    Cost per candidate: O(L²·d) in the first layer, O(L·d² + L²·d) in every further one; the first
    layer's projections and its L² logits are shared by a request's candidates. Chapter 03.
    """

    positions: Tensor

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: TransActConfig) -> None:
        super().__init__()
        self.items = embed.items
        self.ids = embed.ids
        self.config = config
        items = embed.items
        d_item = items.dim if config.item == "learned" else items.content.shape[1]
        if d_item == 0:
            raise ValueError("item='content', but this data set has no content vectors")
        if config.d_action:
            self.action = action_table(self.ids, config.d_action, padding=True)
        self.d_u = config.d_action + d_item
        self.d_c = d_item
        self.dim = self.d_u + (d_item if config.fusion == "concat" else 0)
        if config.position == "learned":
            self.position = nn.Parameter(torch.randn(config.seq_len, self.d_u) * 0.1)
        elif config.position == "age":
            self.age = LogBucketEncoding(embed.config.time_buckets, self.d_u, unit=MINUTE)
        self.encoder = Encoder(
            self.dim,
            config.n_heads,
            config.hidden,
            config.dropout,
            config.n_layers,
        )
        if config.tied:
            tie(self.encoder, config.d_action, d_item, config.tied)
        drawn = random.Random(0).sample(range(config.seq_len), config.n_rows)
        self.register_buffer("positions", torch.tensor(sorted(drawn)), persistent=True)
        self.z_dim = self.dim * (self.config.n_read + config.pool)
        if config.code_layout:
            self.out_linear = nn.Linear(self.dim, self.dim)
        if config.mask == "strict":
            self.empty = nn.Parameter(torch.zeros(self.z_dim))  # stands for "no visible action"
        self.out_dim = self.z_dim
        if config.out_dim is not None:
            self.norm = nn.LayerNorm(self.z_dim)
            self.out = nn.Linear(self.z_dim, config.out_dim)
            self.out_dim = config.out_dim

    def cut(self, events: Events) -> Events:
        """The newest ``seq_len`` events that count; in leaky mode padded to exactly so many."""
        c = self.config
        if c.positive_only:
            events = events.select(self.ids.positive(events), c.seq_len)
        events = events[:, : c.seq_len]
        short = c.seq_len - events.shape[1]
        return events.pad(short) if c.mask == "leaky" and short > 0 else events

    def vectors(self, ids: Tensor) -> Tensor:
        """(…) item ids -> (…, d_item): learned item vectors, or the frozen content."""
        if self.config.item == "learned":
            return self.items(ids)
        return self.items.content[self.items.known(ids)]

    def tokens(self, events: Events, request_time: Tensor) -> Tensor:
        """Action, item and position, without the candidate: (B, L, d_u), zeros on padding."""
        c = self.config
        u = self.vectors(events.item)
        if c.d_action:
            action = self.action((self.ids(events) + 1) * events.mask)  # 0 is padding
            u = torch.cat([action, u], -1)
        if c.position == "learned":
            u = u + self.position[: u.shape[1]]
        elif c.position == "sinusoidal":
            u = u + 0.1 * sinusoids(u.shape[1], self.d_u).to(u)
        elif c.position == "age":
            u = u + self.age(request_time[:, None] - events.time)
        return u * events.mask[..., None]

    def prefill(self, request: Request) -> TransActState:
        """Tokens without the candidate, and what may be seen of them; the window is drawn here."""
        recent = self.cut(request.events)
        age = request.time[:, None] - recent.time
        is_strict = self.config.mask == "strict"
        longest = self.config.window if self.training else 0.0
        visible = recent.mask & ~hidden_by_window(age, longest, is_strict)
        keys = visible.clone()
        if not is_strict:
            keys[:, 0] = True  # the authors attend to it whatever stands there
        else:
            # A softmax needs one key; where nothing is visible, ``score`` replaces the row.
            keys[:, 0] |= ~visible.any(-1)
        return TransActState(self.tokens(recent, request.time), keys, visible)

    def score(self, state: TransActState, items: Items) -> Tensor:
        """Tokens and candidates through the encoder, compressed: (B, C, out_dim)."""
        c = self.config
        visible = state.visible
        o, rows = self.encode(state.u, self.vectors(items.id), state.keys, visible)
        z = self.read(o, rows)
        if c.mask == "strict":
            z = torch.where(visible.any(-1)[:, None, None], z, self.empty)
        z = z.expand(-1, items.shape[1], -1)
        return self.out(self.norm(z)) if c.out_dim is not None else z

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def encode(self, u: Tensor, q: Tensor, keys: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder outputs (B, C or 1, rows, d) and which rows may be read (B, rows)."""
        b, n = q.shape[:2]
        rows = visible if self.config.mask == "strict" else torch.ones_like(visible)
        if self.config.fusion == "concat":
            o = self.encoder(u, q, keys, self.config.n_computed)
        elif self.config.fusion == "append":
            # The candidate is one more token, in front: an item without an action.
            first = F.pad(q, (self.d_u - self.d_c, 0)).flatten(0, 1)[:, None]
            yes = keys.new_ones(b, 1)
            keys = torch.cat([yes, keys], 1)
            rows = torch.cat([yes, rows], 1)
            x = torch.cat([first, u.repeat_interleave(n, dim=0)], dim=1)
            o = self.encoder(x, None, keys.repeat_interleave(n, dim=0), self.config.n_computed)
        else:
            o = self.encoder(u, None, keys, self.config.n_computed)
        o = o.view(b, -1, *o.shape[1:])
        return o, rows[:, : o.shape[2]]

    def read(self, o: Tensor, rows: Tensor) -> Tensor:
        """Compress (B, C, R, d), rows (B, R) True = may be read -> z (B, C, z_dim)."""
        c = self.config
        real = rows[:, None, :, None]
        shown = o * real
        if c.rows == "random":
            at = self.positions
            at = torch.cat([at.new_zeros(1), at + 1]) if c.fusion == "append" else at
            picked = _at_least(shown, c.seq_len + 1)[:, :, at]
        else:
            picked = _at_least(shown, self.config.n_read)[:, :, : self.config.n_read]
        newest = picked.flatten(2)
        if not c.pool:
            return newest
        top = o.masked_fill(~real, torch.finfo(o.dtype).min).amax(dim=2)
        top = torch.where(rows.any(-1)[:, None, None], top, 0.0)
        if c.code_layout:
            return torch.cat([self.out_linear(top), newest], dim=-1)
        return torch.cat([newest, top], dim=-1)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        c = self.config
        items = self.items
        s = c.seq_len if c.mask == "leaky" else min(length, c.seq_len)
        n = n_requests * n_candidates
        total = 0
        if c.item == "learned":
            total += items.flops(n_requests * s) + items.flops(n)
        if c.fusion == "concat":
            total += self.encoder.flops(
                n_requests, n_candidates, s, self.config.n_computed, self.d_u
            )
            encoded = n
        elif c.fusion == "append":
            total += self.encoder.flops(n, 1, s + 1, self.config.n_computed, None)
            encoded = n
        else:
            total += self.encoder.flops(n_requests, 1, s, self.config.n_computed, None)
            encoded = n_requests
        if c.code_layout and c.pool:
            total += 2 * encoded * self.dim**2
        if c.out_dim is not None:
            total += 2 * n * self.z_dim * c.out_dim
        return total


def transact(embed: EventEmbedding, spec: DataSpec, config: TransActConfig) -> nn.Module:
    """TransAct, with the daily user embedding beside it if the configuration has one."""
    encoder = TransAct(embed, spec, config)
    if not config.daily:
        return encoder
    return Beside(encoder, Daily(embed, spec, DailyConfig(config.daily)))


@torch.no_grad()
def tie(encoder: Encoder, d_action: int, d_item: int, scale: float) -> None:
    """Start the first layer at "like attends to like".

    The query of the last item in a token (the candidate, where it is fused in) and the key of an
    event become the same map of the item vector, so that the first logits hold
    ``scale² ⟨q, p_i⟩ / √d_h``. With random maps a layer has to discover from click labels that the
    same topic is the same topic.
    """
    attention = encoder.stack[0].self_attn
    per_head = attention.dim // attention.n_heads
    width = min(per_head, d_item)
    eye = scale * torch.eye(width, d_item)
    for at in range(0, attention.dim, per_head):
        q = attention.in_proj_weight[at : at + width]
        k = attention.in_proj_weight[attention.dim + at : attention.dim + at + width]
        q.zero_()[:, -d_item:] = eye
        k.zero_()[:, d_action : d_action + d_item] = eye


def hidden_by_window(age: Tensor, longest: float, is_strict: bool) -> Tensor:
    """True where the random window hides the action.

    In training one T ~ U(0, longest) per forward hides every action younger than T; in evaluation
    only actions of the future are hidden.

    Args:
        age: (B, L) seconds.
        longest: hours; 0 draws nothing and takes T = 0.
        is_strict: hide an age of exactly T as well, so that "now" is hidden in evaluation.

    Returns:
        (B, L) bool.
    """
    limit = torch.zeros((), device=age.device, dtype=age.dtype)
    if longest:
        limit = torch.rand((), device=age.device, dtype=age.dtype) * longest * HOUR
    return age <= limit if is_strict else age < limit


def _at_least(o: Tensor, n: int) -> Tensor:
    """Zeros appended to (B, C, R, d) until R ≥ n."""
    return F.pad(o, (0, 0, 0, max(n - o.shape[2], 0)))


def sinusoids(length: int, dim: int) -> Tensor:
    """(length, dim): sin and cos of rank / 10000^(2i/dim), the transformer's fixed positions."""
    angle = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim]


_OURS = "learned item vectors for PinSage; LayerNorm and a linear layer after z"
_LEAKY = "hidden actions are hidden as keys only: a future event moves the score"
_ONLINE = "online, once per candidate; the first layer's logits once per request"
register(
    ModelCard(
        name="transact",
        title="TransAct",
        source="arXiv:2306.00248, Section 3.3",
        token="action set ⊕ item ⊕ candidate, concatenated; no time, no position",
        length="the newest 100",
        attention="self-attention over tokens that contain the candidate (early fusion)",
        reduction="L rows to the newest 10 and one maximum, then a linear layer",
        computed=_ONLINE,
        trained=WITH_THE_RANKER,
        chapter="03",
        departures=(_OURS, "strict masks: hidden and padded actions reach nothing"),
    ),
    TransActConfig,
    transact,
)
variant(
    "transact",
    "transact_paper",
    "TransAct, paper's masks",
    card={"departures": (_OURS, _LEAKY)},
    mask="leaky",
)
variant(
    "transact_paper",
    "transact_code",
    "TransAct, authors' code",
    card={"source": "transformer_user_action, the authors' repository"},
    n_heads=2,
    window=1.0,
    code_layout=True,
)
variant(
    "transact",
    "transact_hybrid",
    "TransAct, hybrid",
    card={
        "source": "arXiv:2306.00248, Section 3.4",
        "length": "the newest 100, and all of the life before the last midnight",
        "computed": f"{_ONLINE}; the user embedding once a day",
        "departures": (_OURS, "a topic histogram, projected, in PinnerFormer's role"),
    },
    daily=64,
)
