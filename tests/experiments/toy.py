"""A data set of 32 requests that runs can name, and a cache of its own."""

from __future__ import annotations

import dataclasses

import tiny
import tiny_data

from experiments.engine import cache, data, store
from experiments.engine.run import Run
from seqlib.data.dataset import Dataset

NAME = "toy"
SETTINGS = {"shift": 0, "users": tiny_data.N_USERS}


def load() -> Dataset:
    """The formulas of ``tiny_data`` as a data set."""
    spec = dataclasses.replace(tiny.spec(), name=NAME)
    return Dataset(
        log=tiny_data.log(),
        train=tiny_data.requests(),
        test=tiny_data.requests(shift=1),
        spec=spec,
    )


def source(**settings) -> data.Source:
    """It, with some of its settings changed."""
    return data.Source(
        load=load,
        settings=lambda: {**SETTINGS, **settings},
        roots=(("seqlib.data.dataset", "Dataset"),),
        home=__name__,
    )


def run(model: str = "item_only", seed: int = 0, **more) -> Run:
    """One epoch over four requests a batch."""
    return Run(NAME, model, length=12, seed=seed, epochs=1, batch_size=4, **more)


def runs(model: str = "item_only") -> list[Run]:
    """Two seeds."""
    return [run(model, seed) for seed in (0, 1)]


def use(folder, monkeypatch) -> None:
    """Keep runs and results in a folder of the test's own."""
    monkeypatch.setattr(cache, "FOLDER", folder / "cache")
    monkeypatch.setattr(store, "FOLDER", folder / "results")
    data.dataset.cache_clear()


data.register(NAME, source())
