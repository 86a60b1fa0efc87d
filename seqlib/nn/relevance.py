"""One score for search and attention, and the attention behind it: the blocks of TWIN.

    candidate q ── W^q ──────────────┐
    inherent K_h ─ W^h ── keys ──────┼── Relevance: α ──► ExactSearch: Softmax(α)ᵀ (K W^v) ──► W^o
    cross K_c ─ w^c_j, β_j ── bias ──┘

``Relevance`` holds the parameters that both stages share, ``ExactSearch`` those of the attention
alone (arXiv:2302.02352, section 3.2). What they are given, and of which events, their model says.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import trace
from ..search import Hits, by_candidates, round_robin_topk, topk
from .embedding import ItemEmbedding
from .split import CrossFeatures, lookup, tied_start

Selection = Literal["round_robin", "sum"]
NULL_START = 4.0  # lies between the scores of other topics and of the candidate's own at the start


class Relevance(nn.Module):
    """The one metric of both stages (TWIN, section 3.2), with the parameters they share.

        α_a = (K_h W^h_a)(qᵀ W^q_a)ᵀ / √d_k  +  (K_c W^c_a) β_a

    Args:
        items: the item embedding.
        key_field: named first in the tied start.
        n_cross: J, number of cross features.
        d_cross: width of each of them.
        n_heads: A.
        d_k: width of a key per head.
        start: gain of the tied start, see ``split.tied_start``.
        raw: also make a projection of the cross features into the keys.
    """

    def __init__(
        self,
        items: ItemEmbedding,
        key_field: str,
        n_cross: int,
        d_cross: int,
        n_heads: int,
        d_k: int,
        start: float,
        raw: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.d_k = d_k
        width = n_heads * d_k
        self.w_h = nn.Linear(items.n_inputs, width, bias=False)
        self.w_q = nn.Linear(items.n_inputs, width, bias=False)
        self.w_c = nn.Parameter(torch.randn(n_heads, n_cross, d_cross) * 0.3)
        self.beta = nn.Parameter(torch.ones(n_heads, n_cross))
        self.w_raw = nn.Parameter(torch.randn(n_cross, d_cross, width) * 0.1) if raw else None
        with torch.no_grad():
            self.w_h.weight.mul_(0.1)
            heads = self.w_h.weight.view(n_heads, d_k, items.n_inputs)
            tied_start(heads, items, key_field, start)
            self.w_q.weight.copy_(self.w_h.weight)

    def query(self, q: Tensor) -> Tensor:
        """(B, C, H) -> (B, C, A, d_k): no cross part, the user has not met the candidate yet."""
        return self.w_q(q).unflatten(-1, (self.n_heads, self.d_k))

    def bias(self, cross: CrossFeatures) -> Tensor:
        """(rows of the cross tables, A): β is folded into w^c, only their product matters."""
        return cross.project((self.w_c * self.beta[..., None]).permute(1, 2, 0))

    def forward(self, query: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        """α without mask or softmax.

        Args:
            query: (B, C, A, d_k).
            keys: (B, A, L, d_k) shared by the candidates, or (B, C, K, A, d_k) of their finalists.
            bias: (B, 1, A, L) or (B, C, A, K). Only the product is divided by √d_k.

        Returns:
            (B, C, A, L) or (B, C, A, K).
        """
        query = query / math.sqrt(self.d_k)
        if keys.ndim == 4:
            dot = (query.transpose(1, 2) @ keys.transpose(-1, -2)).transpose(1, 2)
        else:
            dot = torch.einsum("bcad,bckad->bcak", query, keys)
        return dot.add_(bias)  # in place: a second array of B·C·A·L scores costs time

    def search(
        self,
        query: Tensor,
        keys: Tensor,
        bias: Tensor,
        k: int,
        selection: Selection,
        budget: int,
    ) -> tuple[Hits, Tensor]:
        """The best k events of every candidate, and the scores that they were found by.

        Args:
            query: (B, C, A, d_k).
            keys: (B, A, L, d_k).
            bias: (B, 1, A, L), −inf on padding.
            k: events to find.
            selection: "round_robin" over heads, or "sum" of their scores.
            budget: numbers held at a time.

        Returns:
            Hits (B, C, min(k, L)), and α (B, C, A, K) of each of them.
        """
        of_hits: list[Tensor] = []

        def select(part: slice) -> Hits:
            alpha = self(query[:, part], keys, bias)
            trace.record("gsu.scores", alpha)
            hits = topk(alpha.sum(2), k) if selection == "sum" else round_robin_topk(alpha, k)
            index = hits.index[:, :, None].expand(-1, -1, self.n_heads, -1)
            of_hits.append(alpha.gather(-1, index))
            return hits

        found = by_candidates(select, query.shape[1], bias.numel(), budget)
        return found, torch.cat(of_hits, dim=1)

    def flops(self, n_keys: int, n_queries: int, n_scores: int) -> int:
        """Matrix-multiply FLOPs of so many projected keys and queries, and scores of all heads."""
        width = self.n_heads * self.d_k
        return 2 * width * (self.w_h.in_features * (n_keys + n_queries) + n_scores)


class ExactSearch(nn.Module):
    """The ESU's own parameters: values of all features, and the output.

        head_a = Softmax(α_a)ᵀ (K W^v_a)        TWIN = Concat(head_1 … head_A) W^o

    Args:
        d_inherent: H, width of the inherent features.
        n_cross: J, number of cross features.
        d_cross: width of each of them.
        n_heads: A.
        d_v: width of a value per head.
        d_out: width of the output.
        null: a key that stands for "nothing relevant" takes part in the softmax, and the log of
            the total is put beside the output, a number per head.
    """

    def __init__(
        self,
        d_inherent: int,
        n_cross: int,
        d_cross: int,
        n_heads: int,
        d_v: int,
        d_out: int,
        null: bool = False,
    ) -> None:
        super().__init__()
        width = n_heads * d_v
        self.n_heads = n_heads
        self.n_cross = n_cross
        self.out_dim = d_out + (n_heads if null else 0)
        self.w_v = nn.Linear(d_inherent, width, bias=False)
        self.w_v_cross = nn.Parameter(torch.randn(n_cross, d_cross, width))
        self.w_o = nn.Linear(width, d_out, bias=False)
        self.null = nn.Parameter(torch.full((n_heads,), NULL_START)) if null else None
        with torch.no_grad():
            self.w_v_cross.mul_(d_cross**-0.5)

    def values(self, table: Tensor, row: Tensor, cross: CrossFeatures, ids: Tensor) -> Tensor:
        """``K W^v``: ``K_h W^v`` from the item's row, and ``K_c W^v`` from the rows of its values.

        Args:
            table: (n, A·d_v), values of items.
            row: (…) rows of it.
            cross: the cross features.
            ids: (J, …) rows of their tables.

        Returns:
            (…, A, d_v).
        """
        v = F.embedding(row, table) + lookup(ids, cross.project(self.w_v_cross))
        return v.unflatten(-1, (self.n_heads, -1))

    def weights(self, alpha: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """α (B, C, A, n) and mask -> softmax over real events, and what else the ranker is told."""
        evidence = []
        if self.null is None:
            low = torch.finfo(alpha.dtype).min
            weights = alpha.masked_fill(~mask, low).softmax(-1) * mask
        else:
            # w_j = e^{α_j} / (e^null + Σ e^α), and log(1 + Σ e^{α − null}) beside the heads
            over = (alpha - self.null[:, None]).masked_fill(~mask, -torch.inf)
            total = F.pad(over, (1, 0)).logsumexp(-1)
            weights = (over - total[..., None]).exp()
            evidence.append(total)
        trace.record("esu.weights", weights)
        return weights, evidence

    def forward(self, alpha: Tensor, mask: Tensor, values: Tensor, pattern: str) -> Tensor:
        """Heads and output.

        Args:
            alpha: (B, C, A, n).
            mask: broadcast against alpha, True = real.
            values: of the n events, shared by candidates or not.
            pattern: of the einsum from weights and values to (B, C, A, d_v).

        Returns:
            (B, C, out_dim); zeros if no event is real.
        """
        weights, evidence = self.weights(alpha, mask)
        heads = torch.einsum(pattern, weights, values)
        return torch.cat([self.w_o(heads.flatten(2)), *evidence], dim=-1)

    def pooled(
        self,
        alpha: Tensor,
        mask: Tensor,
        table: Tensor,
        row: Tensor,
        cross: Tensor,
        ids: Tensor,
    ) -> Tensor:
        """``forward`` without (B, C, K, A, d_v) values: weighted rows are summed as they are read.

        Args:
            alpha: (B, C, A, K).
            mask: (B, C, 1, K).
            table: (n, A·d_v) values of items.
            row: (B, C, K) into it.
            cross: (m, A·d_v) values of cross features.
            ids: (J, B, C, K) into it.

        Returns:
            (B, C, out_dim).
        """
        weights, evidence = self.weights(alpha, mask)
        heads = self._bag(table, row[None], weights) + self._bag(cross, ids, weights)
        return torch.cat([self.w_o(heads.flatten(2)), *evidence], dim=-1)

    def _bag(self, table: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """``Σ_k w_k Σ_j table[ids_jk]`` per head: ids (J, B, C, K), weights -> (B, C, A, d_v)."""
        n_features = len(ids)
        b, c, a, k = weights.shape
        head = torch.arange(a, device=ids.device)[:, None]
        rows = [x[:, :, None] * a + head for x in ids]  # (B, C, A, K) each
        bags = torch.cat(rows, dim=-1).view(b * c * a, n_features * k)
        scale = weights.repeat(1, 1, 1, n_features).view(b * c * a, n_features * k)
        by_head = table.reshape(len(table) * a, -1)
        heads = F.embedding_bag(bags, by_head, mode="sum", per_sample_weights=scale.to(by_head))
        return heads.view(b, c, a, -1)

    def flops(self, n_values: int, n_pairs: int, n_found: int) -> int:
        """Matrix-multiply FLOPs: items projected, (request, candidate) pairs, events of each."""
        width = self.w_o.in_features
        per_pair = n_found * (1 + self.n_cross) + self.w_o.out_features
        return 2 * width * (self.w_v.in_features * n_values + n_pairs * per_pair)


def by_head(row: Tensor, table: Tensor, n_heads: int) -> Tensor:
    """row (B, L) of a table (n, A·d) -> (B, A, L, d), gathered in that order, nothing transposed."""
    head = torch.arange(n_heads, device=row.device)[:, None]
    return F.embedding(row[:, None] * n_heads + head, table.reshape(len(table) * n_heads, -1))
