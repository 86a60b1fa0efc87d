"""Write a store's content anew: all of it, or the blocks that hold some ids.

What is written lies beside what is valid until ``Disk.switch`` makes it valid, so a reader sees the old
state or the new one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .codecs import Codec, Shape, codec
from .disk import Disk
from .manifest import Manifest, StoreError, entry

Project = Callable[[NDArray[np.int64]], Any]  # ids (n,) -> rows (n, *shape), tensor or array
Progress = Callable[[int, int], None]  # blocks written, blocks in all


def replace_all(
    disk: Disk,
    ids: NDArray[np.int64],
    project: Project,
    *,
    shape: Shape,
    version: str,
    catalogue: str,
    at: float,
    codec_name: str,
    block_rows: int,
    notes: Mapping[str, Any],
    progress: Progress | None,
) -> Manifest:
    """``RowStore.refresh``: these ids and no others, in one switch."""
    ids = np.unique(np.asarray(ids, np.int64))
    if not len(ids) or ids[0] < 0:
        raise StoreError(f"ids has {len(ids)} ids from {ids[:1]}; give at least one, from 0")
    if block_rows < 1:
        raise StoreError(f"block_rows is {block_rows}; it must be at least 1")
    kept = _require_codec(codec_name, shape)
    with disk.refreshing() as old:
        generation = 1 if old is None else old.generation + 1
        parts = [ids[i : i + block_rows] for i in range(0, len(ids), block_rows)]
        of_blocks = _put_blocks(disk, kept, project, parts, shape, generation, progress)
        slot = np.full(int(ids[-1]) + 1, -1, np.int32)
        slot[ids] = np.arange(len(ids), dtype=np.int32)
        stamp = np.full(len(ids), generation, np.uint32)
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
            crc=(
                disk.put(entry(b"slot", generation), slot.tobytes()),
                disk.put(entry(b"stamp", generation), stamp.tobytes()),
                *of_blocks,
            ),
            written={generation: (version, float(at))},
            notes=dict(notes),
        )
        return disk.switch(new)


def _put_blocks(
    disk: Disk,
    kept: Codec,
    project: Project,
    parts: Sequence[NDArray[np.int64]],
    shape: Shape,
    generation: int,
    progress: Progress | None,
) -> list[int]:
    """Project and write one block after the other; their checksums."""
    crc = []
    for i, part in enumerate(parts):
        raw = _encode(kept, project(part), (len(part), *shape))
        crc.append(disk.put(entry(b"rows", generation, i), raw.tobytes()))
        if progress is not None:
            progress(i + 1, len(parts))
    return crc


def replace_some(
    disk: Disk,
    ids: NDArray[np.int64],
    project: Project,
    *,
    version: str,
    at: float,
    notes: Mapping[str, Any],
    progress: Progress | None,
) -> Manifest:
    """``RowStore.update``: the rows of some ids that the store holds."""
    ids = np.unique(np.asarray(ids, np.int64))
    with disk.refreshing() as old:
        if old is None:
            raise StoreError(f"{disk.path} has no rows yet; refresh it whole first")
        slots, stamp = _places(disk, old, ids)
        generation = old.generation + 1
        blocks = list(old.blocks)
        crc = list(old.crc)
        touched = np.unique(slots // old.block_rows)
        for n, i in enumerate(touched):
            mine = slots // old.block_rows == i
            raw = _renewed(disk, old, int(i), project, ids[mine], slots[mine])
            blocks[i] = generation
            crc[2 + i] = disk.put(entry(b"rows", generation, int(i)), raw.tobytes())
            if progress is not None:
                progress(n + 1, len(touched))
        stamp[slots] = generation
        crc[1] = disk.put(entry(b"stamp", generation), stamp.tobytes())
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
            notes=dict(old.notes) | dict(notes),
        )
        return disk.switch(new)


def _places(
    disk: Disk, old: Manifest, ids: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Rows of the ids, and a copy of all stamps. Raises StoreError for an id that is not held."""
    with disk.reading() as txn:
        raw = [bytes(disk.value(txn, key)) for key in old.entries()[:2]]
    slot = np.frombuffer(raw[0], np.int32)
    is_known = (ids >= 0) & (ids < len(slot))
    slots = np.where(is_known, slot[np.where(is_known, ids, 0)], -1)
    if (slots < 0).any():
        raise StoreError(f"{disk.path} does not hold id {ids[slots < 0][0]}; refresh it whole")
    return slots, np.frombuffer(raw[1], np.uint32).copy()


def _renewed(
    disk: Disk,
    old: Manifest,
    block: int,
    project: Project,
    ids: NDArray[np.int64],
    slots: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """A copy of one valid block with the rows of some ids made anew."""
    kept = codec(old.codec)
    with disk.reading() as txn:
        raw = disk.value(txn, old.entries()[2 + block])
        rows = np.frombuffer(raw, np.uint8).reshape(-1, kept.nbytes(old.shape)).copy()
    rows[slots - block * old.block_rows] = _encode(kept, project(ids), (len(ids), *old.shape))
    return rows


def _require_codec(name: str, shape: Shape) -> Codec:
    """The codec of that name, if it can keep rows of that shape."""
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
