"""Plain transformer blocks, pre-LN: self-attention, causal or not, cross-attention, and a KV cache.

    x ← x + Attention(LN(x), LN(memory));   x ← x + W_2 act(W_1 LN(x))

What long histories need besides is how keys and values are kept:

    history (B, L, d) ──── prefill ───► Cache: keys and values of every layer, once per request
    candidates (B, C, d) ── score ────► each reads the cache and itself, never another candidate
    newer events (B, M, d) ─ extend ──► the cache of L + M events, as if all had come at once

Sequences are read in the order of the sequence: with ``causal=True`` position i sees 0…i, so events
stand old → new. Padding is **last** there too, and then a causal mask hides it from every real
position without an L × L mask per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.tensors import Tensors


class Attention(nn.Module):
    """Multi-head scaled dot-product attention whose keys and values can be kept.

    Args:
        dim: d, width of queries and output; divisible by ``n_heads``.
        n_heads: H.
        bias: of the four projections.

    Raises:
        ValueError: ``dim`` is no multiple of ``n_heads``.
    """

    def __init__(self, dim: int, n_heads: int, bias: bool = True) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"dim is {dim}; it must be a multiple of n_heads, {n_heads}")
        self.dim = dim
        self.n_heads = n_heads
        self.w_q = nn.Linear(dim, dim, bias=bias)
        self.w_k = nn.Linear(dim, dim, bias=bias)
        self.w_v = nn.Linear(dim, dim, bias=bias)
        self.w_o = nn.Linear(dim, dim, bias=bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, n, d_h)

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) -> keys and values, (B, H, L, d_h) each."""
        return self._split(self.w_k(memory)), self._split(self.w_v(memory))

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        v: Tensor,
        visible: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Queries x (B, n, d) attend to keys and values (B, H, L, d_h): (B, n, d).

        Args:
            x: already normalised.
            k: (B, H, L, d_h), from ``keys``.
            v: (B, H, L, d_h), from ``keys``.
            visible: (B, L) bool, True = may be attended; a row without any attends to nothing and
                gets the zero vector before W_o. None is all.
            causal: the last of n queries stands at the last of L positions and sees all of them,
                the one before it one less.
        """
        q = self._split(self.w_q(x))
        mask = None if visible is None else visible[:, None, None]
        n = q.shape[2]
        length = k.shape[2]
        square = causal and n == length and visible is None
        if causal and not square:
            ahead = torch.ones(n, length, dtype=torch.bool, device=x.device).tril(length - n)
            mask = ahead if mask is None else mask & ahead
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=_open(mask), is_causal=square)
        if mask is not None:
            out = out * mask.any(-1)[..., None]
        return self.w_o(out.transpose(1, 2).flatten(2))

    def one_by_one(self, x: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """Each of x (B, C, d) attends to the cache and to itself, and sees no other: (B, C, d).

        The logits of the cache are one product for all of them; each one's own key is a column more.

        Args:
            x: already normalised.
            k: (B, H, L, d_h).
            v: (B, H, L, d_h).
            visible: (B, L), None is all.
        """
        q = self._split(self.w_q(x))
        own_k, own_v = self.keys(x)
        scale = q.shape[-1] ** -0.5
        shared = q @ k.transpose(-1, -2) * scale  # (B, H, C, L)
        if visible is not None:
            shared = shared.masked_fill(~visible[:, None, None], -torch.inf)
        own = (q * own_k).sum(-1, keepdim=True) * scale  # (B, H, C, 1)
        w = torch.cat([shared, own], dim=-1).softmax(-1)
        out = w[..., :-1] @ v + w[..., -1:] * own_v
        return self.w_o(out.transpose(1, 2).flatten(2))

    def flops(self, n_queries: int, n_keys: int, n_pairs: int) -> int:
        """Matrix-multiply FLOPs: queries and keys in all, and the pairs that meet."""
        return 2 * self.dim * (2 * self.dim * (n_queries + n_keys) + 2 * n_pairs)


def _open(mask: Tensor | None) -> Tensor | None:
    """The mask with rows that allow nothing opened: a softmax over nothing is NaN."""
    return None if mask is None else mask | ~mask.any(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Cache(Tensors):
    """Keys and values of a history in every layer.

    Attributes:
        k: (B, N, H, L, d_h), keys of N layers.
        v: (B, N, H, L, d_h), their values.
        visible: (B, L), which positions are events.
    """

    k: Tensor
    v: Tensor
    visible: Tensor


class Block(nn.Module):
    """One pre-LN layer: attention and feed-forward net, each behind a LayerNorm, each added.

    Args:
        dim: d.
        n_heads: H.
        hidden: width of the feed-forward net.
        dropout: on both branches.
        activation: of the feed-forward net.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        hidden: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, n_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), activation(), nn.Linear(hidden, dim))
        self.drop = nn.Dropout(dropout)

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, d) of a sequence -> this layer's keys and values of it."""
        return self.attention.keys(self.norm1(memory))

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop(attended)
        return x + self.drop(self.feed(self.norm2(x)))

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
        visible: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """x (B, n, d) reads itself, or keys and values of another sequence: (B, n, d).

        Args:
            x: the residual stream.
            memory: from ``keys``; None is self-attention.
            visible: (B, L) of what is read.
            causal: see ``Attention``.
        """
        k, v = self.keys(x) if memory is None else memory
        return self._rest(x, self.attention(self.norm1(x), k, v, visible, causal))

    def one_by_one(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor],
        visible: Tensor | None = None,
    ) -> Tensor:
        """Each of x (B, C, d) reads the memory and itself: (B, C, d)."""
        return self._rest(x, self.attention.one_by_one(self.norm1(x), *memory, visible))

    def flops(self, n_queries: int, n_keys: int, n_pairs: int) -> int:
        """Matrix-multiply FLOPs."""
        feed = 2 * n_queries * sum(m.weight.numel() for m in self.feed if isinstance(m, nn.Linear))
        return self.attention.flops(n_queries, n_keys, n_pairs) + feed


