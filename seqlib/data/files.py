"""Files that are either whole or absent, and Parquet errors that say what to do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .schema import SchemaError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_META = b"seqlib"
PARTIAL = r"\.[a-z0-9_]{8}\.partial"  # how the name of an unfinished file goes on: mkstemp's


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    Whatever happens, ``path`` holds the old file, the new file or nothing: never half a file.
    A killed process leaves a ``….partial`` file behind, which nothing reads and the next writer of
    the same path deletes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_partials_of_the_dead(path)
    handle, partial = _begin(path)
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's file is private
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Alone with a folder until the block ends or the process dies; False if it has gone.

    Where there is no such lock (Windows, some network disks) two are not kept apart.
    """
    if fcntl is None or not path.exists():
        yield path.exists()
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(handle, fcntl.LOCK_EX)
        yield _is_at(handle, path)
    finally:
        os.close(handle)


def digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _begin(path: Path) -> tuple[int | None, Path]:
    """A handle whose lock says that the writer lives, and the new temporary file it holds."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".partial")
        if fcntl is None:
            os.close(handle)
            return None, Path(name)
        _lock(handle, fcntl.LOCK_EX)
        if _is_at(handle, Path(name)):  # or another writer took it for a dead one's
            return handle, Path(name)
        os.close(handle)


def _delete_partials_of_the_dead(path: Path) -> None:
    """Those of ``path`` that nobody holds."""
    if fcntl is None:
        return
    for name in os.listdir(path.parent):
        partial = path.with_name(name)
        if not re.fullmatch(re.escape(path.name) + PARTIAL, name) or partial.is_symlink():
            continue
        with suppress(OSError):  # it has gone, or is not ours to open
            handle = os.open(partial, os.O_RDWR)
            try:
                if _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    partial.unlink()
            finally:
                os.close(handle)


def _lock(handle: int, how: int) -> bool:
    """Whether the open file's lock was taken: another holds it, or the disk knows no locks."""
    try:
        fcntl.flock(handle, how)
    except OSError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def write_table(path: str | Path, table: pa.Table, kind: str, meta: Mapping[str, Any]) -> None:
    """Write ``table`` whole or not at all; ``kind`` says what it is when it is read again."""
    head = {_META: json.dumps({"kind": kind, **meta}).encode()}
    with whole_file(path) as partial:
        pq.write_table(
            table.replace_schema_metadata(head),
            partial,
            compression="zstd",
            write_page_checksum=True,
        )


def read_meta(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """What ``write_table`` noted in the file.

    Raises:
        SchemaError: the file is truncated, is no Parquet, or is not of this ``kind``.
        FileNotFoundError: there is none.
    """
    with _readable(path):
        raw = (pq.read_schema(path).metadata or {}).get(_META)
    if raw is None:
        raise SchemaError(f"{path} was not written by seqlib: its Parquet metadata has no 'seqlib'")
    meta = json.loads(raw)
    if kind is not None and meta["kind"] != kind:
        raise SchemaError(f"{path} holds a {meta['kind']!r}; a {kind!r} is needed here")
    return meta


def read_table(path: str | Path) -> pa.Table:
    """The whole table, page checksums verified. Raises as ``read_meta`` does."""
    with _readable(path):
        return pq.read_table(path, page_checksum_verification=True, memory_map=False)


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        yield
    except FileNotFoundError as error:  # since it was looked for
        raise FileNotFoundError(f"{path} does not exist") from error
    except PermissionError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(
            f"{path} is no readable Parquet file; it may be truncated or damaged: delete it and "
            f"write it again ({str(error).splitlines()[0]})"
        ) from error


def cache_dir() -> Path:
    """Where converted data sets and drawn worlds are kept: ``SEQLIB_CACHE``, or the user's cache directory."""
    if "SEQLIB_CACHE" in os.environ:
        return Path(os.environ["SEQLIB_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "seqlib"
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", "")
    return Path(base or Path.home() / ".cache") / "seqlib"
