"""TWIN served: item keys projected beforehand, everything else fresh (arXiv:2302.02352, §3.4).

    offline    KeyProjector ── K_h W^h of a pool of items, cyclically ──► RowStore
                                                                            │ rows of the user's events
    request    q W^q, K_c w^c β fresh ──────────────────────────────────────┴─► GSU ─► 100
               W^h, W^v, W^o fresh ───────────────────────────────────────────► ESU ─► ranker

Parameters reach the server at once (``TwinServer.sync``), keys only with the next refresh. So a
fresh query meets stale keys in the search, which is why the paper's search finds 94 of the 100
events that its attention would choose, and not all.

Two points on which the paper is silent are switches: an event whose item the store lacks (3 % of
requests in the paper) has its key computed on the fly or is left out of the search; and a store
whose rows are all of the very model that serves lends them to the ESU too.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..cost import counted_flops
from ..data.schema import Request
from ..models.ranker import Ranker
from ..models.twin import TwinState
from ..nn import Beside, BesideState
from ..search import Hits, hits_at_k
from .rows import RowStore, Snapshot
from .twin_keys import catalogue_digest, key_digest, twin_of
from .twin_savings import Savings


@dataclass(frozen=True)
class Report:
    """What one request met in the store.

    Attributes:
        events: length of the history.
        hits: events whose item the store has.
        misses: events whose item it lacks.
        mean_age: of the hits' rows, on the projector's clock; NaN without a hit.
        max_age: of the oldest of them.
        generation: state of the store.
        fresh: every row in it is of the model that serves.
    """

    events: int
    hits: int
    misses: int
    mean_age: float
    max_age: float
    generation: int
    fresh: bool


@dataclass(frozen=True, eq=False)
class Answer:
    """Scores of a batch of requests, and how they came about.

    Attributes:
        probability: (B, C, T).
        found: (B, C, K) events handed to the ESU.
        reports: one per request.
    """

    probability: Tensor
    found: Hits
    reports: list[Report]


class TwinServer:
    """The online path: fetch keys, fresh query, cross bias, top 100, ESU, ranker.

    The server owns a copy of the model; ``sync`` brings newer parameters. Use one per thread. With
    fresh rows and none missing, its probabilities are the model's own.

    Args:
        model: a ranker whose encoder is TWIN.
        store: the rows, see ``KeyProjector``.
        missing: "compute" keys of items that the store lacks, or "drop" their events from the
            search.
        stale: False refuses rows of another model than the one that serves.

    Raises:
        ValueError: another encoder. VersionError, StoreError: the store does not fit.
    """

    def __init__(
        self,
        model: Ranker,
        store: RowStore,
        *,
        missing: Literal["compute", "drop"] = "compute",
        stale: bool = True,
    ) -> None:
        if missing not in ("compute", "drop"):
            raise ValueError(f"missing is {missing!r}; it is 'compute' or 'drop'")
        twin_of(model)
        self.model = copy.deepcopy(model).eval()
        self.twin = twin_of(self.model)
        self.store = store
        self.missing = missing
        self.stale = stale
        self.catalogue = catalogue_digest(self.twin.items)
        self.version = key_digest(self.model)
        with self.snapshot():
            pass

    def snapshot(self) -> Any:
        """A state of the store that fits this model."""
        c = self.twin.config
        version = None if self.stale else self.version
        return self.store.snapshot(
            catalogue=self.catalogue, version=version, shape=(c.n_heads * c.d_k,)
        )

    def sync(self, model: Ranker) -> None:
        """Take over all parameters: W^q, w^c, β, the ESU and the ranker are fresh from now on.

        Stored keys stay as they are until the projector's next refresh.

        Raises:
            ValueError: a model of another shape or another catalogue; nothing is taken over.
        """
        new = model.state_dict()
        own = self.model.state_dict()
        differs = [
            k
            for k in own.keys() | new.keys()
            if k not in own or k not in new or own[k].shape != new[k].shape
        ]
        if differs:
            raise ValueError(f"the new model differs in {sorted(differs)[:3]}; serve it anew")
        if catalogue_digest(twin_of(model).items) != self.catalogue:
            raise ValueError("the new model knows another catalogue; serve it anew")
        self.model.load_state_dict(new)
        self.version = key_digest(self.model)

    def prefill(self, view: Snapshot, request: Request, now: float) -> tuple[Any, list[Report]]:
        """The encoder's state with stored keys, valid while the snapshot is open, and reports.

        Args:
            view: of the store.
            request: B requests.
            now: on the projector's clock.
        """
        item = self.twin.items.known(request.events.item)
        keys, found = self._fetch(view, item, request.events.mask)
        fresh = view.manifest.versions == {self.version}
        state = self.model.encoder.prefill(request, keys=keys)
        search = search_state(state)
        # Rows of this very model, not rounded, are what the ESU would compute.
        search = replace(search, fresh=fresh and view.manifest.codec == "float32")
        if self.missing == "drop":
            search = replace(search, mask=search.mask & found)
        hit = request.events.mask & found
        reports = _reports(view, item, hit, request.events.lengths, now, fresh)
        return with_search_state(state, search), reports

    def _fetch(self, view: Snapshot, item: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, of the catalogue or of these events, and (B, L) which the store had."""
        table = view.table()
        if table is not None and len(table) == self.twin.items.n_rows:
            # The mapped file itself is the table: no row is copied before the search needs it.
            return table.to(item.device), torch.ones_like(mask)
        keys, found = view.get(item)
        keys = keys.to(item.device)
        found = found.to(item.device)
        lost = mask & ~found
        if self.missing == "compute" and lost.any():
            ids, at = item[lost].unique(return_inverse=True)
            keys[lost] = self.twin.project_items(ids)[at].to(keys)
        return keys, found

    @torch.no_grad()
    def answer(self, request: Request, now: float | None = None) -> Answer:
        """Score B requests of C candidates.

        Args:
            request: what is known before the answer.
            now: on the projector's clock; None is the time.
        """
        encoder = self.model.encoder
        twin = self.twin
        query = twin.query(request.items)
        with self.snapshot() as view:
            state, reports = self.prefill(view, request, time.time() if now is None else now)
            found, alpha = twin.find(search_state(state), query)
            history = twin.attend(search_state(state), query, found, alpha)
        if isinstance(encoder, Beside):
            history = encoder.join(history, state, request.items)
        outputs = self.model.rank(request, history)
        return Answer(self.model.predictions(outputs), found, reports)

    @torch.no_grad()
    def hits(self, request: Request) -> Tensor:
        """(B, C): how many of the ESU's own top K the search with stored keys finds (T-C2)."""
        with self.snapshot() as view:
            state, _ = self.prefill(view, request, now=0.0)
            found = self.model.encoder.search(state, request.items)
        oracle = self.twin.search(self.twin.prefill(request), request.items)
        return hits_at_k(found, oracle)

    @torch.no_grad()
    def savings(self, request: Request) -> Savings:
        """Multiply-adds of these requests, counted, with the keys projected and with them fetched."""
        encoder = self.model.encoder
        bias = counted_flops(lambda: self.twin.relevance.bias(self.twin.cross))

        def fetched() -> None:
            with self.snapshot() as view:
                self.prefill(view, request, now=0.0)

        own = counted_flops(lambda: encoder.prefill(request))
        stored = counted_flops(fetched)
        rest = own - counted_flops(lambda: self.twin.prefill(request))
        flops = (
            own - rest - bias,
            stored - rest - bias,
            bias,
            counted_flops(lambda: self.model(request)),
            counted_flops(lambda: self.answer(request, now=0.0)),
        )
        return Savings(*(n // 2 for n in flops))


def search_state(state: TwinState | BesideState) -> TwinState:
    """TWIN's part of its encoder's state, with or without a short branch beside it."""
    return state.main if isinstance(state, BesideState) else state  # type: ignore[return-value]


def with_search_state(state: TwinState | BesideState, search: TwinState) -> TwinState | BesideState:
    """The state with another part for TWIN."""
    return replace(state, main=search) if isinstance(state, BesideState) else search


def _reports(
    view: Snapshot, item: Tensor, hit: Tensor, lengths: Tensor, now: float, fresh: bool
) -> list[Report]:
    """One report per request: what the store says of its rows, and whether all are this model's."""
    m = view.manifest
    n = lengths.tolist()
    hits = hit.sum(1).tolist()
    if len(m.written) == 1:  # after a full refresh all rows are of one age
        one = now - next(iter(m.written.values()))[1]
        mean = top = [one if h else float("nan") for h in hits]
    else:
        age = (now - view.written(item)).where(hit.cpu(), torch.nan)
        mean = age.nanmean(1).tolist()
        known = age.nan_to_num(nan=-torch.inf).amax(1)
        top = known.where(known > -torch.inf, torch.nan).tolist()
    return [
        Report(n[i], hits[i], n[i] - hits[i], mean[i], top[i], m.generation, fresh)
        for i in range(len(n))
    ]
