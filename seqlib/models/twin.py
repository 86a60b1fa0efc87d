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

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import trace
from ..data.schema import DataSpec, Items, Request
from ..data.tensors import SHARED, Tensors
from ..nn import EventEmbedding, ItemEmbedding
from ..nn.relevance import ExactSearch, Relevance, Selection, by_head
from ..nn.split import CrossFeatures, inherent, lookup, project_once
from ..search import BUDGET, Hits
from .din import beside_recent
from .registry import WITH_THE_RANKER, ModelCard, register, variant


@dataclass(frozen=True)
class TwinConfig:
    """Sizes, search, and what the found events' scores become.

    Attributes:
        n_heads: A.
        d_k: width of a key per head.
        d_v: width of a value per head.
        d_out: width of the long branch.
        d_cross: width of every cross feature.
        bias: let cross features into the score (False is the paper's "w/o Bias"; they stay in the
            values).
        raw: project all features of an event into its key, no split and no bias (the paper's
            "Raw MHTA"). Keys then belong to events, and there is nothing to store per item.
        k: events handed to the ESU.
        selection: "round_robin" over heads, or "sum" of their scores.
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
    selection: Selection = "round_robin"
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


@dataclass(frozen=True, eq=False)
class TwinState(Tensors):
    """What all candidates of a request share; made once per request.

    Attributes:
        item: (B, L) ids.
        mask: (B, L) bool, True = real.
        cross: (B, J, L) rows of the cross tables.
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

    def history(self, n_heads: int) -> tuple[Tensor, Tensor]:
        """Keys (B, A, L, d_k) and bias (B, 1, A, L) of the whole history."""
        cross = self.cross.transpose(0, 1)
        keys = by_head(self.row, self.keys, n_heads)
        if self.cross_keys is not None:
            for ids in cross:
                keys = keys + by_head(ids, self.cross_keys, n_heads)
        return keys, lookup(cross, self.bias).transpose(1, 2)[:, None]

    def finalists(
        self,
        found: Hits,
        cross: Tensor,
        n_heads: int,
        made: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Keys (B, C, K, A, d_k) and bias (B, C, A, K) of what a search found.

        Args:
            found: (B, C, K).
            cross: (J, B, C, K) rows of the cross tables.
            n_heads: A.
            made: keys (n, A·d_k) made anew and (B, C, K) rows of them; None takes the state's.
        """
        table, row = (self.keys, found.gather(self.row)) if made is None else made
        keys = F.embedding(row, table)
        if self.cross_keys is not None:
            keys = keys + lookup(cross, self.cross_keys)
        return keys.unflatten(-1, (n_heads, -1)), lookup(cross, self.bias).transpose(2, 3)


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
        self.relevance, self.esu = _stages(embed.items, spec, n_cross, config)
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
        if keys is not None and self.config.raw:
            raise ValueError("keys of a raw model hold cross features; they can't be stored")
        if keys is None:
            table, row = project_once(self.items, item, self.relevance.w_h)
        else:
            width = self.config.n_heads * self.config.d_k
            table, row = _rows_of(keys, item, self.items.n_rows, width)
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

    def query(self, items: Items) -> Tensor:
        """(B, C) candidates -> (B, C, A, d_k), ``qᵀ W^q``."""
        return self.relevance.query(inherent(self.items, items.id))

    def search(self, state: TwinState, items: Items, k: int | None = None) -> Hits:
        """GSU: the K most relevant events of the whole history for every candidate.

        Args:
            state: from ``prefill``.
            items: (B, C).
            k: None is the configuration's.

        Returns:
            Hits (B, C, min(K, L)), in the order of collection, without gradient. A matrix product
            may round copies of one event differently, so ties are broken by recency only where
            scores are equal.
        """
        return self.find(state, self.query(items), k)[0]

    @torch.no_grad()
    def find(self, state: TwinState, query: Tensor, k: int | None = None) -> tuple[Hits, Tensor]:
        """``search`` for queries (B, C, A, d_k): the hits, and α (B, C, A, K) of each of them."""
        c = self.config
        keys, bias = state.history(c.n_heads)
        bias = bias.masked_fill(~state.mask[:, None, None], -torch.inf)
        k = c.k if k is None else k
        found, alpha = self.relevance.search(query, keys, bias, k, c.selection, c.budget)
        trace.record("gsu.index", found.index)
        trace.record("gsu.mask", found.mask)
        return found, alpha

    def score(self, state: TwinState, items: Items, found: Hits | None = None) -> Tensor:
        """ESU: attention over what was found, everything but the selection with gradient.

        Args:
            state: from ``prefill``.
            items: (B, C).
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
        self,
        state: TwinState,
        query: Tensor,
        found: Hits,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """The ESU for queries and their finalists.

        Where no gradient is wanted and the keys are fresh, the search's own scores are the ESU's:
        nothing is scored twice. With stale keys it makes its own.

        Args:
            state: from ``prefill``.
            query: (B, C, A, d_k).
            found: (B, C, K).
            alpha: (B, C, A, K), the search's scores of what it found; None makes them.

        Returns:
            (B, C, out_dim).
        """
        _, n, k = found.index.shape
        mask = found.mask[:, :, None]
        item = found.gather(state.item)
        cross = torch.stack([found.gather(ids) for ids in state.cross.unbind(1)])
        # The smaller set is projected: the history once, or every candidate's finalists.
        if state.item.shape[1] <= n * k:
            table, row = project_once(self.items, state.item, self.esu.w_v)
            row = found.gather(row)
        else:
            table, row = project_once(self.items, item, self.esu.w_v)
        if alpha is None or not state.fresh or torch.is_grad_enabled():
            made = None if state.fresh else project_once(self.items, item, self.relevance.w_h)
            keys, bias = state.finalists(found, cross, self.config.n_heads, made)
            alpha = self.relevance(query, keys, bias)
        if torch.is_grad_enabled():
            values = self.esu.values(table, row, self.cross, cross)
            return self.esu(alpha, mask, values, "bcak,bckad->bcad")
        of_cross = self.cross.project(self.esu.w_v_cross)
        return self.esu.pooled(alpha, mask, table, row, of_cross, cross)

    def attend_to_all(self, state: TwinState, query: Tensor) -> Tensor:
        """The ESU over the whole history, as if K were L: gradients reach every event."""
        alpha = self.relevance(query, *state.history(self.config.n_heads))
        table, row = project_once(self.items, state.item, self.esu.w_v)
        values = self.esu.values(table, row, self.cross, state.cross.transpose(0, 1))
        return self.esu(alpha, state.mask[:, None, None], values, "bcak,bkad->bcad")

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call in evaluation, keys not handed in."""
        c = self.config
        n_items = self.items.n_rows
        k = min(c.k, length)
        n_events = n_requests * length
        n_pairs = n_requests * n_candidates
        n_valued = n_events if length <= n_candidates * k else n_pairs * k
        total = self.cross.flops(c.n_heads)
        total += self.cross.flops(c.n_heads * c.d_v)
        total += self.cross.flops(c.n_heads * c.d_k) if c.raw else 0
        # The ESU takes over the scores of the search.
        total += self.relevance.flops(min(n_events, n_items), n_pairs, n_pairs * length)
        return total + self.esu.flops(min(n_valued, n_items), n_pairs, k)


def _stages(
    items: ItemEmbedding,
    spec: DataSpec,
    n_cross: int,
    config: TwinConfig,
) -> tuple[Relevance, ExactSearch]:
    """The parameters of both stages, and those of the second alone."""
    c = config
    relevance = Relevance(
        items,
        spec.key_field,
        n_cross,
        c.d_cross,
        c.n_heads,
        c.d_k,
        c.start,
        c.raw,
    )
    esu = ExactSearch(
        items.n_inputs,
        n_cross,
        c.d_cross,
        c.n_heads,
        c.d_v,
        c.d_out,
        c.null,
    )
    return relevance, esu


def _rows_of(keys: Tensor, item: Tensor, n_items: int, width: int) -> tuple[Tensor, Tensor]:
    """Keys made elsewhere, of the catalogue or of these events -> (n, A·d_k), and (B, L) rows."""
    if keys.shape == (n_items, width):
        return keys, item
    if keys.shape == (*item.shape, width):
        row = torch.arange(item.numel(), device=item.device).view(item.shape)
        return keys.flatten(0, 1), row
    raise ValueError(
        f"keys has shape {tuple(keys.shape)}; it must be ({n_items}, {width}) "
        f"for the catalogue or {(*item.shape, width)} for these events"
    )


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
