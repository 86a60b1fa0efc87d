"""TransAct's early fusion: a post-LN encoder over a history with the candidate in every token.

Parameter names are those of ``nn.TransformerEncoder``, so that its state dicts load one to one. What
is added: key masks that never give NaN where something is visible, last layers that compute only the
rows somebody reads, and a first layer that shares what is free of the candidate.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import trace


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of ``nn.MultiheadAttention``.

    Args:
        dim: d.
        n_heads: H, a divisor of d.
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"n_heads is {n_heads}; it must divide the token width {dim}")
        self.dim = dim
        self.n_heads = n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, d) -> (N, H, L, d / H)."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, keys: Tensor, rows: int, dropout: float = 0.0) -> Tensor:
        """``softmax(Q Kᵀ / √d_h + M) V W_O + b_O`` for the first ``rows`` queries.

        x (N, L, d), keys (N, L) True = may be attended -> (N, rows, d).
        """
        w_q, w_kv = self.in_proj_weight.split([self.dim, 2 * self.dim])
        b_q, b_kv = self.in_proj_bias.split([self.dim, 2 * self.dim])
        q = self._heads(F.linear(x[:, :rows], w_q, b_q))
        k, v = (self._heads(t) for t in F.linear(x, w_kv, b_kv).chunk(2, dim=-1))
        seen = keys[:, None, None]
        if trace.active():
            s = q.detach() @ k.detach().transpose(-1, -2) / math.sqrt(q.shape[-1])
            trace.record("encoder.attention", s.masked_fill(~seen, -torch.inf).softmax(-1))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
        return self.out_proj(o.transpose(1, 2).flatten(2))

    def first(self, u: Tensor, c: Tensor, keys: Tensor, rows: int, dropout: float = 0.0) -> Tensor:
        """The same on tokens ``[u_i ; c]`` for every candidate c, sharing what is free of c.

        With ``q_i = q(u_i) + q(c)``, ``k_j = k(u_j) + k(c)`` the logit is
        ``q(u_i)·k(u_j) + q(c)·k(u_j)`` plus terms without j, which the softmax cancels. So

            A_ij = E_ij g_j / Σ_j E_ij g_j,   E = exp(q(u) k(u)ᵀ / √d_h),   g = exp(k(u) q(c) / √d_h)

        where any row of E and any column of g may be scaled: E is a softmax, g has 1 at its largest.

        E is one (L, L) matrix per request; a candidate costs L·L·d for ``E (g ⊙ V)``, and neither a
        projection nor a softmax of its own. W_O is applied to the values, once per event.

        A product of exponentials has less range than the exponential of a sum. Where the keys that
        E favours are those that g does not, by so much that the sum drops below ``limit`` (e^-28
        in float32, e^-318 in float64, see ``_range``), that candidate's logits are added up first
        and get a softmax of their own (``_added``), for what plain attention costs.

        u (B, L, d_u), c (B, C, d − d_u), keys (B, L) -> (B, C, rows, d).
        """
        b, _, d_u = u.shape
        n = c.shape[1]
        scale = math.sqrt(self.dim // self.n_heads)
        w_u, w_c = self.in_proj_weight.split([d_u, self.dim - d_u], dim=1)
        q, k, v = (self._heads(t) for t in F.linear(u, w_u, self.in_proj_bias).chunk(3, dim=-1))
        q_c = F.linear(c, w_c[: self.dim])
        v_c = F.linear(c, w_c[2 * self.dim :])
        off = q.new_zeros(keys.shape).masked_fill_(~keys, -torch.inf)
        off = off[:, None].expand(-1, self.n_heads, -1).flatten(0, 1)
        s = torch.baddbmm(off[:, None], q[:, :, :rows].flatten(0, 1), k.flatten(0, 1).mT / scale)
        s = s.view(b, self.n_heads, -1, s.shape[-1])
        e = s.softmax(-1)  # exp(S), each row scaled to 1
        t = (k @ self._heads(q_c).mT / scale).masked_fill(~keys[:, None, :, None], -torch.inf)
        floor, limit = _range(t.dtype)
        g = (t - t.detach().amax(2, keepdim=True)).clamp_min(floor).exp()  # (B, H, L, C)
        if trace.active():
            logits = s[:, None] + t.permute(0, 3, 1, 2)[:, :, :, None]
            trace.record("encoder.attention", logits.softmax(-1).flatten(0, 1))
        w_o = self.out_proj.weight.view(self.dim, self.n_heads, -1).permute(1, 2, 0)  # (H, d_h, d)
        vo = v @ w_o  # (B, H, L, d)
        gv = g[..., None] * vo[:, :, :, None]  # (B, H, L, C, d)
        total = e @ g  # (B, H, rows, C)
        e = F.dropout(e, dropout) if dropout else e
        o = (e @ gv.flatten(3)).view(b, self.n_heads, -1, n, self.dim) / total[..., None]
        o = o.sum(1).transpose(1, 2)  # (B, C, rows, d)
        beyond = total.detach().amin((1, 2)) < limit  # (B, C)
        if beyond.any():
            at = beyond.nonzero(as_tuple=True)
            o = o.index_put(at, self._added(s, t, vo, at, dropout).to(o.dtype))
        return o + self.out_proj(v_c)[:, :, None]

    @staticmethod
    def _added(s: Tensor, t: Tensor, vo: Tensor, at: tuple[Tensor, ...], dropout: float) -> Tensor:
        """``softmax(S_ij + b_j(c)) V W_O`` for n pairs ``at`` (request, candidate).

        s (B, H, rows, L), t (B, H, L, C), vo (B, H, L, d) -> (n, rows, d).
        """
        request, candidate = at
        a = (s[request] + t[request, :, :, candidate][:, :, None]).softmax(-1)  # (n, H, rows, L)
        a = F.dropout(a, dropout) if dropout else a
        return (a @ vo[request]).sum(1)

    def flops(self, n: int, length: int, rows: int) -> int:
        """Matrix-multiply FLOPs of ``forward`` on n sequences."""
        d = self.dim
        return 2 * n * (2 * rows * d * d + 2 * length * d * d + 2 * rows * length * d)

    def first_flops(self, b: int, n: int, length: int, rows: int, d_u: int) -> int:
        """Matrix-multiply FLOPs of ``first``: b requests with n candidates each."""
        d = self.dim
        h = self.n_heads
        shared = 3 * length * d_u * d + rows * length * d + length * d * d
        each = 2 * (d - d_u) * d + length * d + h * rows * length * (d + 1) + d * d
        return 2 * b * (shared + n * each)


def _range(dtype: torch.dtype) -> tuple[float, float]:
    """(floor, limit) of the factors in ``SelfAttention.first``.

    A key e^-floor times lighter than its candidate's heaviest counts as e^floor. Half of the
    exponents a number has go to that, so that E, whose rows have an entry of at least 1 / L, keeps
    the other half and no sum of products can underflow. Since a row of E sums to 1, such keys get at
    most e^floor too much, which is below the rounding of every sum that is larger than
    ``limit = e^floor / ε``; the same holds for what underflows in E.
    """
    info = torch.finfo(dtype)
    floor = math.log(info.tiny) / 2
    return floor, math.exp(floor) / info.eps


class EncoderLayer(nn.Module):
    """Post-LN encoder layer, ReLU, with the parameter names of ``nn.TransformerEncoderLayer``.

        X ← LN(X + Dropout(Attention(X)));   X ← LN(X + Dropout(W_2 Dropout(ReLU(W_1 X))))

    Args:
        dim: d.
        n_heads: H.
        hidden: width of the feed-forward net.
        dropout: everywhere above, and on the attention weights.
    """

    def __init__(self, dim: int, n_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, n_heads)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm1(x + self._drop(attended))
        return self.norm2(x + self._drop(self.linear2(self._drop(self.linear1(x).relu()))))

    def forward(self, x: Tensor, keys: Tensor, rows: int) -> Tensor:
        """x (N, L, d), keys (N, L) -> (N, rows, d)."""
        p = self.dropout if self.training else 0.0
        return self._rest(x[:, :rows], self.self_attn(x, keys, rows, p))

    def first(self, u: Tensor, c: Tensor, keys: Tensor, rows: int) -> Tensor:
        """u (B, L, d_u), c (B, C, d_c), keys (B, L) -> (B·C, rows, d): the layer on ``[u_i ; c]``.

        A single candidate has nobody to share with: its fused tokens take the plain path.
        """
        if c.shape[1] == 1:
            return self(fuse(u, c), keys, rows)
        p = self.dropout if self.training else 0.0
        attended = self.self_attn.first(u, c, keys, rows, p).flatten(0, 1)
        return self._rest(fuse(u[:, :rows], c), attended)


def fuse(u: Tensor, c: Tensor) -> Tensor:
    """Early fusion: (B, L, d_u), (B, C, d_c) -> (B·C, L, d_u + d_c), the candidate in every token."""
    shape = u.shape[0], c.shape[1], u.shape[1]
    parts = u[:, None].expand(*shape, -1), c[:, :, None].expand(*shape, -1)
    return torch.cat(parts, dim=-1).flatten(0, 1)


class Encoder(nn.Module):
    """A stack of layers; the last one computes only the rows that are read.

    Args:
        dim: d, of every layer.
        n_heads: H, of every layer.
        hidden: of every layer, width of its feed-forward net.
        dropout: of every layer.
        n_layers: at least 1.
    """

    def __init__(self, dim: int, n_heads: int, hidden: int, dropout: float, n_layers: int) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers is {n_layers}; at least 1 is needed")
        self.layers = nn.ModuleList(
            EncoderLayer(dim, n_heads, hidden, dropout) for _ in range(n_layers)
        )

    @property
    def stack(self) -> list[EncoderLayer]:
        """The layers, first to last."""
        return [cast(EncoderLayer, layer) for layer in self.layers]

    def forward(self, u: Tensor, c: Tensor | None, keys: Tensor, rows: int | None = None) -> Tensor:
        """Outputs of the first ``rows`` positions (None: all).

        u (B, L, d_u) and c (B, C, d_c) with early fusion -> (B·C, rows, d);
        u (N, L, d) alone -> (N, rows, d). keys (B, L): True = may be attended.
        """
        length = u.shape[1]
        want = [length] * (len(self.layers) - 1) + [min(rows or length, length)]
        first, *more = self.stack
        if c is None:
            x = first(u, keys, want[0])
        else:
            x = first.first(u, c, keys, want[0])
            keys = keys.repeat_interleave(c.shape[1], dim=0)
        for layer, n in zip(more, want[1:], strict=True):
            x = layer(x, keys, n)
        return x

    def flops(self, b: int, n: int, length: int, rows: int | None, d_u: int | None) -> int:
        """Matrix-multiply FLOPs: b requests, n candidates; ``d_u=None`` is without early fusion."""
        total = 0
        last = len(self.layers) - 1
        for depth, layer in enumerate(self.stack):
            r = min(rows or length, length) if depth == last else length
            if depth == 0 and d_u is not None and n > 1:
                total += layer.self_attn.first_flops(b, n, length, r, d_u)
            else:
                total += layer.self_attn.flops(b * n, length, r)
            total += 2 * b * n * r * 2 * layer.linear1.weight.numel()
        return total
