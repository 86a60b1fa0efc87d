"""TWIN served: item keys projected beforehand, everything else fresh (arXiv:2302.02352, §3.4).

    offline    KeyProjector ── K_h W^h of a pool of items, cyclically ──► KeyStore
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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..cost import counted_flops
from ..data.identity import digest
from ..data.schema import FIRST_ID, Events, Items, RequestBatch
from ..models.ranker import Ranker
from ..models.twin import Prefilled, Twin
from ..nn import ItemEmbedding
from ..search import Hits, hits_at_k
from .store import BLOCK_ROWS, KeyStore, Manifest, Progress, Snapshot, StoreError, VersionError

PAPER_POOL, PAPER_CYCLE, PAPER_LENGTH, PAPER_REDUCTION = 8e9, 900.0, 10_000, 0.993


def twin_of(model: nn.Module) -> Twin:
    """The TWIN inside a ranker. Raises ValueError if its encoder is another."""
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, Twin):
        raise ValueError(f"the model's encoder is {type(encoder).__name__}; TWIN is served here")
    return encoder


def catalogue_digest(items: ItemEmbedding) -> str:
    """What the ids mean: the item table, without anything learnt."""
    return digest(dict(items.named_buffers()))


def key_digest(model: nn.Module) -> str:
    """Version of a model as far as its keys go: W^h, the item tables, and the catalogue."""
    twin = twin_of(model)
    tables = {f"items.{k}": v for k, v in twin.items.tables.state_dict().items()}
    scale = {"scale": torch.as_tensor(twin.items.content_scale)}
    buffers = dict(twin.items.named_buffers())
    return digest({"w_h": twin.relevance.w_h.weight, **tables, **scale, **buffers})


def popular_head(seen: NDArray[np.integer], share: float) -> NDArray[np.int64]:
    """Fewest items that make up at least ``share`` of what was seen, and the two reserved ids.

    Args:
        seen: item ids of events, as often as they occur. share: in (0, 1].

    Raises:
        ValueError: ``share`` out of range, or nothing seen.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it must be in (0, 1]")
    ids, count = np.unique(np.asarray(seen), return_counts=True)
    if not len(ids):
        raise ValueError("seen is empty; popularity needs events")
    order = np.argsort(-count, kind="stable")
    covered = np.cumsum(count[order]) / count.sum()
    n = int(np.searchsorted(covered, share - 1e-12)) + 1
    return np.union1d(np.arange(FIRST_ID), ids[order[:n]]).astype(np.int64)


