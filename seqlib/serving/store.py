"""A key-value store on disk for rows that a model projected: item id -> (dim,) numbers.

LMDB holds it: one file, mapped into memory, read without a server and without copying. Rows lie in
blocks of some thousand, so ten thousand ids cost a few look-ups and one gather, not ten thousand
look-ups:

    slot  (n_ids,) int32   id -> row, −1 where the store has none   ┐
    rows  (block_rows, dim) a block of rows, float32 or float16     ├ all under a generation number
    stamp (rows,) uint32   the generation that wrote each row       ┘
    manifest               what is valid: **one** entry, so replacing it is the switch

A refresh writes its blocks beside the valid ones, each in a transaction of its own, and replaces
the manifest in the last. A reader works in one read transaction and therefore sees the old state or
the new one, whatever happens meanwhile. A killed, failed or interrupted refresh leaves entries that
no manifest names: the next refresh deletes them. The folder must be on a local disk (LMDB's rule).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import lmdb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FORMAT = 1
DTYPES: dict[str, Any] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
MAP_SIZE = 2**34  # addresses, not disk: the file is as large as what is in it
BLOCK_ROWS = 2**15
_MANIFEST = b"manifest"
_FULL = (lmdb.MapFullError, lmdb.DiskError, lmdb.TxnFullError)
# LMDB reports a write that was cut short, as by a disk that fills up, as EIO.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

Project = Callable[[NDArray[np.int64]], Any]  # ids (n,) -> rows (n, dim), tensor or array
Progress = Callable[[int, int], None]  # blocks written, blocks in all


class StoreError(ValueError):
    """The store can't do what was asked; the message says why and what would be right."""


class StoreFullError(StoreError):
    """No room for the new rows, in the map or on the disk. The old state is still there."""


class VersionError(StoreError):
    """The rows were made by another model, or for another catalogue, than the one expected."""


@dataclass(frozen=True)
class Manifest:
    """What is valid in a store.

    Attributes:
        generation: of this state; grows by one with every refresh.
        version: digest of the model that made the newest rows. catalogue: digest of the items.
        dtype: "float32" or "float16". dim: width of a row. rows: how many. n_ids: largest id + 1.
        block_rows: rows of a full block.
        slot: generation of the slot table. stamp: of the stamps.
        blocks: generation of each block. crc: CRC-32 of slot table, stamps and blocks, in order.
        written: generation -> (version, moment) of every refresh that valid rows come from.
        checksum: over everything above.
        notes: whatever the writer wants to find again.
    """

    generation: int
    version: str
    catalogue: str
    dtype: str
    dim: int
    rows: int
    n_ids: int
    block_rows: int
    slot: int
    stamp: int
    blocks: tuple[int, ...]
    crc: tuple[int, ...]
    written: Mapping[int, tuple[str, float]]
    notes: Mapping[str, Any] = field(default_factory=dict)
    checksum: int = 0

    @property
    def versions(self) -> set[str]:
        """Digests of all models that valid rows come from; one after a full refresh."""
        return {version for version, _ in self.written.values()}

    def entries(self) -> list[bytes]:
        """Entries of the slot table, the stamps and the blocks, in this order."""
        rows = [_key(b"rows", g, i) for i, g in enumerate(self.blocks)]
        return [_key(b"slot", self.slot), _key(b"stamp", self.stamp), *rows]

    def pack(self) -> bytes:
        """As JSON, with its checksum."""
        body = json.loads(json.dumps(dataclasses.asdict(self)))  # keys as JSON will give them back
        return json.dumps({"format": FORMAT, **body, "checksum": _checksum(body)}).encode()

    @classmethod
    def unpack(cls, raw: bytes, where: Path) -> Self:
        """Read what ``pack`` wrote. Raises StoreError."""
        try:
            body = json.loads(raw)
            if (found := body.pop("format")) != FORMAT:
                raise StoreError(
                    f"{where} is a key store of format {found}; this seqlib reads format {FORMAT}: "
                    f"build it again"
                )
            if _checksum(body) != body["checksum"]:
                raise StoreError(f"{where} has a damaged manifest; delete it and build it again")
            body["blocks"], body["crc"] = tuple(body["blocks"]), tuple(body["crc"])
            body["written"] = {int(k): tuple(v) for k, v in body["written"].items()}
            return cls(**body)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{where} has no readable manifest ({error}); build it again"
            ) from error


