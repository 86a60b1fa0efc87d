"""Worlds that were drawn before, on disk: the same arrays, bit for bit, in a tenth of the time.

One file per world in the folder ``worlds`` of ``files.cache_dir()`` (``SEQLIB_CACHE``, or the
user's cache folder). A file's name and head hold the whole recipe: every parameter, the seed, a
digest of the modules that draw, and the versions of the libraries whose numbers those use. A file
of another recipe, a damaged one and one that can't be read are drawn anew and replaced. The folder
holds at most ``LIMIT`` bytes; what was read longest ago goes first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .. import files
from ..columns import COLUMNS
from ..event_log import EventLog
from ..identity import digest, text_digest
from ..requests import Requests
from .config import WorldConfig
from .simulate import Drawn

FORMAT = 1
LIMIT = 2 * 2**30
# Smaller worlds are drawn about as fast as they are read.
FEWEST_EVENTS = 100_000
_DRAWN_WITH = ("numpy", "scipy", "numba")
_REQUESTS = tuple(f.name for f in dataclasses.fields(Requests) if f.name != "extra")


def recipe(config: WorldConfig, seed: int) -> dict[str, Any]:
    """Everything that what is drawn depends on; JSON can hold it."""
    return {
        "format": FORMAT,
        "seed": seed,
        "config": dataclasses.asdict(config),
        "code": _code(),
        "libraries": {name: importlib.metadata.version(name) for name in _DRAWN_WITH},
        "machine": platform.machine(),
    }


@cache
def _code() -> str:
    """Digest of the modules of this folder."""
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:16]


def place(recipe: Mapping[str, Any]) -> Path:
    """The file of a recipe, whether it exists or not."""
    return files.cache_dir() / "worlds" / f"{text_digest(_as_text(recipe))}.safetensors"


def _as_text(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)


def read(recipe: Mapping[str, Any]) -> Drawn | None:
    """What was kept of this recipe; None where there is nothing whole."""
    path = place(recipe)
    try:
        with safe_open(path, framework="np") as f:
            head = f.metadata() or {}
            if head.get("recipe") != _as_text(recipe):
                return None
            arrays = {name: f.get_tensor(name) for name in json.loads(head["names"])}
        if digest(arrays) != head["digest"]:
            return None
        drawn = _put_together(arrays, recipe["config"]["n_users"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    with suppress(OSError):
        # The time of the last reading, by which the folder is kept small.
        os.utime(path)
    return drawn


def keep(recipe: Mapping[str, Any], drawn: Drawn) -> None:
    """Write what was drawn, whole or not at all; where that is impossible, do without.

    Worlds of less than ``FEWEST_EVENTS`` events are not kept.
    """
    if len(drawn.log) < FEWEST_EVENTS:
        return
    arrays = {name: np.ascontiguousarray(a) for name, a in _take_apart(drawn)}
    head = {
        "recipe": _as_text(recipe),
        "names": json.dumps(list(arrays)),
        "digest": digest(arrays),
    }
    path = place(recipe)
    with suppress(OSError, SafetensorError):
        with files.whole_file(path) as partial:
            save_file(arrays, str(partial), metadata=head)
        _make_room(path.parent)


def _make_room(folder: Path) -> None:
    """Delete what was used longest ago until the rest fits in ``LIMIT`` bytes; not the newest."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    found.sort(reverse=True)
    total = 0
    for rank, (_, size, path) in enumerate(found):
        total += size
        if rank > 0 and total > LIMIT:
            with suppress(OSError):
                path.unlink()


def _take_apart(drawn: Drawn) -> Iterator[tuple[str, NDArray]]:
    for name in COLUMNS:
        yield f"log.{name}", getattr(drawn.log, name)
    for part in ("train", "test"):
        requests = getattr(drawn, part)
        for name in _REQUESTS:
            yield f"{part}.{name}", getattr(requests, name)
        for name, a in requests.extra.items():
            yield f"{part}.extra.{name}", a
    for name, a in drawn.truth.items():
        yield f"truth.{name}", a


def _put_together(arrays: Mapping[str, NDArray], n_users: int) -> Drawn:
    def under(prefix: str) -> dict[str, NDArray]:
        return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}

    def requests(part: str) -> Requests:
        of = {name: arrays[f"{part}.{name}"] for name in _REQUESTS}
        return Requests(**of, extra=under(f"{part}.extra."))

    log = EventLog(**{name: arrays[f"log.{name}"] for name in COLUMNS}, n_users=n_users)
    return Drawn(log, requests("train"), requests("test"), under("truth."))
