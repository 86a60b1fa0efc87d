"""One drawn world: what models may see of it, and what only lessons and tests may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..event_log import EventLog
from ..requests import Requests
from ..schema import FIRST_ID, DataSpec
from .catalogue import Catalogue, newness, swing
from .config import ACTIONS, WorldConfig
from .records import Life, Model, model_of


@dataclass(frozen=True, eq=False)
class World:
    """One drawn world: what models may see, and what only lessons and tests may.

    Attributes:
        config: what it was drawn from.
        seed: of every draw.
        log: the event log.
        train: requests; ``truth`` holds the exact probabilities, and ``extra`` the arrays
            ``p_none`` and ``p_true`` (R, C, 3), ``source``, ``T``, ``Phi``, ``x0`` and ``last``
            (R, C), and ``index_in_life`` (R,).
        test: later requests, with the same.
        spec: for building models.
        catalogue: topics, authors, items.
        pi: (4,) stationary law.
        step: (ticks, 4, 4) transition table P[d].
        truth: hidden states and filter quantities per event.
    """

    config: WorldConfig
    seed: int
    log: EventLog
    train: Requests
    test: Requests
    spec: DataSpec
    catalogue: Catalogue
    pi: NDArray[np.float64]
    step: NDArray[np.float64]
    truth: Mapping[str, NDArray] = field(repr=False)

    @cached_property
    def model(self) -> Model:
        """Parameters for the compiled functions."""
        return model_of(self.config, self.catalogue, self.pi, self.step)

    def appeal_at(self, day: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Appeal of every topic in logits, (K,) at one day or (T, K) at T days."""
        c = self.catalogue
        day = np.asarray(day)[..., None]
        return c.appeal + swing(self.config, c.drift, np.arange(len(c.appeal)), day)

    def quality_at(self, day: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Quality of every item in logits, (N,) at one day or (T, N) at T days.

        The item table holds the part that stays; an item not yet released counts as brand new.
        """
        c = self.catalogue
        day = np.asarray(day)[..., None]
        return c.quality + newness(self.config, c.drift, np.arange(len(c.quality)), day)

    def alive_at(self, day: float | NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which items may be shown, (N,) at one day or (T, N) at T days."""
        d = self.catalogue.drift
        day = np.asarray(day)[..., None]
        return (d.release <= day) & (day < d.withdrawal)

    def life(self, user: int) -> Life:
        """All arrays of one user's life, oldest event first; times in days."""
        rows = self.log.of(user)
        t = self.truth
        action = self.log.action[rows]
        bits = {name: ((action >> b) & 1).astype(np.int8) for b, name in enumerate(ACTIONS)}
        item = self.log.item[rows].astype(np.int64) - FIRST_ID
        return Life(
            item=item,
            topic=self.catalogue.item_topic[item],
            time=t["day"][rows],
            tick=t["tick"][rows],
            surface=self.log.surface[rows].astype(np.int8),
            position=t["position"][rows],
            source=t["source"][rows],
            log_watch=t["log_watch"][rows],
            x=t["x"][rows],
            state=t["state"][rows],
            previous=t["previous"][rows],
            p=t["p"][rows],
            **bits,
        )