class Snapshot:
    """One state of a store, whatever is written meanwhile. Made by ``KeyStore.snapshot``.

    Arrays are views of the mapped file: nothing is read before it is used, and nothing may be used
    after the ``with`` block.
    """

    def __init__(self, manifest: Manifest, raw: list[memoryview]) -> None:
        m = self.manifest = manifest
        self._slot = np.frombuffer(raw[0], np.int32)
        self._stamp = np.frombuffer(raw[1], np.uint32)
        kind = DTYPES[m.dtype]
        self._blocks = [np.frombuffer(r, kind).reshape(-1, m.dim) for r in raw[2:]]
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
            rows (…, dim) float32, zeros for a miss; found (…) bool. Cost O(ids · dim).
        """
        slots = self.slots(ids)
        flat, m = slots.reshape(-1), self.manifest
        if len(self._blocks) == 1:
            rows = self._blocks[0].take(np.maximum(flat, 0), axis=0)
        else:
            rows = np.zeros((flat.size, m.dim), DTYPES[m.dtype])
            block = flat // m.block_rows
            for i in np.unique(block[flat >= 0]):
                at = np.flatnonzero(block == i)
                rows[at] = self._blocks[i].take(flat[at] - i * m.block_rows, axis=0)
        found = flat >= 0
        if not found.all():
            rows[~found] = 0
        rows = rows.astype(np.float32, copy=False).reshape(*slots.shape, m.dim)
        return torch.from_numpy(rows), torch.from_numpy(found.reshape(slots.shape))

    def written(self, ids: Tensor) -> Tensor:
        """(…) float64, the moment at which each id's row was projected; NaN for a miss."""
        slots, m = self.slots(ids), self.manifest
        generation = sorted(m.written)
        moment = np.array([m.written[g][1] for g in generation])
        at = moment[np.searchsorted(generation, self._stamp[np.maximum(slots, 0)])]
        return torch.from_numpy(np.where(slots >= 0, at, np.nan))

    def table(self) -> Tensor | None:
        """(rows, dim), row = id, without a copy; None if the store is partial, float16 or in
        several blocks. Must not be written to, nor kept."""
        m = self.manifest
        if not self._open or m.rows != m.n_ids or m.dtype != "float32" or len(self._blocks) != 1:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the array is read-only
            return torch.from_numpy(self._blocks[0])


