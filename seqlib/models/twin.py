"""TWIN: one relevance score searches the whole life and weighs what it found (arXiv:2302.02352).

The general search unit (GSU) ranks up to 10^4 events for every candidate; the exact search unit
(ESU) attends to the best 100. Both use **the same function and the same parameters**, which is
affordable because each event is split into what belongs to its item, projected once for all users,
and what belongs to this user's meeting with it, compressed to one number per feature:

    inherent K_h ── W^h ── keys (one row per item, can be stored) ──┐
    candidate q ─── W^q ────────────────────────────────────────────┼─ α ─┬─ round robin ─► 100
    cross K_c ───── w^c_j, β_j ── one number per feature ───────────┘     └─ weights of those 100

Departures:
  * Initial values [ours]: W^q = W^h = ``start`` · identity on one group of inherent features per
    head (ids, frozen content), so equal topics match from the first step. The form is the paper's.
  * The short branch over the newest 50 events, whose form the paper doesn't give, is this
    course's DIN with similarities. The long search covers these events too, as the paper leaves it.
  * Cross features are age, recency rank, action set with watch bucket, and surface. The paper's
    five are other ones; β is per head (the paper writes none).
  * ``twin_evidence`` [ours] adds a null key to the softmax and hands log(1 + Σ e^{α − null}) to the
    ranker: an average alone can't say how much was found, or that nothing was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import trace
from ..data.schema import DataSpec, Items, Request
from ..data.tensors import SHARED, Tensors
from ..nn import EventEmbedding, ItemEmbedding
from ..nn.split import CrossFeatures, inherent, lookup, project_once, tied_start
from ..search import BUDGET, Hits, by_candidates, round_robin_topk, topk
from .din import beside_recent
from .registry import WITH_THE_RANKER, ModelCard, register, variant

NULL_START = 4.0  # between the scores of other topics and of the candidate's at the tied start


@dataclass(frozen=True)
class TwinConfig:
    """Sizes, search, and what the found events' scores become.

    Attributes:
        n_heads, d_k, d_v, d_out: A, key and value width per head, width of the long branch.
        d_cross: width of every cross feature. bias: let cross features into the score (False is
            the paper's "w/o Bias"; they stay in the values).
        raw: project all features of an event into its key, no split and no bias (the paper's
            "Raw MHTA"). Keys then belong to events, and there is nothing to store per item.
        k: events handed to the ESU. selection: "round_robin" over heads, or "sum" of their scores.
        null: a key that stands for "nothing relevant" takes part in the softmax, and the log of
            the total goes to the ranker beside the heads [ours].
        gsu_gradient: train on the whole history, so that events the search would pass over get a
            gradient too. Evaluation searches in either case.
        short: newest events of the short branch; 0 leaves it out.
        start: gain of the tied start, see ``nn.split.tied_start``.
        budget: numbers held at a time while searching.
    """

    n_heads: int = 4
    d_k: int = 32
    d_v: int = 32
    d_out: int = 64
    d_cross: int = 8
    bias: bool = True
    raw: bool = False
    k: int = 100
    selection: Literal["round_robin", "sum"] = "round_robin"
    null: bool = False
    gsu_gradient: bool = False
    short: int = 50
    start: float = 3.0
    budget: int = BUDGET

    def __post_init__(self) -> None:
        if self.selection not in ("round_robin", "sum"):
            raise ValueError(f"selection is {self.selection!r}; it is 'round_robin' or 'sum'")
        for name in ("n_heads", "d_k", "d_v", "d_out", "d_cross", "k", "budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.short < 0:
            raise ValueError(f"short is {self.short}; it must not be negative")


class Relevance(nn.Module):
    """The one metric of both stages (TWIN, section 3.2), with the parameters they share.

        α_a = (K_h W^h_a)(qᵀ W^q_a)ᵀ / √d_k  +  (K_c W^c_a) β_a

    Args:
        items: the item embedding.
        key_field: named first in the tied start.
        n_cross: J, number of cross features.
        config: see ``TwinConfig``.
    """

    def __init__(
        self, items: ItemEmbedding, key_field: str, n_cross: int, config: TwinConfig
    ) -> None:
        super().__init__()
        a = config.n_heads
        self.n_heads, self.d_k = a, config.d_k
        self.w_h = nn.Linear(items.n_inputs, a * config.d_k, bias=False)
        self.w_q = nn.Linear(items.n_inputs, a * config.d_k, bias=False)
        self.w_c = nn.Parameter(torch.randn(a, n_cross, config.d_cross) * 0.3)
        self.beta = nn.Parameter(torch.ones(a, n_cross))
        self.w_raw = (
            nn.Parameter(torch.randn(n_cross, config.d_cross, a * config.d_k) * 0.1)
            if config.raw
            else None
        )
        with torch.no_grad():
            self.w_h.weight.mul_(0.1)
            heads = self.w_h.weight.view(a, config.d_k, items.n_inputs)
            tied_start(heads, items, key_field, config.start)
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


class ExactSearch(nn.Module):
    """The ESU's own parameters: values of all features, and the output.

        head_a = Softmax(α_a)ᵀ (K W^v_a)        TWIN = Concat(head_1 … head_A) W^o

    Args:
        d_inherent: H. n_cross: J, number of cross features. config: see ``TwinConfig``.
    """

    def __init__(self, d_inherent: int, n_cross: int, config: TwinConfig) -> None:
        super().__init__()
        a = config.n_heads
        width = a * config.d_v
        self.n_heads, self.out_dim = a, config.d_out + (a if config.null else 0)
        self.w_v = nn.Linear(d_inherent, width, bias=False)
        self.w_v_cross = nn.Parameter(torch.randn(n_cross, config.d_cross, width))
        self.w_o = nn.Linear(width, config.d_out, bias=False)
        self.null = nn.Parameter(torch.full((a,), NULL_START)) if config.null else None
        with torch.no_grad():
            self.w_v_cross.mul_(config.d_cross**-0.5)

    def values(self, table: Tensor, row: Tensor, cross: CrossFeatures, ids: Tensor) -> Tensor:
        """K W^v (…, A, d_v): ``K_h W^v`` from the item's row, ``K_c W^v`` from the values' rows."""
        v = F.embedding(row, table) + lookup(ids, cross.project(self.w_v_cross))
        return v.unflatten(-1, (self.n_heads, -1))

    def weights(self, alpha: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """α (B, C, A, n) and mask -> softmax over real events, and what else the ranker is told."""
        if self.null is None:
            low = torch.finfo(alpha.dtype).min
            weights, evidence = alpha.masked_fill(~mask, low).softmax(-1) * mask, []
        else:
            # w_j = e^{α_j} / (e^null + Σ e^α), and log(1 + Σ e^{α − null}) beside the heads
            over = (alpha - self.null[:, None]).masked_fill(~mask, -torch.inf)
            total = F.pad(over, (1, 0)).logsumexp(-1)
            weights, evidence = (over - total[..., None]).exp(), [total]
        trace.record("esu.weights", weights)
        return weights, evidence

    def forward(self, alpha: Tensor, mask: Tensor, values: Tensor, pattern: str) -> Tensor:
        """α (B, C, A, n), mask, values -> (B, C, d_out), A more with a null key; 0 if no event."""
        weights, evidence = self.weights(alpha, mask)
        heads = torch.einsum(pattern, weights, values)
        return torch.cat([self.w_o(heads.flatten(2)), *evidence], dim=-1)

    def pooled(
        self, alpha: Tensor, mask: Tensor, table: Tensor, row: Tensor, cross: Tensor, ids: Tensor
    ) -> Tensor:
        """``forward`` without the (B, C, K, A, d_v) values: weighted rows are summed as they are read.

        Args:
            alpha: (B, C, A, K). mask: (B, C, 1, K).
            table: (n, A·d_v) values of items. row: (B, C, K) into it.
            cross: (m, A·d_v) values of cross features. ids: (J, B, C, K) into it.
        """
        weights, evidence = self.weights(alpha, mask)
        heads = self._bag(table, row[None], weights) + self._bag(cross, ids, weights)
        return torch.cat([self.w_o(heads.flatten(2)), *evidence], dim=-1)

    def _bag(self, table: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """``Σ_k w_k Σ_j table[ids_jk]`` per head: ids (J, B, C, K), weights -> (B, C, A, d_v)."""
        n_features, (b, c, a, k) = len(ids), weights.shape
        head = torch.arange(a, device=ids.device)[:, None]
        rows = [x[:, :, None] * a + head for x in ids]  # (B, C, A, K) each
        bags = torch.cat(rows, dim=-1).view(b * c * a, n_features * k)
        scale = weights.repeat(1, 1, 1, n_features).view(b * c * a, n_features * k)
        by_head = table.reshape(len(table) * a, -1)
        return F.embedding_bag(
            bags, by_head, mode="sum", per_sample_weights=scale.to(by_head)
        ).view(b, c, a, -1)


@dataclass(frozen=True, eq=False)
class TwinState(Tensors):
    """What all candidates of a request share; made once per request.

    Attributes:
        item: (B, L) ids. mask: (B, L). cross: (B, J, L) rows of the cross tables.
        row: (B, L), row of each event in ``keys``.
        keys: (n, A·d_k), ``K_h W^h`` of n items or events.
        bias: (rows of the cross tables, A), ``K_{c,j} w^c_{a,j} β_{a,j}`` of every value.
        cross_keys: (rows of the cross tables, A·d_k), added to the keys; only with ``raw``.
        fresh: False if the keys were handed in; the ESU then makes its own.
    """

    item: Tensor
    mask: Tensor
    cross: Tensor
    row: Tensor
    keys: Tensor = field(metadata=SHARED)
    bias: Tensor = field(metadata=SHARED)
    cross_keys: Tensor | None = field(metadata=SHARED)
    fresh: bool = True


class Twin(nn.Module):
    """Both stages: a history encoder.

    Args:
        embed: event embedding, of which the item tables are used.
        spec: the data set.
        config: see ``TwinConfig``.

    Cost: projections O(min(B·L, N)), search O(B·C·L·A·d_k) multiply-adds, ESU O(B·C·K).
    Memory: O(B·L·A·d_k + budget), whatever C is. Built in chapter 04.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: TwinConfig) -> None:
        super().__init__()
        self.config = config
        self.items = embed.items
        self.cross = CrossFeatures(spec, config.d_cross)
        n_cross = len(self.cross.names)
        self.relevance = Relevance(embed.items, spec.key_field, n_cross, config)
        self.esu = ExactSearch(embed.items.n_inputs, n_cross, config)
        self.out_dim = self.esu.out_dim

    def project_items(self, ids: Tensor | None = None) -> Tensor:
        """(n,) item ids -> (n, A·d_k), ``K_h W^h``: what a key store holds. None: all, row = id."""
        w_h = self.relevance.w_h
        ids = torch.arange(self.items.n_rows, device=w_h.weight.device) if ids is None else ids
        return w_h(inherent(self.items, ids))

    def prefill(self, request: Request, keys: Tensor | None = None) -> TwinState:
        """Everything that does not depend on a candidate.

        Args:
            request: B requests.
            keys: projected item keys made earlier, as ``project_items`` gives them: (N, A·d_k) for
                the catalogue, or (B, L, A·d_k) fetched for these events. None projects now.

        Raises:
            ValueError: ``keys`` of another shape, or given to a ``raw`` model.
        """
        events = request.events
        item = self.items.known(events.item)
        if keys is None:
            table, row = project_once(self.items, item, self.relevance.w_h)
        else:
            table, row = self._handed_in(keys, item)
        bias = self.relevance.bias(self.cross)
        bias = bias if self.config.bias and not self.config.raw else 0 * bias
        w_raw = self.relevance.w_raw
        return TwinState(
            item=item,
            mask=events.mask,
            cross=self.cross(events, request.time).transpose(0, 1),
            row=row,
            keys=table,
            bias=bias,
            cross_keys=None if w_raw is None else self.cross.project(w_raw),
            fresh=keys is None,
        )

    def _handed_in(self, keys: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """(n, A·d_k) and (B, L) the row of each event in it."""
        width = self.config.n_heads * self.config.d_k
        if self.config.raw:
            raise ValueError("keys of a raw model hold cross features; they can't be stored")
        if keys.shape == (self.items.n_rows, width):
            return keys, item
        if keys.shape == (*item.shape, width):
            row = torch.arange(item.numel(), device=item.device).view(item.shape)
            return keys.flatten(0, 1), row
        raise ValueError(
            f"keys has shape {tuple(keys.shape)}; it must be ({self.items.n_rows}, {width}) "
            f"for the catalogue or {(*item.shape, width)} for these events"
        )

    def query(self, items: Items) -> Tensor:
        """(B, C) candidates -> (B, C, A, d_k), ``qᵀ W^q``."""
        return self.relevance.query(inherent(self.items, items.id))

    def _history(self, state: TwinState) -> tuple[Tensor, Tensor]:
        """Keys (B, A, L, d_k) and bias (B, 1, A, L) of the whole history."""
        cross = state.cross.transpose(0, 1)
        keys = by_head(state.row, state.keys, self.config.n_heads)
        if state.cross_keys is not None:
            for ids in cross:
                keys = keys + by_head(ids, state.cross_keys, self.config.n_heads)
        return keys, lookup(cross, state.bias).transpose(1, 2)[:, None]

    def search(self, state: TwinState, items: Items, k: int | None = None) -> Hits:
        """GSU: the K most relevant events of the whole history for every candidate.

        Args:
            state: from ``prefill``. items: (B, C). k: None is the configuration's.

        Returns:
            Hits (B, C, min(K, L)), in the order of collection, without gradient. A matrix product
            may round copies of one event differently, so ties are broken by recency only where
            scores are equal.
        """
        return self.find(state, self.query(items), k)[0]

    @torch.no_grad()
    def find(self, state: TwinState, query: Tensor, k: int | None = None) -> tuple[Hits, Tensor]:
        """``search`` for queries (B, C, A, d_k): the hits, and α (B, C, A, K) of each of them."""
        c, k = self.config, self.config.k if k is None else k
        keys, bias = self._history(state)
        bias = bias.masked_fill(~state.mask[:, None, None], -torch.inf)
        of_hits: list[Tensor] = []

        def select(part: slice) -> Hits:
            alpha = self.relevance(query[:, part], keys, bias)
            trace.record("gsu.scores", alpha)
            hits = topk(alpha.sum(2), k) if c.selection == "sum" else round_robin_topk(alpha, k)
            index = hits.index[:, :, None].expand(-1, -1, c.n_heads, -1)
            of_hits.append(alpha.gather(-1, index))
            return hits

        found = by_candidates(select, query.shape[1], c.n_heads * state.mask.numel(), c.budget)
        trace.record("gsu.index", found.index)
        trace.record("gsu.mask", found.mask)
        return found, torch.cat(of_hits, dim=1)

    def score(self, state: TwinState, items: Items, found: Hits | None = None) -> Tensor:
        """ESU: attention over what was found, everything but the selection with gradient.

        Args:
            state: from ``prefill``. items: (B, C).
            found: (B, C, K) from ``search``; None searches, or in training with ``gsu_gradient``
                attends to the whole history.

        Returns:
            (B, C, out_dim).
        """
        query = self.query(items)
        if found is not None:
            return self.attend(state, query, found)
        if self.training and self.config.gsu_gradient:
            return self.attend_to_all(state, query)
        return self.attend(state, query, *self.find(state, query))

    def attend(
        self, state: TwinState, query: Tensor, found: Hits, alpha: Tensor | None = None
    ) -> Tensor:
        """The ESU for queries and their finalists.

        Where no gradient is wanted and the keys are fresh, the search's own scores are the ESU's:
        nothing is scored twice. With stale keys it makes its own.

        Args:
            state: from ``prefill``. query: (B, C, A, d_k). found: (B, C, K).
            alpha: (B, C, A, K), the search's scores of what it found; None makes them.

        Returns:
            (B, C, out_dim).
        """
        (_, n, k), mask = found.index.shape, found.mask[:, :, None]
        item = found.gather(state.item)
        cross = torch.stack([found.gather(ids) for ids in state.cross.unbind(1)])
        # The smaller set is projected: the history once, or every candidate's finalists.
        history = state.item.shape[1] <= n * k
        table, row = project_once(self.items, state.item if history else item, self.esu.w_v)
        row = found.gather(row) if history else row
        if alpha is None or not state.fresh or torch.is_grad_enabled():
            alpha = self._alpha(state, query, found, item, cross)
        if torch.is_grad_enabled():
            values = self.esu.values(table, row, self.cross, cross)
            return self.esu(alpha, mask, values, "bcak,bckad->bcad")
        of_cross = self.cross.project(self.esu.w_v_cross)
        return self.esu.pooled(alpha, mask, table, row, of_cross, cross)

    def _alpha(
        self, state: TwinState, query: Tensor, found: Hits, item: Tensor, cross: Tensor
    ) -> Tensor:
        """(B, C, A, K): the score of every finalist, with gradient."""
        if state.fresh:
            keys, row = state.keys, found.gather(state.row)
        else:
            keys, row = project_once(self.items, item, self.relevance.w_h)
        keys = F.embedding(row, keys)
        if state.cross_keys is not None:
            keys = keys + lookup(cross, state.cross_keys)
        keys = keys.unflatten(-1, (self.config.n_heads, -1))  # (B, C, K, A, d_k)
        return self.relevance(query, keys, lookup(cross, state.bias).transpose(2, 3))

    def attend_to_all(self, state: TwinState, query: Tensor) -> Tensor:
        """The ESU over the whole history, as if K were L: gradients reach every event."""
        alpha = self.relevance(query, *self._history(state))
        table, row = project_once(self.items, state.item, self.esu.w_v)
        values = self.esu.values(table, row, self.cross, state.cross.transpose(0, 1))
        return self.esu(alpha, state.mask[:, None, None], values, "bcak,bkad->bcad")

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call in evaluation, keys not handed in."""
        c, n_items, d_inherent = self.config, self.items.n_rows, self.items.n_inputs
        k, events, pairs = min(c.k, length), n_requests * length, n_requests * n_candidates
        width_k, width_v = c.n_heads * c.d_k, c.n_heads * c.d_v
        valued = events if length <= n_candidates * k else pairs * k
        total = 2 * d_inherent * width_k * (min(events, n_items) + pairs)  # W^h, W^q
        total += 2 * d_inherent * width_v * min(valued, n_items)  # W^v
        total += self.cross.flops(c.n_heads) + self.cross.flops(width_v)
        total += self.cross.flops(width_k) if c.raw else 0
        total += 2 * pairs * length * width_k  # α in the GSU, which the ESU takes over
        total += 2 * pairs * k * width_v * (1 + len(self.cross.names))  # weighted rows in the ESU
        total += 2 * pairs * width_v * c.d_out  # W^o
        return total


def by_head(row: Tensor, table: Tensor, n_heads: int) -> Tensor:
    """row (B, L) of a table (n, A·d) -> (B, A, L, d), gathered in that order, nothing transposed."""
    head = torch.arange(n_heads, device=row.device)[:, None]
    return F.embedding(row[:, None] * n_heads + head, table.reshape(len(table) * n_heads, -1))


def twin(embed: EventEmbedding, spec: DataSpec, config: TwinConfig) -> nn.Module:
    """TWIN with its short branch."""
    return beside_recent(Twin(embed, spec, config), embed, spec, config.short)


_OURS = ("tied start of W^q and W^h", "short branch: DIN with similarities on the newest 50")
register(
    ModelCard(
        name="twin",
        title="TWIN",
        source="arXiv:2302.02352, section 3",
        token="inherent item features (keys stored per item) and cross features, 8 numbers each",
        length="10^4 searched, 100 attended; the paper cuts lives at 10^5",
        attention="multi-head target attention, one score for search and attention",
        reduction="10^4 events to 100 by round robin over heads, then to one vector per candidate",
        computed="keys offline per item (15 minutes old in the paper); query, cross, top 100 online",
        trained=WITH_THE_RANKER,
        chapter="04",
        departures=(*_OURS, "cross features: age, rank, action and watch, surface; β per head"),
    ),
    TwinConfig,
    twin,
)
variant(
    "twin",
    "twin_evidence",
    "TWIN, summed evidence",
    card={
        "source": "arXiv:2302.02352, section 3, with this course's null key",
        "departures": (*_OURS, "null key in the softmax; log of the total evidence to the ranker"),
    },
    null=True,
)