class KeyProjector:
    """The offline service: writes ``K_h W^h`` of a pool of items into a store.

    Args:
        store: where to. ids: the pool; None is the whole catalogue.
        slices: T; ``refresh_slice`` renews a T-th of the pool at a time.
        dtype: "float32" or "float16". block_rows: see ``KeyStore.refresh``.

    Raises:
        ValueError: ``slices`` below 1.
    """

    def __init__(
        self,
        store: KeyStore,
        ids: NDArray[np.int64] | None = None,
        slices: int = 1,
        dtype: str = "float32",
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        if slices < 1:
            raise ValueError(f"slices is {slices}; it must be at least 1")
        self.store, self.slices, self.dtype, self.block_rows = store, slices, dtype, block_rows
        self.ids = None if ids is None else np.unique(np.asarray(ids, np.int64))

    def refresh(self, model: nn.Module, at: float, progress: Progress | None = None) -> Manifest:
        """Project the whole pool with this model and switch to it. Errors: ``KeyStore.refresh``."""
        twin = twin_of(model)
        n = twin.items.n_rows
        ids = np.arange(n) if self.ids is None else self.ids
        if ids[-1] >= n:
            raise StoreError(f"ids reaches {ids[-1]}; the catalogue ends at {n - 1}")
        return self.store.refresh(
            ids,
            _project(twin),
            dim=twin.config.n_heads * twin.config.d_k,
            version=key_digest(model),
            catalogue=catalogue_digest(twin.items),
            at=at,
            dtype=self.dtype,
            block_rows=self.block_rows,
            notes={"next_slice": 0},
            progress=progress,
        )

    def refresh_slice(
        self, model: nn.Module, at: float, progress: Progress | None = None
    ) -> Manifest:
        """Renew the next of T slices of the pool; the rest keeps its rows and grows older.

        Where the cycle stands is kept in the store. An empty store is filled whole.

        Raises:
            VersionError: the store was built for another catalogue.
        """
        twin, old = twin_of(model), self.store.manifest()
        if old is None:
            return self.refresh(model, at, progress)
        if old.catalogue != catalogue_digest(twin.items):
            raise VersionError(
                f"{self.store.path} was built for another catalogue; refresh it whole"
            )
        ids = np.arange(twin.items.n_rows) if self.ids is None else self.ids
        t = int(old.notes.get("next_slice", 0)) % self.slices
        edges = np.linspace(0, len(ids), self.slices + 1).astype(int)
        return self.store.update(
            ids[edges[t] : edges[t + 1]],
            _project(twin),
            version=key_digest(model),
            at=at,
            notes={"next_slice": (t + 1) % self.slices},
            progress=progress,
        )


def _project(twin: Twin) -> Callable[[NDArray[np.int64]], Tensor]:
    device = twin.relevance.w_h.weight.device

    @torch.no_grad()
    def rows(ids: NDArray[np.int64]) -> Tensor:
        return twin.project_items(torch.from_numpy(ids).to(device)).float()

    return rows


@dataclass(frozen=True)
class Report:
    """What one request met in the store.

    Attributes:
        events: length of the history. hits, misses: events whose item the store has, or lacks.
        mean_age, max_age: of the hits' rows, on the projector's clock; NaN without a hit.
        generation: state of the store. fresh: every row in it is of the model that serves.
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
        probability: (B, C, T). found: (B, C, K) events handed to the ESU. reports: one per request.
    """

    probability: Tensor
    found: Hits
    reports: list[Report]


class StoredTwin(nn.Module):
    """A history encoder: TWIN with the keys of its search fetched from a store.

    ``forward`` equals ``Twin.forward`` when the rows are fresh and none is missing.

    Args:
        twin: the model, parameters shared. store: the rows.
        missing: "compute" keys of items that the store lacks, or "drop" their events from the
            search. stale: False refuses rows of another model than ``version``.
    """

    def __init__(
        self, twin: Twin, store: KeyStore, missing: Literal["compute", "drop"], stale: bool
    ) -> None:
        super().__init__()
        if missing not in ("compute", "drop"):
            raise ValueError(f"missing is {missing!r}; it is 'compute' or 'drop'")
        self.twin, self.store, self.missing, self.stale = twin, store, missing, stale
        self.out_dim = twin.out_dim
        self.catalogue, self.version, self.now = catalogue_digest(twin.items), "", 0.0
        self.last: tuple[Hits, list[Report]] | None = None

    def snapshot(self) -> Any:
        """A state of the store that fits this model."""
        c = self.twin.config
        version = None if self.stale else self.version
        return self.store.snapshot(catalogue=self.catalogue, version=version, dim=c.n_heads * c.d_k)

    def prefill(
        self, view: Snapshot, events: Events, request_time: Tensor
    ) -> tuple[Prefilled, list[Report]]:
        """``Twin.prefill`` with stored keys; valid while the snapshot is open."""
        twin, item = self.twin, self.twin.items.known(events.item)
        fresh = view.manifest.versions == {self.version}
        table = view.table()
        if table is not None and len(table) == twin.items.n_rows:
            # The mapped file itself is the table: no row is copied before the search needs it.
            state = twin.prefill(events, request_time, keys=table.to(item.device))
            found = torch.ones_like(events.mask)
        else:
            keys, found = view.get(item)
            keys, found = keys.to(item.device), found.to(item.device)
            lost = events.mask & ~found
            if self.missing == "compute" and lost.any():
                ids, at = item[lost].unique(return_inverse=True)
                keys[lost] = twin.project_items(ids)[at].to(keys)
            state = twin.prefill(events, request_time, keys=keys)
            if self.missing == "drop":
                state = replace(state, mask=state.mask & found)
        # Rows of this very model, not rounded, are what the ESU would compute.
        state = replace(state, fresh=fresh and view.manifest.dtype == "float32")
        return state, self._reports(view, item, events.mask, found, fresh)

    def _reports(
        self, view: Snapshot, item: Tensor, mask: Tensor, found: Tensor, fresh: bool
    ) -> list[Report]:
        hit = mask & found
        m, n, hits = view.manifest, mask.sum(1).tolist(), hit.sum(1).tolist()
        if len(m.written) == 1:  # after a full refresh all rows are of one age
            one = self.now - next(iter(m.written.values()))[1]
            mean = top = [one if h else float("nan") for h in hits]
        else:
            age = (self.now - view.written(item)).where(hit.cpu(), torch.nan)
            mean = age.nanmean(1).tolist()
            top = [float(a[~a.isnan()].max()) if (~a.isnan()).any() else float("nan") for a in age]
        return [
            Report(n[i], hits[i], n[i] - hits[i], mean[i], top[i], m.generation, fresh)
            for i in range(len(n))
        ]

    def forward(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, L), (B, C), (B,) -> (B, C, out_dim); ``last`` keeps what was found, and reports."""
        twin = self.twin
        with self.snapshot() as view:
            state, reports = self.prefill(view, events, request_time)
            query = twin.query(items)
            found = twin.search(state, query)
            long = twin.score(state, query, found)
        self.last = found, reports
        return twin.with_recent(long, events, items, request_time)


class TwinServer:
    """The online path: fetch keys, fresh query, cross bias, top 100, ESU, ranker.

    The server owns a copy of the model; ``sync`` brings newer parameters. Use one per thread.

    Args:
        model: a ranker whose encoder is TWIN. store: see ``KeyProjector``.
        missing: "compute" or "drop", see ``StoredTwin``. stale: False refuses keys of another model.

    Raises:
        ValueError: another encoder. VersionError, StoreError: the store does not fit.
    """

    def __init__(
        self,
        model: Ranker,
        store: KeyStore,
        *,
        missing: Literal["compute", "drop"] = "compute",
        stale: bool = True,
    ) -> None:
        twin_of(model)
        self.model = copy.deepcopy(model).eval()
        self.encoder = StoredTwin(self.model.encoder, store, missing, stale)
        self.encoder.version = key_digest(self.model)
        # The same ranker, sharing every parameter; only its encoder asks the store.
        self._ranker = self.model.with_encoder(self.encoder)
        with self.encoder.snapshot():
            pass

    def sync(self, model: Ranker) -> None:
        """Take over all parameters: W^q, w^c, β, the ESU and the ranker are fresh from now on.

        Stored keys stay as they are until the projector's next refresh.

        Raises:
            ValueError: a model of another shape or another catalogue; nothing is taken over.
        """
        new, own = model.state_dict(), self.model.state_dict()
        differs = [k for k in own.keys() | new.keys() if k not in own or k not in new
                   or own[k].shape != new[k].shape]  # fmt: skip
        if differs:
            raise ValueError(f"the new model differs in {sorted(differs)[:3]}; serve it anew")
        if catalogue_digest(twin_of(model).items) != self.encoder.catalogue:
            raise ValueError("the new model knows another catalogue; serve it anew")
        self.model.load_state_dict(new)
        self.encoder.version = key_digest(self.model)

    @torch.no_grad()
    def answer(self, batch: RequestBatch, now: float | None = None) -> Answer:
        """Score a batch of requests.

        Args:
            batch: B requests with C candidates. now: on the projector's clock; None is the time.
        """
        self.encoder.now = time.time() if now is None else now
        probability = torch.sigmoid(self._ranker(batch))
        assert self.encoder.last is not None
        return Answer(probability, *self.encoder.last)

    @torch.no_grad()
    def hits(self, batch: RequestBatch) -> Tensor:
        """(B, C): how many of the ESU's own top K the search with stored keys finds (T-C2)."""
        twin = self.encoder.twin
        query = twin.query(batch.items)
        with self.encoder.snapshot() as view:
            state, _ = self.encoder.prefill(view, batch.events, batch.request_time)
            found = twin.search(state, query)
        oracle = twin.search(twin.prefill(batch.events, batch.request_time), query)
        return hits_at_k(found, oracle)

    @torch.no_grad()
    def savings(self, batch: RequestBatch) -> Savings:
        """Multiply-adds of one batch, counted, with the keys projected and with them fetched."""
        twin, events, now = self.encoder.twin, batch.events, batch.request_time
        bias = counted_flops(lambda: twin.relevance.bias(twin.cross))

        def fetched() -> None:
            with self.encoder.snapshot() as view:
                self.encoder.prefill(view, events, now)

        return Savings(
            *(
                n // 2
                for n in (
                    counted_flops(lambda: twin.prefill(events, now)) - bias,
                    counted_flops(fetched) - bias,
                    bias,
                    counted_flops(lambda: self.model(batch)),
                    counted_flops(lambda: self._ranker(batch)),
                )
            )
        )


@dataclass(frozen=True)
class Savings:
    """Multiply-adds, as PyTorch counts them (claim T-E3).

    Attributes:
        projection, projection_cached: of ``K_h W^h`` in the GSU; what is left is the misses'.
        bias: of ``K_c w^c β``, needed in both cases.
        request, request_cached: of everything from the events to the scores. With stale keys the
            ESU projects its finalists anew, which for many candidates is as much as was saved.
    """

    projection: int
    projection_cached: int
    bias: int
    request: int
    request_cached: int

    @property
    def removed(self) -> int:
        """Multiply-adds of the GSU's projection that the store makes unnecessary."""
        return self.projection - self.projection_cached

    @property
    def share(self) -> float:
        """Of the projection stage, inherent and cross part together."""
        return self.removed / (self.projection + self.bias)


def rate_reduction(
    pool: float, cycle: float, users_per_second: float, length: float = PAPER_LENGTH
) -> float:
    """``1 − (N_pool / T_refresh) / (R_users · L)``: rows projected per second, with and without.

    The paper states 99.3 % and no derivation. With its pool of 8·10^9 items and its cycle of 15
    minutes this formula gives that value at 1.27·10^5 requests per second (``break_even`` at .993),
    a rate that the paper does not state.

    Args:
        pool: items. cycle: seconds of one refresh. users_per_second: requests. length: L.

    Returns:
        Negative when refreshing costs more than projecting at every request would.

    Raises:
        ValueError: an argument that is not positive.
    """
    for name, value in (("pool", pool), ("cycle", cycle), ("users_per_second", users_per_second),
                        ("length", length)):  # fmt: skip
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")
    return 1 - pool / cycle / (users_per_second * length)


def break_even(
    pool: float, cycle: float, length: float = PAPER_LENGTH, reduction: float = 0.0
) -> float:
    """Requests per second from which on a store saves at least ``reduction`` (0: anything)."""
    if not reduction < 1:
        raise ValueError(f"reduction is {reduction}; it must be below 1")
    return pool / cycle / ((1 - reduction) * length)