class KeyStore:
    """A folder with one LMDB file, opened once per process and shared by its threads.

    Use ``KeyStore.open``; it is a context manager.
    """

    def __init__(self, path: Path, env: lmdb.Environment) -> None:
        self.path, self._env = path, env
        self._last: tuple[bytes, Manifest] | None = None

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
            path: the folder. create: make it if there is none.
            readonly: refuse refreshes. map_size: most bytes that the file may grow to.

        Raises:
            FileNotFoundError: there is no store and ``create`` is False.
            StoreError: truncated, damaged, no LMDB file, or open in this process already.
        """
        path = Path(path)
        data = path / "data.mdb"
        if not data.exists():
            if not create or readonly:
                raise FileNotFoundError(f"{path} holds no key store: build one first")
            path.mkdir(parents=True, exist_ok=True)
        elif data.stat().st_size < 2 * os.sysconf("SC_PAGE_SIZE"):
            # LMDB would take an empty file for a new one.
            raise StoreError(_truncated(path, data.stat().st_size))
        try:
            env = lmdb.open(str(path), map_size=map_size, readonly=readonly, create=create)
        except lmdb.Error as error:
            if "already open" in str(error):
                raise StoreError(f"{path} is open in this process; share one KeyStore") from error
            raise StoreError(
                f"{path} is no readable key store; delete it and build it again ({error})"
            ) from error
        store = cls(path, env)
        try:
            store._check_whole()
        except BaseException:
            env.close()
            raise
        return store

    def close(self) -> None:
        """Unmap the file. No snapshot may be in use."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def manifest(self) -> Manifest | None:
        """What is valid now; None before the first refresh has finished."""
        with self._reading() as txn:
            return self._read_manifest(txn)

    @contextlib.contextmanager
    def snapshot(
        self, *, catalogue: str | None = None, version: str | None = None, dim: int | None = None
    ) -> Iterator[Snapshot]:
        """One state to read from, inside a ``with`` block.

        Args:
            catalogue, version, dim: what the reader expects; None takes what there is.

        Raises:
            VersionError: other items, or rows of another model than ``version``.
            StoreError: no rows yet, another width, or the file was cut short.
        """
        with self._reading() as txn:
            m = self._read_manifest(txn)
            if m is None:
                raise StoreError(f"{self.path} has no rows yet; its first build never finished")
            if catalogue is not None and m.catalogue != catalogue:
                raise VersionError(
                    f"{self.path} was built for catalogue {m.catalogue!r}, this model knows "
                    f"{catalogue!r}: its ids mean other items; build a store for this data set"
                )
            if dim is not None and m.dim != dim:
                raise StoreError(f"{self.path} has rows of width {m.dim}; this model needs {dim}")
            if version is not None and m.versions != {version}:
                raise VersionError(
                    f"{self.path} has rows of model {sorted(m.versions)}, this model is "
                    f"{version!r}: refresh the store, or allow stale keys"
                )
            view = Snapshot(m, [self._value(txn, key) for key in m.entries()])
            try:
                yield view
            finally:
                view._close()

    def verify(self) -> None:
        """Read everything and compare checksums. Raises StoreError naming the damaged part."""
        with self._reading() as txn:
            m = self._read_manifest(txn)
            if m is None:
                raise StoreError(f"{self.path} has no rows yet; its first build never finished")
            for key, crc in zip(m.entries(), m.crc, strict=True):
                if zlib.crc32(self._value(txn, key)) != crc:
                    raise StoreError(
                        f"{self.path} is damaged: {_name(key)} does not have its checksum; "
                        f"build it again"
                    )

    def refresh(
        self,
        ids: NDArray[np.int64],
        project: Project,
        *,
        dim: int,
        version: str,
        catalogue: str,
        at: float,
        dtype: str = "float32",
        block_rows: int = BLOCK_ROWS,
        notes: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Manifest:
        """Replace the whole content: these ids and no others, in one switch.

        Args:
            ids: (n,) distinct, not negative; sorted here.
            project: called per block of ids, gives their rows (n, dim).
            dim: width. version, catalogue: digests for the manifest.
            at: the moment of the projection, on the caller's clock (seconds, training steps).
            dtype: "float32" or "float16". block_rows: rows per block. notes: kept in the manifest.
            progress: called after every block.

        Raises:
            StoreFullError: the map or the disk is full; the old state is still there.
            StoreError: another refresh is running, or rows of a wrong shape or not finite.
        """
        ids = np.unique(np.asarray(ids, np.int64))
        if dtype not in DTYPES:
            raise StoreError(f"dtype is {dtype!r}; it is one of {', '.join(DTYPES)}")
        if not len(ids) or ids[0] < 0:
            raise StoreError(f"ids has {len(ids)} ids from {ids[:1]}; give at least one, from 0")
        if block_rows < 1:
            raise StoreError(f"block_rows is {block_rows}; it must be at least 1")
        with self._refreshing() as old:
            generation = 1 if old is None else old.generation + 1
            n_blocks = -(-len(ids) // block_rows)
            crc = []
            for i in range(n_blocks):
                part = ids[i * block_rows : (i + 1) * block_rows]
                raw = _encode(project(part), (len(part), dim), dtype)
                crc.append(self._put(_key(b"rows", generation, i), raw))
                if progress is not None:
                    progress(i + 1, n_blocks)
            slot = np.full(int(ids[-1]) + 1, -1, np.int32)
            slot[ids] = np.arange(len(ids), dtype=np.int32)
            stamp = np.full(len(ids), generation, np.uint32)
            head = [
                self._put(_key(b"slot", generation), slot.tobytes()),
                self._put(_key(b"stamp", generation), stamp.tobytes()),
            ]
            new = Manifest(
                generation, version, catalogue, dtype, dim, len(ids), len(slot), block_rows,
                generation, generation, (generation,) * n_blocks, (*head, *crc),
                {generation: (version, float(at))}, dict(notes or {}),
            )  # fmt: skip
            return self._switch(new)

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
        with self._refreshing() as old:
            if old is None:
                raise StoreError(f"{self.path} has no rows yet; refresh it whole first")
            with self._reading() as txn:
                raw = [bytes(self._value(txn, key)) for key in old.entries()[:2]]
            slot = np.frombuffer(raw[0], np.int32)
            stamp = np.frombuffer(raw[1], np.uint32).copy()
            known = (ids >= 0) & (ids < len(slot))
            slots = np.where(known, slot[np.where(known, ids, 0)], -1)
            if (slots < 0).any():
                raise StoreError(
                    f"{self.path} does not hold id {ids[slots < 0][0]}; refresh it whole"
                )
            generation = old.generation + 1
            blocks, crc = list(old.blocks), list(old.crc)
            touched = np.unique(slots // old.block_rows)
            for n, i in enumerate(touched):
                mine = slots // old.block_rows == i
                rows = self._block(old, int(i))
                new_rows = _encode(project(ids[mine]), (int(mine.sum()), old.dim), old.dtype)
                rows[slots[mine] - i * old.block_rows] = np.frombuffer(
                    new_rows, DTYPES[old.dtype]
                ).reshape(-1, old.dim)
                blocks[i] = generation
                crc[2 + i] = self._put(_key(b"rows", generation, int(i)), rows.tobytes())
                if progress is not None:
                    progress(n + 1, len(touched))
            stamp[slots] = generation
            crc[1] = self._put(_key(b"stamp", generation), stamp.tobytes())
            alive = set(np.unique(stamp).tolist())
            written = {g: w for g, w in old.written.items() if g in alive}
            if generation in alive:
                written[generation] = (version, float(at))
            return self._switch(
                dataclasses.replace(
                    old, generation=generation, version=version, stamp=generation,
                    blocks=tuple(blocks), crc=tuple(crc), written=written,
                    notes=dict(old.notes) | dict(notes or {}),
                )
            )  # fmt: skip

    # --- inside ---------------------------------------------------------------------------------

    def _check_whole(self) -> None:
        """A mapped file that was cut short kills the process that reads past its end."""
        page, data = self._env.stat()["psize"], self.path / "data.mdb"
        for _ in range(20):
            need = (self._env.info()["last_pgno"] + 1) * page
            if (size := data.stat().st_size) >= need:
                return
            time.sleep(1e-3)  # a writer may be between its commit and ``_extend``
        raise StoreError(_truncated(self.path, size))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        self._check_whole()
        try:
            txn = self._env.begin(buffers=True)
        except lmdb.MapResizedError as error:
            raise StoreError(f"{self.path} outgrew its map; close it and open it again") from error
        try:
            yield txn
        finally:
            txn.abort()

    def _read_manifest(self, txn: lmdb.Transaction) -> Manifest | None:
        view = txn.get(_MANIFEST)
        if view is None:
            return None
        raw = bytes(view)
        last = self._last
        if last is None or last[0] != raw:
            self._last = last = raw, Manifest.unpack(raw, self.path)
        return last[1]

    def _value(self, txn: lmdb.Transaction, key: bytes) -> memoryview:
        view: Any = txn.get(key)
        if view is None:
            raise StoreError(f"{self.path} lacks {_name(key)}; delete it and build it again")
        return view

    def _block(self, m: Manifest, i: int) -> NDArray:
        """A copy of one valid block."""
        with self._reading() as txn:
            raw = self._value(txn, m.entries()[2 + i])
            return np.frombuffer(raw, DTYPES[m.dtype]).reshape(-1, m.dim).copy()

    @contextlib.contextmanager
    def _refreshing(self) -> Iterator[Manifest | None]:
        """Alone, after the leftovers of a killed refresh; a failed one leaves the old state."""
        with (self.path / "refresh.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{self.path} is being refreshed by another process") from error
            try:
                self._env.reader_check()  # slots of killed readers keep old pages alive
                old = self.manifest()
                self._clean(old)
                _at("begin")
                yield old
            except BaseException as error:
                with contextlib.suppress(lmdb.Error, OSError, StoreError):
                    self._clean(self.manifest())
                code = getattr(error, "errno", None) or getattr(error, "code", None)
                if isinstance(error, _FULL) or code in _NO_ROOM:
                    raise StoreFullError(
                        f"{self.path}: no room for the new rows ({error}); the old state is "
                        f"unchanged: free disk space or raise map_size"
                    ) from error
                if isinstance(error, lmdb.ReadonlyError):
                    raise StoreError(f"{self.path} was opened read-only") from error
                if isinstance(error, lmdb.Error):
                    raise StoreError(
                        f"{self.path}: refresh failed, the old state is unchanged ({error})"
                    ) from error
                raise

    def _put(self, key: bytes, raw: bytes) -> int:
        """Write one entry in a transaction of its own; returns its CRC-32."""
        with self._env.begin(write=True) as txn:
            txn.put(key, raw)
            _at("uncommitted " + _name(key))
        self._extend()
        _at(_name(key))
        return zlib.crc32(raw)

    def _switch(self, new: Manifest) -> Manifest:
        _at("before switch")
        with self._env.begin(write=True) as txn:
            txn.put(_MANIFEST, new.pack())
            _at("uncommitted switch")
        _at("switched")
        with contextlib.suppress(lmdb.Error, OSError):  # valid already; the next one cleans up
            self._extend()
            self._clean(new)
        return new

    def _clean(self, valid: Manifest | None) -> None:
        """Delete what the manifest does not name."""
        keep = {_MANIFEST, *(valid.entries() if valid else ())}
        with self._env.begin() as txn, txn.cursor() as cursor:
            dead = [k for k in cursor.iternext(keys=True, values=False) if k not in keep]
        if dead:
            with self._env.begin(write=True) as txn:
                for key in dead:
                    txn.delete(key)
            # LMDB reuses pages two transactions after they were freed: let one pass, or the next
            # refresh would grow the file although there is room in it.
            with self._env.begin(write=True) as txn:
                txn.put(b"tick", b"")
                txn.delete(b"tick")
            self._extend()

    def _extend(self) -> None:
        """Pages allocated and freed in one transaction may lie beyond the end of the file; with
        the file as long as LMDB counts, a shorter one is a truncated one."""
        need = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        data = self.path / "data.mdb"
        if data.stat().st_size < need:
            os.truncate(data, need)


def _at(stage: str) -> None:
    """Called at every stage of a refresh; tests stop the process here."""


def _key(kind: bytes, generation: int, block: int = 0) -> bytes:
    return kind + struct.pack(">QI", generation, block)


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps({**body, "checksum": 0}, sort_keys=True).encode())


def _name(key: bytes) -> str:
    generation, block = struct.unpack(">QI", key[-12:])
    kind = key[:-12].decode()
    return f"{kind} {block}" + f" of generation {generation}" * (kind == "rows")


def _truncated(path: Path, size: int) -> str:
    return f"{path} is truncated: data.mdb has {size} bytes; delete it and build it again"


def _encode(rows: Any, shape: tuple[int, int], dtype: str) -> bytes:
    """Rows as bytes of this type, checked."""
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().numpy()
    rows = np.asarray(rows)
    if rows.shape != shape:
        raise StoreError(f"rows has shape {rows.shape}; it must be {shape}")
    if rows.dtype not in (np.float16, np.float32, np.float64):
        raise StoreError(f"rows is {rows.dtype}; it must hold floats")
    if not np.isfinite(rows).all():
        raise StoreError("rows has NaN or infinity; the store keeps finite numbers only")
    largest = np.finfo(DTYPES[dtype]).max
    if np.abs(rows).max(initial=0) > largest:
        raise StoreError(f"rows reaches {np.abs(rows).max():.6g}; {dtype} ends at {largest:.6g}")
    return np.ascontiguousarray(rows, DTYPES[dtype]).tobytes()
