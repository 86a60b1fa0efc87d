"""A key-value store on disk for rows that a model made: id -> an array of numbers.

LMDB holds it: one file, mapped into memory, read without a server and without copying. Rows lie in
blocks of some thousand, so ten thousand ids cost a few look-ups and one gather, not ten thousand
look-ups:

    slot  (n_ids,) int32       id -> row, −1 where the store has none    ┐
    rows  (block_rows, bytes)  a block of rows, as their codec keeps them ├ under a generation number
    stamp (rows,) uint32       the generation that wrote each row         ┘
    manifest                   what is valid: **one** entry, so replacing it is the switch

How a switch survives whatever is killed meanwhile is ``disk``'s business; what a row's bytes mean is
the codec's; how content is written anew is ``rewrite``'s.
"""

from __future__ import annotations

import contextlib
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import rewrite
from .codecs import Shape, codec
from .disk import Disk
from .manifest import Manifest, StoreError, VersionError, entry_name
from .rewrite import Progress, Project

MAP_SIZE = 2**34  # Addresses, not disk: the file is as large as what is in it.
BLOCK_ROWS = 2**15


class Snapshot:
    """One state of a store, whatever is written meanwhile. Made by ``RowStore.snapshot``.

    Arrays are views of the mapped file: nothing is read before it is used, and nothing may be used
    after the ``with`` block.
    """

    def __init__(self, manifest: Manifest, raw: list[memoryview]) -> None:
        self.manifest = manifest
        self.codec = codec(manifest.codec)
        width = self.codec.nbytes(manifest.shape)
        self._slot = np.frombuffer(raw[0], np.int32)
        self._stamp = np.frombuffer(raw[1], np.uint32)
        self._blocks = [np.frombuffer(r, np.uint8).reshape(-1, width) for r in raw[2:]]
        self._open = True

    def _close(self) -> None:
        self._open = False
        del self._slot, self._stamp, self._blocks

    def slots(self, ids: Tensor) -> NDArray[np.int32]:
        """(…) ids -> (…) rows, −1 for those that the store does not hold."""
        if not self._open:
            raise StoreError("the snapshot is closed; read inside its 'with' block")
        index = ids.detach().cpu().numpy()
        inside = (index >= 0) & (index < len(self._slot))
        return np.where(inside, self._slot[np.where(inside, index, 0)], -1)

    def get(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of many ids at once.

        Args:
            ids: (…) int64, in any order, repeated or not.

        Returns:
            rows (…, *shape) float32, zeros for a miss; found (…) bool. Cost O(ids · row).
        """
        slots = self.slots(ids)
        flat = slots.reshape(-1)
        m = self.manifest
        if len(self._blocks) == 1:
            raw = self._blocks[0].take(np.maximum(flat, 0), axis=0)
        else:
            raw = np.zeros((flat.size, self._blocks[0].shape[1]), np.uint8)
            block = flat // m.block_rows
            for i in np.unique(block[flat >= 0]):
                at = np.flatnonzero(block == i)
                raw[at] = self._blocks[i].take(flat[at] - i * m.block_rows, axis=0)
        found = flat >= 0
        rows = self.codec.decode(raw, m.shape)
        if not found.all():
            rows[~found] = 0
        rows = rows.reshape(*slots.shape, *m.shape)
        return torch.from_numpy(rows), torch.from_numpy(found.reshape(slots.shape))

    def written(self, ids: Tensor) -> Tensor:
        """(…) float64, the moment at which each id's row was made; NaN for a miss."""
        slots = self.slots(ids)
        m = self.manifest
        generation = sorted(m.written)
        moment = np.array([m.written[g][1] for g in generation])
        at = moment[np.searchsorted(generation, self._stamp[np.maximum(slots, 0)])]
        return torch.from_numpy(np.where(slots >= 0, at, np.nan))

    def table(self) -> Tensor | None:
        """(rows, *shape), row = id, without a copy; None if the store is partial, in several blocks
        or not float32. Must not be written to, nor kept."""
        m = self.manifest
        if not self._open or m.rows != m.n_ids or m.codec != "float32" or len(self._blocks) != 1:
            return None
        with warnings.catch_warnings():
            # torch warns that the array is read-only, which is what it shall be.
            warnings.simplefilter("ignore")
            return torch.from_numpy(self.codec.decode(self._blocks[0], m.shape))


class RowStore:
    """A folder with one LMDB file, opened once per process and shared by its threads.

    Use ``RowStore.open``; it is a context manager.
    """

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    @property
    def path(self) -> Path:
        """The folder."""
        return self.disk.path

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        create: bool = False,
        readonly: bool = False,
        map_size: int = MAP_SIZE,
    ) -> Self:
        """Open a store.

        Args:
            path: the folder.
            create: make it if there is none.
            readonly: refuse refreshes.
            map_size: most bytes that the file may grow to.

        Raises:
            FileNotFoundError: there is no store and ``create`` is False.
            StoreError: truncated, damaged, no LMDB file, or open in this process already.
        """
        return cls(Disk.open(Path(path), create, readonly, map_size))

    def close(self) -> None:
        """Unmap the file. No snapshot may be in use."""
        self.disk.env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def manifest(self) -> Manifest | None:
        """What is valid now; None before the first refresh has finished."""
        with self.disk.reading() as txn:
            return self.disk.manifest(txn)

    @contextlib.contextmanager
    def snapshot(
        self,
        *,
        catalogue: str | None = None,
        version: str | None = None,
        shape: Shape | None = None,
    ) -> Iterator[Snapshot]:
        """One state to read from, inside a ``with`` block.

        Args:
            catalogue: the items that the reader knows; None takes what there is.
            version: the model that must have made the rows; None takes any.
            shape: of the rows that the reader needs; None takes what there is.

        Raises:
            VersionError: other items, or rows of another model than ``version``.
            StoreError: no rows yet, another shape, or the file was cut short.
        """
        with self.disk.reading() as txn:
            m = self.disk.valid(txn)
            _require_match(self.path, m, catalogue, version, shape)
            view = Snapshot(m, [self.disk.value(txn, key) for key in m.entries()])
            try:
                yield view
            finally:
                view._close()

    def verify(self) -> None:
        """Read everything and compare checksums.

        Raises:
            StoreError: naming the damaged part.
        """
        with self.disk.reading() as txn:
            m = self.disk.valid(txn)
            for key, crc in zip(m.entries(), m.crc, strict=True):
                if zlib.crc32(self.disk.value(txn, key)) != crc:
                    raise StoreError(
                        f"{self.path} is damaged: {entry_name(key)} does not have its checksum; "
                        f"build it again"
                    )

    def refresh(
        self,
        ids: NDArray[np.int64],
        project: Project,
        *,
        shape: Shape,
        version: str,
        catalogue: str,
        at: float,
        codec: str = "float32",
        block_rows: int = BLOCK_ROWS,
        notes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Replace the whole content: these ids and no others, in one switch.

        Args:
            ids: (n,) distinct, not negative; sorted here.
            project: called per block of ids, gives their rows (n, *shape).
            shape: of a row.
            version: digest of the model, for the manifest.
            catalogue: digest of the items, for the manifest.
            at: the moment of the projection, on the caller's clock (seconds, training steps).
            codec: how rows are kept, see ``codecs.codec``.
            block_rows: rows per block.
            notes: kept in the manifest.
            progress: called after every block.

        Raises:
            StoreFullError: the map or the disk is full; the old state is still there.
            StoreError: another refresh is running; rows of a wrong shape, not finite, or beyond
                what the codec keeps.
        """
        return rewrite.replace_all(
            self.disk,
            ids,
            project,
            shape=shape,
            version=version,
            catalogue=catalogue,
            at=at,
            codec_name=codec,
            block_rows=block_rows,
            notes=notes or {},
            progress=progress,
        )

    def update(
        self,
        ids: NDArray[np.int64],
        project: Project,
        *,
        version: str,
        at: float,
        notes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Replace the rows of some ids that the store holds; the others keep theirs and their age.

        Only blocks that hold one of the ids are written, so a cycle over slices of neighbouring ids
        writes each block about once when ``block_rows`` is at most a slice.

        Args:
            ids: (n,), those to replace.
            project: as in ``refresh``.
            version: as in ``refresh``.
            at: as in ``refresh``.
            notes: added to those in the manifest.
            progress: as in ``refresh``.

        Raises:
            StoreError: as in ``refresh``; also an id that the store lacks.
        """
        return rewrite.replace_some(
            self.disk,
            ids,
            project,
            version=version,
            at=at,
            notes=notes or {},
            progress=progress,
        )


def _require_match(
    path: Path,
    held: Manifest,
    catalogue: str | None,
    version: str | None,
    shape: Shape | None,
) -> None:
    """Raise unless the store holds what a reader expects; None expects nothing."""
    if catalogue is not None and held.catalogue != catalogue:
        raise VersionError(
            f"{path} was built for catalogue {held.catalogue!r}, this model knows "
            f"{catalogue!r}: its ids mean other items; build a store for this data set"
        )
    if shape is not None and held.shape != shape:
        raise StoreError(f"{path} has rows of shape {held.shape}; this model needs {shape}")
    if version is not None and held.versions != {version}:
        raise VersionError(
            f"{path} has rows of model {sorted(held.versions)}, this model is "
            f"{version!r}: refresh the store, or allow stale keys"
        )
