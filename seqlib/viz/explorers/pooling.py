"""The explorer of pooling: what a mean, a sum or a half-life makes of one small history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ._base import _HERE, _KIT, _Explorer

POOLS = ("sum", "mean", "max", "recency", "recency, normalised")


class PoolingExplorer(_Explorer):
    """Choose a pool and a half-life, drop and repeat events, forget the mask; see what comes out.

    State: titles, notes (n,); tokens (n, D); ages (n,) days; axes (D,); candidates (C, D);
    candidateTitles (C,); padAge, the age in days that a padded row seems to have (0 if absent).
    """

    _esm = _KIT + (_HERE / "pooling.js").read_text()
    _needs = ("titles", "notes", "tokens", "ages", "axes", "candidates", "candidateTitles")

    @classmethod
    def mira(cls, now_days: float = 400.0) -> Self:
        """The toy user.

        Args:
            now_days: the moment. A padded row of ``toy.batch`` has time 0, so it looks as old as that.
        """
        from ...data import toy
        from ..attention import action_text, age_text

        return cls(
            {
                "titles": [e.title for e in toy.HISTORY],
                "notes": [f"{action_text(e.action)}, {age_text(e.days_ago)}" for e in toy.HISTORY],
                "tokens": toy.vectors().tolist(),
                "ages": toy.days_ago().tolist(),
                "axes": list(toy.AXES),
                "candidates": toy.vectors(toy.CANDIDATES).tolist(),
                "candidateTitles": [c.title for c in toy.CANDIDATES],
                "padAge": now_days,
            }
        )


def pooled_vector(
    state: Mapping[str, Any],
    pool: str,
    *,
    half_life: float = 7.0,
    pads: int = 0,
    masked: bool = True,
    copies: int = 1,
    off: Iterable[int] = (),
) -> NDArray[np.float64]:
    """What ``PoolingExplorer`` shows: the pooled vector, (D,).

    Args:
        state: of the explorer.
        pool: one of ``POOLS``.
        half_life: days.
        pads: padded rows, which count if not ``masked``.
        masked: padding is left out, as it must be.
        copies: how often the history is repeated.
        off: events left out.

    Raises:
        ValueError: an unknown pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}; one of {', '.join(POOLS)}")
    out = set(off)
    keep = [j for j in range(len(state["tokens"])) if j not in out]
    e = np.tile(np.array(state["tokens"])[keep], (copies, 1))
    age = np.tile(np.array(state["ages"])[keep], copies)
    if not masked:
        e = np.vstack([e, np.zeros((pads, e.shape[1]))])
        age = np.r_[age, np.full(pads, state.get("padAge", 0.0))]
    if pool == "max":
        return e.max(0) if len(e) else np.zeros(e.shape[1])
    is_share = pool in ("mean", "recency, normalised") and len(e) > 0
    # In a share only the gaps count. Measured from the newest event, its weight can't underflow.
    newest = age.min() if is_share else 0.0
    w = 2 ** ((newest - age) / half_life) if pool.startswith("recency") else np.ones(len(e))
    if is_share:
        w = w / w.sum()
    return w @ e
