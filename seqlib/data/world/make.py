"""A world from its name: drawn, or read from disk where it was drawn before."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..requests import Requests
from ..schema import FIRST_ID, DataSpec, ItemTable
from . import cache as disk
from .catalogue import Catalogue, make_catalogue
from .chain import generator_matrix, stationary, transition_table
from .config import ACTIONS, PRESETS, SURFACES, TASKS, WorldConfig
from .kernels import TICKS_PER_DAY
from .simulate import draw
from .world import World


def make_world(
    preset: str = "course",
    seed: int = 0,
    n_users: int | None = None,
    *,
    cache: bool = True,
    **overrides: Any,
) -> World:
    """Draw a world; the same arguments give the same arrays, byte for byte.

    Args:
        preset: "course" (what chapters train on), "control" (nothing older than 100 events
            helps), "realistic" (marginals near public short-video logs) or "drift" (appeal,
            qualities and catalogue move; training in days 300–560, tests in days 560–730).
        seed: user u's life depends on (seed, u) only, not on the number of users.
        n_users: fewer or more users than the preset's 400.
        cache: read what was drawn from disk if these arguments were given before, and keep it
            there if not (``seqlib.data.world.cache``).
        **overrides: any field of ``WorldConfig``.

    Raises:
        ValueError: an unknown preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    known = {f.name for f in dataclasses.fields(WorldConfig)}
    if unknown := set(overrides) - known:
        raise ValueError(f"WorldConfig has no {sorted(unknown)}; it has {sorted(known)}")
    if n_users is not None:
        overrides["n_users"] = n_users
    config = WorldConfig(**{**PRESETS[preset], **overrides})
    q = generator_matrix(config)
    pi = stationary(q)
    step = transition_table(q, (config.days + 1) * TICKS_PER_DAY + 1)
    catalogue = make_catalogue(config, seed)
    recipe = disk.recipe(config, seed)
    drawn = disk.read(recipe) if cache else None
    if drawn is None:
        drawn = draw(config, catalogue, pi, step, seed)
        if cache:
            disk.keep(recipe, drawn)
    return World(
        config=config,
        seed=seed,
        log=drawn.log,
        train=drawn.train,
        test=drawn.test,
        spec=_spec(preset, config, catalogue, drawn.train),
        catalogue=catalogue,
        pi=pi,
        step=step,
        truth=drawn.truth,
    )


def _spec(name: str, config: WorldConfig, catalogue: Catalogue, train: Requests) -> DataSpec:
    rates = train.labels.mean((0, 1)).clip(1e-4, 1 - 1e-4)
    return DataSpec(
        name=name,
        items=_item_table(config, catalogue),
        actions=ACTIONS,
        surfaces=SURFACES,
        tasks=TASKS,
        base_rates=tuple(float(r) for r in rates),
        key_field="topic",
        watch=True,
        notes=_notes(config),
    )


def _notes(c: WorldConfig) -> dict[str, Any]:
    """What moves, in words; empty where nothing does."""
    notes: dict[str, Any] = {}
    if c.appeal_swing:
        notes["appeal"] = (
            f"b_k + {c.appeal_swing:g} sin(2 pi t / P_k + phi_k), P_k from "
            f"{c.appeal_period[0]:g} to {c.appeal_period[1]:g} days"
        )
    if c.novelty:
        notes["quality"] = (
            f"q_i + {c.novelty:g} exp(-age / {c.novelty_days:g} days); q_i is observed"
        )
    if c.item_days:
        notes["catalogue"] = f"items are shown for {c.item_days:g} days on average"
    return notes


def _item_table(config: WorldConfig, cat: Catalogue) -> ItemTable:
    def ids(values: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.r_[0, 1, values + FIRST_ID].astype(np.int64))

    def rows(values: NDArray) -> torch.Tensor:
        zeros = np.zeros((FIRST_ID, *values.shape[1:]))
        return torch.from_numpy(np.concatenate([zeros, values]).astype(np.float32))

    return ItemTable(
        fields={
            "topic": ids(cat.item_topic),
            "category": ids(cat.category[cat.item_topic]),
            "author": ids(cat.item_author),
        },
        sizes={
            "topic": config.n_topics + FIRST_ID,
            "category": config.n_cats + FIRST_ID,
            "author": config.n_authors + FIRST_ID,
        },
        content=rows(cat.content),
        dense=rows(cat.quality[:, None]),
        duration=rows(cat.duration),
    ).validate()
