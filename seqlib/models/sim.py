"""SIM: search the history with the candidate as query, then attend (arXiv:2006.05639, CIKM 2020).

A general search unit (GSU) cuts the whole life to K events, an exact search unit (ESU) attends:

    hard   r_i = [C_i = C_a]                 same category (or cluster), newest first
    soft   r_i = (W_b e_i) · (W_a e_a)       inner product; trained by a loss of its own
    ESU    att = Softmax(W_b z · W_a e_a)    head_i = attᵀ z     z = [e, e^t], e^t the time gap

The search's metric is not the attention's. What this costs is TWIN's subject.

Registered: ``sim_hard`` (by category), ``sim_soft_joint`` (the paper's soft search, with its loss),
``sim_soft_pretrained`` (inner product of frozen content vectors, which is what TWIN's tables call
SIM Soft), ``sim_cluster`` (a hard search in clusters of the content vectors, from the same tables).

Departures:
  * Exact top-k in place of an approximate index. Fewer than K matches leave the rest masked;
    ``fill`` takes the newest other events instead.
  * e is item + action vector; the gap is a log bucket of the age, 8 numbers. W_a, W_b keep the
    width d. The ESU has no 1/√d, no value projection and no bias, as in the paper.
  * U_r is divided by the number of events: the gradient of a sum over 10^4 of them would drown
    the attention's. Still raw scores, no softmax.
  * W_a = W_b = ``start`` · identity on the item vector at first [ours], as TWIN's start is tied:
    the two are to differ in how they search, not in how they begin.
  * The short branch is DIN with similarities on the newest 50 events, as for TWIN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import objectives, trace
from ..data.schema import FIRST_ID, Answers, DataSpec, Items, Request
from ..data.tensors import Tensors
from ..nn import MLP, EventEmbedding, LogBucketEncoding, TaskHeads
from ..nn.embedding import MINUTE
from ..search import BUDGET, Hits, inner_product_topk, kmeans, same_field_topk
from .din import beside_recent
from .registry import WITH_THE_RANKER, ModelCard, register, variant

Search = Literal["hard", "cluster", "soft_joint", "soft_pretrained"]
SEARCHES = ("hard", "cluster", "soft_joint", "soft_pretrained")


@dataclass(frozen=True)
class SimConfig:
    """Which search, and the attention behind it.

    Attributes:
        search: "hard", "cluster", "soft_joint" or "soft_pretrained".
        field: item field of the hard search; None is "category" where there is one, else the data
            set's key field.
        fill: fill free places of a hard search with the newest other events.
        n_clusters: of the cluster search, found once by k-means on frozen content vectors; no more
            than there are items.
        k: events handed to the ESU.
        n_heads: q, of its attention.
        d_head: width of each inner product.
        d_time: width of e^t; 0 leaves the time gap out of the tokens.
        start: gain of the tied start.
        auxiliary: α, weight of the soft search's own loss (the paper's 1; the ESU's loss has 1).
        short: newest events of the short branch; 0 leaves it out.
        budget: numbers held at a time while searching.
    """

    search: Search = "hard"
    field: str | None = None
    fill: bool = False
    n_clusters: int = 1_000
    k: int = 100
    n_heads: int = 4
    d_head: int = 32
    d_time: int = 8
    start: float = 2.0
    auxiliary: float = 1.0
    short: int = 50
    budget: int = BUDGET

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise ValueError(f"search is {self.search!r}; one of {', '.join(SEARCHES)}")
        if self.k < 1:
            raise ValueError(f"k is {self.k}; a search returns at least 1 event")
        if self.n_clusters < 1:
            raise ValueError(f"n_clusters is {self.n_clusters}; it must be at least 1")
        for name in ("auxiliary", "short", "d_time"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")


def behaviour(embed: EventEmbedding, item: Tensor, action: Tensor) -> Tensor:
    """(…) item ids and action ids -> (…, D): what it was and what was done, without when."""
    x = embed.items(item)
    return x + embed.action(action) if embed.config.use_action else x


class SearchAttention(nn.Module):
    """SIM's exact search unit: ``head_i = Softmax(W_{b,i} z · W_{a,i} e_a)ᵀ z``, concatenated.

    Args:
        dim: d of e_a.
        d_token: width of z, whose first d numbers are e.
        n_heads: q.
        d_head: width of each inner product.
        start: W_a = W_b = start · identity, and small noise.
    """

    def __init__(
        self,
        dim: int,
        d_token: int,
        n_heads: int,
        d_head: int,
        start: float = 2.0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.d_head = d_head
        self.w_a = nn.Linear(dim, n_heads * d_head, bias=False)
        self.w_b = nn.Linear(d_token, n_heads * d_head, bias=False)
        self.out_dim = n_heads * d_token
        with torch.no_grad():
            for linear in (self.w_a, self.w_b):
                is_item = torch.arange(linear.in_features) < dim  # the rest of a token is e^t
                eye = start * torch.eye(d_head, linear.in_features) * is_item
                linear.weight.mul_(0.1).add_(eye.repeat(n_heads, 1))

    def scores(self, query: Tensor, z: Tensor) -> Tensor:
        """query (B, C, d), z (B, L, d_token) shared by the candidates -> (B, C, q, L)."""
        q = self.w_a(query).unflatten(-1, (self.n_heads, self.d_head))
        return torch.einsum("bcqd,blqd->bcql", q, self.w_b(z).unflatten(-1, q.shape[-2:]))

    def forward(self, query: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """query (B, C, d), z (B, C, K, d_token), mask (B, C, K) -> (B, C, out_dim), 0 if empty."""
        b, c, k = mask.shape
        heads = self.n_heads
        q = self.w_a(query).view(b, c, heads, self.d_head)
        s = torch.einsum("bcqd,bckqd->bcqk", q, self.w_b(z).view(b, c, k, heads, self.d_head))
        real = mask[:, :, None]
        w = s.masked_fill(~real, torch.finfo(s.dtype).min).softmax(-1) * real
        trace.record("esu.weights", w)
        return (w @ z).flatten(2)

    def flops(self, pairs: int, k: int) -> int:
        """Matrix-multiply FLOPs for B·C pairs with k finalists."""
        width = self.n_heads * self.d_head
        token = self.w_b.in_features
        per_event = token * width + width + self.n_heads * token
        return 2 * pairs * (self.w_a.in_features * width + k * per_event)


@dataclass(frozen=True, eq=False)
class SimState(Tensors):
    """What a request's candidates share.

    Attributes:
        item: (B, L) ids.
        action: (B, L) ids.
        age: (B, L) seconds before the request.
        mask: (B, L).
        keys: what the search compares: (B, L) groups, or (B, L, D) vectors.
        e: (B, L, d) behaviours, for the soft search's own loss; None but in its training.
    """

    item: Tensor
    action: Tensor
    age: Tensor
    mask: Tensor
    keys: Tensor
    e: Tensor | None = None


class Sim(nn.Module):
    """GSU and ESU: a history encoder in two stages.

    Args:
        embed: event embedding.
        spec: the data set.
        config: see ``SimConfig``.

    Raises:
        ValueError: the hard search's field is no item field; a pretrained or cluster search
            without content.

    Cost: search O(B·C·L) (hard) or O(B·C·L·D) (soft), ESU O(B·C·K). Built in chapter 04.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: SimConfig) -> None:
        super().__init__()
        self.embed = embed
        self.items = embed.items
        self.config = config
        dim = embed.items.dim
        fields = spec.items.fields
        default = "category" if "category" in fields else spec.key_field
        self.field = config.field or default
        if self.field not in fields:
            raise ValueError(f"no field {self.field!r}; there are {list(fields)}")
        needs_content = config.search in ("soft_pretrained", "cluster")
        if needs_content and not embed.items.content.shape[1]:
            raise ValueError(f"items have no content vectors; {config.search!r} needs them")
        if config.search == "cluster":
            content = embed.items.content[FIRST_ID:]
            found = kmeans(content, min(config.n_clusters, len(content)))
            self.register_buffer("cluster", F.pad(found.label, (FIRST_ID, 0), value=-1))
        self.gap = LogBucketEncoding(42, config.d_time, unit=MINUTE) if config.d_time else None
        self.esu = SearchAttention(
            dim,
            dim + config.d_time,
            config.n_heads,
            config.d_head,
            config.start,
        )
        if config.search == "soft_joint":
            self.w_a = nn.Linear(dim, dim, bias=False)
            self.w_b = nn.Linear(dim, dim, bias=False)
            with torch.no_grad():
                for linear in (self.w_a, self.w_b):
                    linear.weight.mul_(0.1).add_(torch.eye(dim))
            self.hidden = MLP((2 * dim, dim))
            self.head = TaskHeads(dim, 2 * dim, spec.base_rates, spec.tasks)
            self.tasks = spec.tasks
        self.out_dim = self.esu.out_dim

    def prefill(self, request: Request) -> SimState:
        """Everything that does not depend on a candidate."""
        events = request.events
        c = self.config
        item = self.items.known(events.item)
        action = self.embed.action_id(events)
        e = None
        if c.search in ("hard", "cluster"):
            keys = self._groups(item)
        elif c.search == "soft_pretrained":
            keys = self.items.content[item]
        else:
            e = behaviour(self.embed, item, action)
            with torch.no_grad():
                keys = self.w_b(e)
        age = request.time[:, None] - events.time
        return SimState(item, action, age, events.mask, keys, e if self.training else None)

    def search(
        self,
        state: SimState,
        items: Items,
        k: int | None = None,
        fill: bool | None = None,
    ) -> Hits:
        """GSU: the events handed to the attention, no gradient.

        Args:
            state: from ``prefill``.
            items: (B, C).
            k: None is the configuration's.
            fill: None is the configuration's.

        Returns:
            Hits (B, C, min(K, L)).
        """
        c = self.config
        k = c.k if k is None else k
        fill = c.fill if fill is None else fill
        candidate = self.items.known(items.id)
        if c.search in ("hard", "cluster"):
            groups = self._groups(candidate)
            return same_field_topk(groups, state.keys, state.mask, k, fill, c.budget)
        with torch.no_grad():
            if c.search == "soft_pretrained":
                query = self.items.content[candidate]
            else:
                query = self.w_a(self.items(candidate))
        return inner_product_topk(query, state.keys, k, state.mask, c.budget)

    def _groups(self, ids: Tensor) -> Tensor:
        """(…) item ids -> (…), what a hard search compares: the field, or the cluster."""
        if self.config.search == "cluster":
            return self.get_buffer("cluster")[ids]
        return self.items.field_ids(self.field, ids)

    def score(self, state: SimState, items: Items, found: Hits | None = None) -> Tensor:
        """ESU: attention over what was found.

        Args:
            state: from ``prefill``.
            items: (B, C).
            found: from ``search``; None searches.

        Returns:
            (B, C, out_dim). In training the soft search also publishes a loss of its own, "search".
        """
        query = self.items(items.id)
        found = self.search(state, items) if found is None else found
        trace.record("gsu.index", found.index)
        trace.record("gsu.mask", found.mask)
        e = behaviour(self.embed, found.gather(state.item), found.gather(state.action))
        z = self._with_gap(e, found.gather(state.age))
        if self.training and state.e is not None:
            objectives.publish("search", self._stage_one(state, query))
        return self.esu(query, z, found.mask)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def _with_gap(self, e: Tensor, age: Tensor) -> Tensor:
        """z = [e, e^t] from (…, D) vectors and (…) ages in seconds."""
        return e if self.gap is None else torch.cat([e, self.gap(age)], dim=-1)

    @torch.no_grad()
    def exact_scores(self, state: SimState, items: Items) -> Tensor:
        """What the ESU thinks of every event, found or not: (B, C, q, L), −inf for padding.

        Its best K are the oracle that a search is measured against.
        """
        z = self._with_gap(behaviour(self.embed, state.item, state.action), state.age)
        s = self.esu.scores(self.items(items.id), z)
        return s.masked_fill(~state.mask[:, None, None], -torch.inf)

    def _stage_one(self, state: SimState, query: Tensor) -> objectives.Term:
        """``α · Loss_GSU``: the search's own head on [U_r, e_a], ``U_r = Σ_i r_i e_i``."""
        assert state.e is not None
        e = state.e * state.mask[..., None]
        r = self.w_a(query) @ self.w_b(e).transpose(1, 2)  # (B, C, L) raw scores, no softmax
        u = r @ e / state.mask.sum(-1).clamp_min(1)[:, None, None]
        x = torch.cat([u, query], dim=-1)
        logits = self.head(self.hidden(x), x)

        def term(answers: Answers) -> Tensor:
            losses = [
                objectives.task_loss(logits, answers, t, task) for t, task in enumerate(self.tasks)
            ]
            return self.config.auxiliary * torch.stack(losses).sum()

        return term

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call in evaluation."""
        c = self.config
        items = self.items
        pairs = n_requests * n_candidates
        k = min(c.k, length)
        total = items.flops(pairs) + items.flops(pairs * k) + self.esu.flops(pairs, k)
        if c.search == "soft_pretrained":
            total += 2 * pairs * length * items.content.shape[1]
        if c.search == "soft_joint":
            total += items.flops(pairs) + items.flops(n_requests * length)
            total += 2 * items.dim**2 * (pairs + n_requests * length)
            total += 2 * pairs * length * items.dim
        return total


def sim(embed: EventEmbedding, spec: DataSpec, config: SimConfig) -> nn.Module:
    """SIM with its short branch."""
    return beside_recent(Sim(embed, spec, config), embed, spec, config.short)


_ATTENTION = "multi-head target attention on the found events, unscaled, without values"
_OURS = (
    "exact top-k, no approximate index",
    "free places masked",
    "tied start of W_a and W_b",
    "short branch: DIN with similarities on the newest 50",
)
_FROZEN = "attention a part of the ranker that learns with it; content vectors a model of their own"
register(
    ModelCard(
        name="sim_hard",
        title="SIM hard",
        source="arXiv:2006.05639, section 3.2",
        token="item, action set and age bucket of each found event",
        length="10^4 searched, 100 attended; the paper searches up to 54,000",
        attention=f"search: same category, newest first; then {_ATTENTION}",
        reduction="search to 100 events, then one vector per head and candidate",
        computed="lists per user and category kept up to date; attention online",
        trained=WITH_THE_RANKER,
        chapter="04",
        departures=_OURS,
    ),
    SimConfig,
    sim,
    search="hard",
)
variant(
    "sim_hard",
    "sim_cluster",
    "SIM cluster",
    card={
        "source": "SIM Cluster of arXiv:2302.02352, Table 4",
        "attention": "search: same cluster of frozen content vectors, newest first; "
        f"then {_ATTENTION}",
        "computed": "lists per user and cluster kept up to date; attention online",
        "trained": _FROZEN,
        "departures": (*_OURS, "ESU as in SIM's paper"),
    },
    search="cluster",
)
variant(
    "sim_hard",
    "sim_soft_joint",
    "SIM soft, joint",
    card={
        "attention": "search: inner product, trained with the model by its own loss; "
        f"then {_ATTENTION}",
        "computed": "search and attention online, per candidate; embeddings as fresh as the model",
        "trained": f"{WITH_THE_RANKER}; the search by a loss of its own",
        "departures": (*_OURS, "U_r a mean, not a sum"),
    },
    search="soft_joint",
)
variant(
    "sim_hard",
    "sim_soft_pretrained",
    "SIM soft, frozen",
    card={
        "source": "SIM Soft of arXiv:2302.02352, Table 4",
        "attention": f"search: inner product of frozen content vectors; then {_ATTENTION}",
        "computed": "search and attention online, per candidate; content vectors never change",
        "trained": _FROZEN,
        "departures": (*_OURS, "ESU as in SIM's paper"),
    },
    search="soft_pretrained",
)
