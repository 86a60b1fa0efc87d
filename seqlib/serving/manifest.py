"""What is valid in a row store: one entry that names everything else, with its checksums."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

FORMAT = 2


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
        version: digest of the model that made the newest rows.
        catalogue: digest of the items.
        codec: how rows are kept, see ``codecs``.
        shape: of a row.
        rows: how many.
        n_ids: largest id + 1.
        block_rows: rows of a full block.
        slot: generation of the slot table.
        stamp: of the stamps.
        blocks: generation of each block.
        crc: CRC-32 of slot table, stamps and blocks, in order.
        written: generation -> (version, moment) of every refresh that valid rows come from.
        checksum: over everything above.
        notes: whatever the writer wants to find again.
    """

    generation: int
    version: str
    catalogue: str
    codec: str
    shape: tuple[int, ...]
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
        rows = [entry(b"rows", g, i) for i, g in enumerate(self.blocks)]
        return [entry(b"slot", self.slot), entry(b"stamp", self.stamp), *rows]

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
                    f"{where} is a row store of format {found}; this seqlib reads format {FORMAT}: "
                    f"build it again"
                )
            if _checksum(body) != body["checksum"]:
                raise StoreError(f"{where} has a damaged manifest; delete it and build it again")
            for name in ("shape", "blocks", "crc"):
                body[name] = tuple(body[name])
            body["written"] = {int(k): tuple(v) for k, v in body["written"].items()}
            return cls(**body)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{where} has no readable manifest ({error}); build it again"
            ) from error


def entry(kind: bytes, generation: int, block: int = 0) -> bytes:
    """Name of an entry in the file."""
    return kind + struct.pack(">QI", generation, block)


def entry_name(key: bytes) -> str:
    """The same for people."""
    generation, block = struct.unpack(">QI", key[-12:])
    kind = key[:-12].decode()
    return f"{kind} {block}" + f" of generation {generation}" * (kind == "rows")


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps({**body, "checksum": 0}, sort_keys=True).encode())