class Transformer(nn.Module):
    """N blocks and a last LayerNorm, over whole sequences or with a cache.

    Args:
        dim: d, of every block.
        n_heads: H, of every block.
        hidden: of every block, width of its feed-forward net.
        n_layers: N, at least 1.
        dropout: of every block.
        causal: positions see those before them and themselves.
        checkpointed: in training keep only each block's input and compute the rest again, for
            histories whose activations don't fit.

    Raises:
        ValueError: ``n_layers`` below 1.

    Cost: O(N·(L·d² + L²·d)); ``score`` O(N·C·(d² + L·d)).
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        hidden: int,
        n_layers: int,
        dropout: float = 0.0,
        causal: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers is {n_layers}; at least 1 is needed")
        self.causal = causal
        self.checkpointed = checkpointed
        self.blocks = nn.ModuleList(Block(dim, n_heads, hidden, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    @property
    def stack(self) -> list[Block]:
        """The blocks, first to last."""
        return [cast(Block, block) for block in self.blocks]

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """x (B, L, d), visible (B, L) bool or None -> (B, L, d).

        In a causal stack padding stands last, and ``visible`` is not needed: no event sees it.
        """
        for block in self.stack:
            if self.checkpointed and self.training:
                x = checkpoint(block, x, None, visible, self.causal, use_reentrant=False)
            else:
                x = block(x, None, visible, self.causal)
        return self.norm(x)

    def prefill(self, x: Tensor, visible: Tensor) -> tuple[Tensor, Cache]:
        """As ``forward``, and the cache that ``score`` and ``extend`` go on from.

        Args:
            x: (B, L, d).
            visible: (B, L) bool, padding last.
        """
        seen = None if self.causal else visible
        k = []
        v = []
        for block in self.stack:
            memory = block.keys(x)
            k.append(memory[0])
            v.append(memory[1])
            x = block(x, memory, seen, self.causal)
        return self.norm(x), Cache(torch.stack(k, 1), torch.stack(v, 1), visible)

    def score(self, x: Tensor, cache: Cache) -> Tensor:
        """Candidates x (B, C, d), each appended to the cached history by itself: (B, C, d)."""
        for n, block in enumerate(self.stack):
            x = block.one_by_one(x, (cache.k[:, n], cache.v[:, n]), cache.visible)
        return self.norm(x)

    def extend(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Newer events x (B, M, d) behind a cached history without padding: outputs and new cache.

        Raises:
            ValueError: the stack is not causal, or a row has padding (the newer events would stand
                behind it).
        """
        if not self.causal:
            raise ValueError("only a causal stack can be extended; here old events see newer ones")
        if not cache.visible.all():
            raise ValueError(
                "a row of the cache has padding; extend rows of one length by themselves"
            )
        k = []
        v = []
        for n, block in enumerate(self.stack):
            new = block.keys(x)
            k.append(torch.cat([cache.k[:, n], new[0]], dim=2))
            v.append(torch.cat([cache.v[:, n], new[1]], dim=2))
            x = block(x, (k[-1], v[-1]), None, True)
        visible = F.pad(cache.visible, (0, x.shape[1]), value=True)
        return self.norm(x), Cache(torch.stack(k, 1), torch.stack(v, 1), visible)

    def flops(self, n_rows: int, length: int) -> int:
        """Matrix-multiply FLOPs of ``forward``, masked pairs counted, as torch computes them."""
        n = n_rows * length
        return sum(block.flops(n, n, n * length) for block in self.stack)
