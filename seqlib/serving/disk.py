"""One LMDB file whose valid content is switched in one step, whatever is killed meanwhile.

Entries are written beside the valid ones, each in a transaction of its own, and the manifest that
names them is replaced last. A reader works in one read transaction and therefore sees the old state
or the new one. What no manifest names is left over from a refresh that was killed, failed or
interrupted: the next refresh deletes it. The folder must be on a local disk (LMDB's rule).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import lmdb

from .manifest import Manifest, StoreError, StoreFullError, entry_name

_MANIFEST = b"manifest"
_FULL = (lmdb.MapFullError, lmdb.DiskError, lmdb.TxnFullError)
# LMDB reports a write that was cut short, as by a disk that fills up, as EIO.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Disk:
    """The file of a store, opened once per process and shared by its threads.

    Args:
        path: the folder.
        env: LMDB's handle of the file in it.
    """

    def __init__(self, path: Path, env: lmdb.Environment) -> None:
        self.path = path
        self.env = env
        self._last: tuple[bytes, Manifest] | None = None

    @classmethod
    def open(cls, path: Path, create: bool, readonly: bool, map_size: int) -> Self:
        """Open the file, or make it. Errors: ``RowStore.open``."""
        data = path / "data.mdb"
        if not data.exists():
            if not create or readonly:
                raise FileNotFoundError(f"{path} holds no row store: build one first")
            path.mkdir(parents=True, exist_ok=True)
        elif data.stat().st_size < 2 * os.sysconf("SC_PAGE_SIZE"):
            # LMDB would take an empty file for a new one.
            raise StoreError(_truncated(path, data.stat().st_size))
        try:
            env = lmdb.open(str(path), map_size=map_size, readonly=readonly, create=create)
        except lmdb.Error as error:
            if "already open" in str(error):
                raise StoreError(f"{path} is open in this process; share one RowStore") from error
            raise StoreError(
                f"{path} is no readable row store; delete it and build it again ({error})"
            ) from error
        disk = cls(path, env)
        try:
            disk._check_whole()
        except BaseException:
            env.close()
            raise
        return disk

    def _check_whole(self) -> None:
        """A mapped file that was cut short kills the process that reads past its end."""
        page = self.env.stat()["psize"]
        data = self.path / "data.mdb"
        for _ in range(20):
            need = (self.env.info()["last_pgno"] + 1) * page
            if (size := data.stat().st_size) >= need:
                return
            time.sleep(1e-3)  # a writer may be between its commit and ``_extend``
        raise StoreError(_truncated(self.path, size))

    @contextlib.contextmanager
    def reading(self) -> Iterator[lmdb.Transaction]:
        """One state of the file."""
        self._check_whole()
        try:
            txn = self.env.begin(buffers=True)
        except lmdb.MapResizedError as error:
            raise StoreError(f"{self.path} outgrew its map; close it and open it again") from error
        try:
            yield txn
        finally:
            txn.abort()

    def manifest(self, txn: lmdb.Transaction) -> Manifest | None:
        """What is valid in this state; None before the first refresh has finished."""
        view = txn.get(_MANIFEST)
        if view is None:
            return None
        raw = bytes(view)
        last = self._last
        if last is None or last[0] != raw:
            self._last = last = raw, Manifest.unpack(raw, self.path)
        return last[1]

    def valid(self, txn: lmdb.Transaction) -> Manifest:
        """The same, for who needs rows. Raises StoreError if there are none yet."""
        manifest = self.manifest(txn)
        if manifest is None:
            raise StoreError(f"{self.path} has no rows yet; its first build never finished")
        return manifest

    def value(self, txn: lmdb.Transaction, key: bytes) -> memoryview:
        """An entry, without a copy. Raises StoreError if it is missing."""
        view: Any = txn.get(key)
        if view is None:
            raise StoreError(f"{self.path} lacks {entry_name(key)}; delete it and build it again")
        return view

    @contextlib.contextmanager
    def refreshing(self) -> Iterator[Manifest | None]:
        """Alone, after the leftovers of a killed refresh; a failed one leaves the old state."""
        with (self.path / "refresh.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(f"{self.path} is being refreshed by another process") from error
            try:
                self.env.reader_check()  # slots of killed readers keep old pages alive
                with self.reading() as txn:
                    old = self.manifest(txn)
                self._clean(old)
                _at("begin")
                yield old
            except BaseException as error:
                with contextlib.suppress(lmdb.Error, OSError, StoreError), self.reading() as txn:
                    self._clean(self.manifest(txn))
                self._explain(error)
                raise

    def _explain(self, error: BaseException) -> None:
        """Raise what the caller should read, if it is not this error itself."""
        code = getattr(error, "errno", None) or getattr(error, "code", None)
        if isinstance(error, _FULL) or code in _NO_ROOM:
            raise StoreFullError(
                f"{self.path}: no room for the new rows ({error}); the old state is unchanged: free "
                f"disk space or raise map_size"
            ) from error
        if isinstance(error, lmdb.ReadonlyError):
            raise StoreError(f"{self.path} was opened read-only") from error
        if isinstance(error, lmdb.Error):
            raise StoreError(
                f"{self.path}: refresh failed, the old state is unchanged ({error})"
            ) from error

    def put(self, key: bytes, raw: bytes) -> int:
        """Write one entry in a transaction of its own; returns its CRC-32."""
        with self.env.begin(write=True) as txn:
            txn.put(key, raw)
            _at("uncommitted " + entry_name(key))
        self._extend()
        _at(entry_name(key))
        return zlib.crc32(raw)

    def switch(self, new: Manifest) -> Manifest:
        """Make a new state the valid one."""
        _at("before switch")
        with self.env.begin(write=True) as txn:
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
        with self.env.begin() as txn, txn.cursor() as cursor:
            dead = [k for k in cursor.iternext(keys=True, values=False) if k not in keep]
        if not dead:
            return
        with self.env.begin(write=True) as txn:
            for key in dead:
                txn.delete(key)
        # LMDB reuses pages two transactions after they were freed: let one pass, or the next
        # refresh would grow the file although there is room in it.
        with self.env.begin(write=True) as txn:
            txn.put(b"tick", b"")
            txn.delete(b"tick")
        self._extend()

    def _extend(self) -> None:
        """Pages allocated and freed in one transaction may lie beyond the end of the file; with
        the file as long as LMDB counts, a shorter one is a truncated one."""
        need = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
        data = self.path / "data.mdb"
        if data.stat().st_size < need:
            os.truncate(data, need)


def _at(stage: str) -> None:
    """Called at every stage of a refresh; tests stop the process here."""


def _truncated(path: Path, size: int) -> str:
    return f"{path} is truncated: data.mdb has {size} bytes; delete it and build it again"
