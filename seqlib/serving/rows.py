"""A key-value store on disk for rows that a model made: id -> an array of numbers.

LMDB holds it: one file, mapped into memory, read without a server and without copying. Rows lie in
blocks of some thousand, so ten thousand ids cost a few look-ups and one gather, not ten thousand
look-ups:

    slot  (n_ids,) int32       id -> row, −1 where the store has none    ┐
    rows  (block_rows, bytes)  a block of rows, as their codec keeps them ├ under a generation number
    stamp (rows,) uint32       the generation that wrote each row         ┘
    manifest                   what is valid: **one** entry, so replacing it is the switch

How a switch survives whatever is killed meanwhile is ``disk``'s business; what a row's bytes mean is
the codec's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .codecs import Codec, Shape, codec
from .disk import Disk
from .manifest import Manifest, StoreError, VersionError, entry, entry_name

MAP_SIZE = 2**34  # addresses, not disk: the file is as large as what is in it
BLOCK_ROWS = 2**15

Project = Callable[[NDArray[np.int64]], Any]  # ids (n,) -> rows (n, *shape), tensor or array
Progress = Callable[[int, int], None]  # blocks written, blocks in all


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
        flat, m = slots.reshape(-1), self.manifest
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
        slots, m = self.slots(ids), self.manifest
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
            warnings.simplefilter("ignore")  # torch warns that the array is read-only
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
            catalogue, version, shape: what the reader expects; None takes what there is.

        Raises:
            VersionError: other items, or rows of another model than ``version``.
            StoreError: no rows yet, another shape, or the file was cut short.
        """
        with self.disk.reading() as txn:
            m = self.disk.valid(txn)
            if catalogue is not None and m.catalogue != catalogue:
                raise VersionError(
                    f"{self.path} was built for catalogue {m.catalogue!r}, this model knows "
                    f"{catalogue!r}: its ids mean other items; build a store for this data set"
                )
            if shape is not None and m.shape != shape:
                raise StoreError(
                    f"{self.path} has rows of shape {m.shape}; this model needs {shape}"
                )
            if version is not None and m.versions != {version}:
                raise VersionError(
                    f"{self.path} has rows of model {sorted(m.versions)}, this model is "
                    f"{version!r}: refresh the store, or allow stale keys"
                )
            view = Snapshot(m, [self.disk.value(txn, key) for key in m.entries()])
            try:
                yield view
            finally:
                view._close()

    def verify(self) -> None:
        """Read everything and compare checksums. Raises StoreError naming the damaged part."""
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
            version, catalogue: digests for the manifest.
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
        ids = np.unique(np.asarray(ids, np.int64))
        if not len(ids) or ids[0] < 0:
            raise StoreError(f"ids has {len(ids)} ids from {ids[:1]}; give at least one, from 0")
        if block_rows < 1:
            raise StoreError(f"block_rows is {block_rows}; it must be at least 1")
        kept = _codec(codec, shape)
        with self.disk.refreshing() as old:
            generation = 1 if old is None else old.generation + 1
            parts = [ids[i : i + block_rows] for i in range(0, len(ids), block_rows)]
            crc = []
            for i, part in enumerate(parts):
                raw = _encode(kept, project(part), (len(part), *shape))
                crc.append(self.disk.put(entry(b"rows", generation, i), raw.tobytes()))
                if progress is not None:
                    progress(i + 1, len(parts))
            slot = np.full(int(ids[-1]) + 1, -1, np.int32)
            slot[ids] = np.arange(len(ids), dtype=np.int32)
            stamp = np.full(len(ids), generation, np.uint32)
            head = [
                self.disk.put(entry(b"slot", generation), slot.tobytes()),
                self.disk.put(entry(b"stamp", generation), stamp.tobytes()),
            ]
            new = Manifest(
                generation=generation,
                version=version,
                catalogue=catalogue,
                codec=kept.name,
                shape=tuple(shape),
                rows=len(ids),
                n_ids=len(slot),
                block_rows=block_rows,
                slot=generation,
                stamp=generation,
                blocks=(generation,) * len(parts),
                crc=(*head, *crc),
                written={generation: (version, float(at))},
                notes=dict(notes or {}),
            )
            return self.disk.switch(new)

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

        Arguments and errors are as in ``refresh``; also StoreError for an id that it lacks.
        """
        ids = np.unique(np.asarray(ids, np.int64))
        with self.disk.refreshing() as old:
            if old is None:
                raise StoreError(f"{self.path} has no rows yet; refresh it whole first")
            slots, stamp = self._places(old, ids)
            generation = old.generation + 1
            blocks, crc = list(old.blocks), list(old.crc)
            touched = np.unique(slots // old.block_rows)
            for n, i in enumerate(touched):
                mine = slots // old.block_rows == i
                raw = self._renewed(old, int(i), project, ids[mine], slots[mine])
                blocks[i] = generation
                crc[2 + i] = self.disk.put(entry(b"rows", generation, int(i)), raw.tobytes())
                if progress is not None:
                    progress(n + 1, len(touched))
            stamp[slots] = generation
            crc[1] = self.disk.put(entry(b"stamp", generation), stamp.tobytes())
            alive = set(np.unique(stamp).tolist())
            written = {g: w for g, w in old.written.items() if g in alive}
            if generation in alive:
                written[generation] = (version, float(at))
            new = dataclasses.replace(
                old,
                generation=generation,
                version=version,
                stamp=generation,
                blocks=tuple(blocks),
                crc=tuple(crc),
                written=written,
                notes=dict(old.notes) | dict(notes or {}),
            )
            return self.disk.switch(new)

    def _places(
        self, old: Manifest, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
        """Rows of the ids, and a copy of all stamps. Raises StoreError for an id that is not held."""
        with self.disk.reading() as txn:
            raw = [bytes(self.disk.value(txn, key)) for key in old.entries()[:2]]
        slot = np.frombuffer(raw[0], np.int32)
        known = (ids >= 0) & (ids < len(slot))
        slots = np.where(known, slot[np.where(known, ids, 0)], -1)
        if (slots < 0).any():
            raise StoreError(f"{self.path} does not hold id {ids[slots < 0][0]}; refresh it whole")
        return slots, np.frombuffer(raw[1], np.uint32).copy()

    def _renewed(
        self,
        old: Manifest,
        block: int,
        project: Project,
        ids: NDArray[np.int64],
        slots: NDArray[np.int32],
    ) -> NDArray[np.uint8]:
        """A copy of one valid block with the rows of some ids made anew."""
        kept = codec(old.codec)
        with self.disk.reading() as txn:
            raw = self.disk.value(txn, old.entries()[2 + block])
            rows = np.frombuffer(raw, np.uint8).reshape(-1, kept.nbytes(old.shape)).copy()
        rows[slots - block * old.block_rows] = _encode(kept, project(ids), (len(ids), *old.shape))
        return rows


def _codec(name: str, shape: Shape) -> Codec:
    try:
        kept = codec(name)
        kept.nbytes(shape)
    except ValueError as error:
        raise StoreError(str(error)) from error
    return kept


def _encode(kept: Codec, rows: Any, shape: Shape) -> NDArray[np.uint8]:
    """Rows as bytes, checked."""
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().numpy()
    rows = np.asarray(rows)
    if rows.shape != shape:
        raise StoreError(f"rows has shape {rows.shape}; it must be {shape}")
    if rows.dtype not in (np.float16, np.float32, np.float64):
        raise StoreError(f"rows is {rows.dtype}; it must hold floats")
    if not np.isfinite(rows).all():
        raise StoreError("rows has NaN or infinity; the store keeps finite numbers only")
    try:
        return kept.encode(rows)
    except ValueError as error:
        raise StoreError(str(error)) from error
