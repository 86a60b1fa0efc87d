"""Data sets by name, with what identifies them: what they are made from, and with which settings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from seqlib.data.public import complete_journey, provenance
from seqlib.data.world import PRESETS, WorldConfig, make_world

from .code import Root
from .recipe import digest

WORLD_SEED = 0


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        load: makes it.
        settings: all options of its generator, as plain values.
        roots: the code that makes it.
        identity: what it is made from beside settings, such as the digest of files; part of every
            key.
        home: the module that registers it; a worker imports this.
    """

    load: Callable[[], Any]
    settings: Callable[[], dict[str, Any]]
    roots: tuple[Root, ...]
    identity: Callable[[], dict[str, Any]] = dict
    home: str = __name__


_SOURCES: dict[str, Source] = {}


def register(name: str, source: Source) -> None:
    """Add a data set that runs can name."""
    _SOURCES[name] = source


def source(name: str) -> Source:
    """How a data set is made.

    Raises:
        ValueError: no such name; the message lists what there is.
    """
    if name not in _SOURCES:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(_SOURCES)}")
    return _SOURCES[name]


def names() -> list[str]:
    """Of all data sets."""
    return list(_SOURCES)


@lru_cache(maxsize=1)
def dataset(name: str) -> Any:
    """World or real data set by name; the last one is kept."""
    return source(name).load()


def _world_settings(preset: str) -> dict[str, Any]:
    config = WorldConfig(**PRESETS[preset])
    return {"seed": WORLD_SEED, **dataclasses.asdict(config)}


def _journey_settings() -> dict[str, Any]:
    """What decides the data among the loader's options: not where or whether it is cached."""
    parameters = inspect.signature(complete_journey).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("cache", "progress", "source")}


@lru_cache(maxsize=1)
def _journey_identity() -> dict[str, Any]:
    origin = provenance()
    return {"version": origin["version"], "files": digest(origin["files"])}


for _preset in PRESETS:
    register(
        _preset,
        Source(
            load=partial(make_world, _preset, seed=WORLD_SEED),
            settings=partial(_world_settings, _preset),
            roots=(("seqlib.data.world", "make_world"),),
        ),
    )
register(
    "complete-journey",
    Source(
        load=complete_journey,
        settings=_journey_settings,
        roots=(("seqlib.data.public", "complete_journey"),),
        identity=_journey_identity,
    ),
)
