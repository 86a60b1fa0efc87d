"""Arrays that are made from trained runs, or by a training of another kind, and kept like a run's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import recipe
from .code import Root
from .run import Run


@dataclass(frozen=True, eq=False)
class Piece:
    """One call of a function whose arrays are kept.

    Attributes:
        name: of the key.
        function: at the top of a module, with keywords alone; returns arrays by name.
        arguments: its keywords.
        settings: what else decides the arrays: constants of its module.
        uses: runs whose models or predictions it reads.
    """

    name: str
    function: Callable[..., dict[str, np.ndarray]]
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]
    uses: tuple[Run, ...] = field(default=())

    @property
    def recipe(self) -> dict[str, Any]:
        """All that decides it, as plain values."""
        return recipe.plain(
            {
                "piece": self.name,
                "function": f"{self.function.__module__}:{self.function.__qualname__}",
                "arguments": dict(self.arguments),
                "settings": dict(self.settings),
                "uses": [run.key for run in self.uses],
            }
        )

    @property
    def key(self) -> str:
        """Name, arguments, and a digest of all that decides it."""
        return key_of(self.recipe)

    @property
    def roots(self) -> list[Root]:
        """Where its code begins."""
        return roots_of(self.recipe)

    @property
    def homes(self) -> list[str]:
        """Modules that a worker imports first."""
        return [self.function.__module__, *(h for run in self.uses for h in run.homes)]

    def make(self, progress: bool = False) -> tuple[dict[str, np.ndarray], None]:
        """Call the function; there is no model to keep."""
        return self.function(**self.arguments), None


def key_of(of: Mapping[str, Any]) -> str:
    """The key of a piece by its recipe, also of one that was stored."""
    values = "-".join(re.sub(r"[^\w.]+", "_", str(v)) for v in of["arguments"].values())
    return f"{of['piece']}-{values}-{recipe.digest(of)[:8]}"


def roots_of(of: Mapping[str, Any]) -> list[Root]:
    """Where the code of a piece of this recipe begins."""
    return [(of["function"].partition(":")[0], None)]
