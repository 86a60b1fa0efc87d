"""What TWIN's store holds and who writes it: item keys ``K_h W^h``, projected offline, cyclically."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.identity import digest
from ..data.schema import FIRST_ID
from ..models.twin import Twin
from ..nn import Beside, ItemEmbedding
from .manifest import Manifest, StoreError, VersionError
from .rows import BLOCK_ROWS, Progress, RowStore


def twin_of(model: nn.Module) -> Twin:
    """The TWIN inside a ranker, with or without its short branch.

    Raises:
        ValueError: the ranker's encoder is another.
    """
    encoder = getattr(model, "encoder", model)
    encoder = encoder.main if isinstance(encoder, Beside) else encoder
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
        seen: item ids of events, as often as they occur.
        share: in (0, 1].

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
        store: where to.
        ids: the pool; None is the whole catalogue.
        slices: T; ``refresh_slice`` renews a T-th of the pool at a time.
        codec: how rows are kept, see ``codecs.codec``.
        block_rows: see ``RowStore.refresh``.

    Raises:
        ValueError: ``slices`` below 1.
    """

    def __init__(
        self,
        store: RowStore,
        ids: NDArray[np.int64] | None = None,
        slices: int = 1,
        codec: str = "float32",
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        if slices < 1:
            raise ValueError(f"slices is {slices}; it must be at least 1")
        self.store = store
        self.slices = slices
        self.codec = codec
        self.block_rows = block_rows
        self.ids = None if ids is None else np.unique(np.asarray(ids, np.int64))

    def refresh(self, model: nn.Module, at: float, progress: Progress | None = None) -> Manifest:
        """Project the whole pool with this model and switch to it. Errors: ``RowStore.refresh``."""
        twin = twin_of(model)
        n = twin.items.n_rows
        ids = np.arange(n) if self.ids is None else self.ids
        if ids[-1] >= n:
            raise StoreError(f"ids reaches {ids[-1]}; the catalogue ends at {n - 1}")
        return self.store.refresh(
            ids,
            _project(twin),
            shape=(twin.config.n_heads * twin.config.d_k,),
            version=key_digest(model),
            catalogue=catalogue_digest(twin.items),
            at=at,
            codec=self.codec,
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
        twin = twin_of(model)
        old = self.store.manifest()
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
