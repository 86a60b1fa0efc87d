"""Files that are either whole or absent, and Parquet errors that say what to do."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .schema import SchemaError

_META = b"seqlib"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error.

    Whatever happens, ``path`` holds the old file, the new file or nothing: never half a file.
    A killed process leaves a ``….partial`` file behind, which nothing reads.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's file is private
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


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
    except PermissionError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(
            f"{path} is no readable Parquet file; it may be truncated or damaged: delete it and "
            f"write it again ({str(error).splitlines()[0]})"
        ) from error
