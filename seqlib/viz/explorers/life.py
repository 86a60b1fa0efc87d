"""The explorer of one life: the world's exact filter on the last L events of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ._base import _HERE, _KIT, _Explorer, _lists

EVERYTHING = 1_000_000_000  # the length that stands for the whole life
LENGTHS = (0, *(int(10 ** (i / 15) + 0.5) for i in range(61)), EVERYTHING)
_BITS = ("click", "like", "share", "hide")


class LifeExplorer(_Explorer):
    """The world's exact filter on the last L events of one life, for several candidates.

    State: see ``life_state``, or ``LifeExplorer.of`` for a request of a world.
    """

    _esm = _KIT + (_HERE / "life.js").read_text()
    _needs = ("titles", "states", "model", "candidates")

    @classmethod
    def of(cls, world: Any, requests: Any, picked: Mapping[str, tuple[int, int]]) -> Self:
        """Candidates of a synthetic world, each with its own user and moment.

        Args:
            world: ``seqlib.data.world.World``.
            requests: ``world.test`` or ``world.train``.
            picked: title -> (row of the request, column of the candidate).
        """
        from ...data import world as w

        names = ("base", "like", "share", "hide", "watch", "watch_sd")
        model = {"pi": world.pi} | {k: getattr(world.config, k) for k in names}
        candidates = []
        for row, column in picked.values():
            end = int(requests.extra["index_in_life"][row])
            more = {
                "x_by_length": w.offsets_by_length(world, requests, row, column),
                "days": world.life(int(requests.user[row])).time[:end],
                "at": (row, column),
            }
            candidates.append(w.topic_history(world, requests, row, column) | more)
        return cls(life_state(list(picked), candidates, model, world.step, w.STATES))


def life_state(
    titles: Sequence[str],
    candidates: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    step: NDArray,
    states: Sequence[str],
) -> dict[str, Any]:
    """State of a ``LifeExplorer``.

    Args:
        titles: of the candidates.
        candidates: each as ``world.topic_history`` gives it, with ``x_by_length``
            (``world.offsets_by_length``) added; ``days`` (n,) of all events before the request,
            oldest first, lets the life line show how busy each week was and where the window
            begins; ``at``, (request, candidate), is kept for tests.
        model: pi, base, like, share, hide, watch, watch_sd.
        step: (ticks, 4, 4) table P[d].
        states: names of the four states.
    """
    powers = [step[2**b].tolist() for b in range(int(np.log2(len(step) - 1)) + 1)]
    return {
        "titles": list(titles),
        "states": list(states),
        "model": {k: np.asarray(v, float).tolist() for k, v in model.items()} | {"powers": powers},
        "candidates": [_life_line(c) for c in candidates],
    }


def _life_line(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """One candidate's events of its topic, as differences, which are short to write."""
    ticks = np.asarray(candidate["ticks"], np.int64)
    rank = np.asarray(candidate["rank"], np.int64)
    bits = sum(np.asarray(candidate[name], np.int64) << b for b, name in enumerate(_BITS))
    line: dict[str, Any] = {
        "first_tick": int(ticks[0]) if len(ticks) else 0,
        "first_rank": int(rank[0]) if len(rank) else 0,
        "gaps": np.diff(ticks, prepend=ticks[:1]).tolist(),
        "steps": (-np.diff(rank, prepend=rank[:1])).tolist(),
        "bits": np.asarray(bits).tolist(),
        "x": _lists(candidate["x"], 6),
        "log_watch": _lists(candidate["log_watch"], 6),
        "end_tick": int(candidate["end_tick"]),
        "x_by_length": _lists(candidate["x_by_length"], 6),
    }
    if "days" in candidate:
        t = np.asarray(candidate["days"], np.float64)
        line["activity"] = np.bincount((t // 7).astype(np.int64)).tolist()
        begin = [t[max(len(t) - n, 0)] if n else t[-1] for n in LENGTHS]
        line["windowDays"] = _lists(begin, 2)
    if "at" in candidate:
        line["at"] = [int(i) for i in candidate["at"]]
    return line


def life_filter(state: Mapping[str, Any], candidate: int, length: int) -> dict[str, Any]:
    """What ``LifeExplorer`` shows for the last ``length`` events.

    Args:
        state: of the explorer.
        candidate: which one.
        length: events of the life, its other topics included.

    Returns:
        ``alpha`` (4,) belief, ``p`` click probability, ``used`` events of the topic.
    """
    model = state["model"]
    line = state["candidates"][candidate]
    base = np.array(model["base"])
    ticks = np.zeros(0, np.int64)
    rank = np.zeros(0, np.int64)
    if line["gaps"]:
        ticks = line["first_tick"] + np.cumsum(line["gaps"])
        rank = line["first_rank"] - np.cumsum(line["steps"])
    alpha = np.array(model["pi"])
    now: int | None = None
    used = 0
    for i in np.flatnonzero(rank <= length):
        if now is not None:
            alpha = _carried_on(model, alpha, int(ticks[i] - now))
        alpha = _observed(model, line, int(i), alpha)
        now = int(ticks[i])
        used += 1
    if now is not None:
        alpha = _carried_on(model, alpha, line["end_tick"] - now)
    x = line["x_by_length"][min(length, len(line["x_by_length"]) - 1)]
    return {"alpha": alpha, "p": float(alpha @ (1 / (1 + np.exp(-(base + x))))), "used": used}


def _carried_on(model: Mapping[str, Any], alpha: NDArray, gap: int) -> NDArray:
    """The belief after ``gap`` ticks without an event: one stored power of P per bit of the gap."""
    for b, power in enumerate(model["powers"]):
        if gap >> b & 1:
            alpha = alpha @ np.array(power)
    return alpha


def _observed(model: Mapping[str, Any], line: Mapping[str, Any], i: int, alpha: NDArray) -> NDArray:
    """The belief after event ``i``: times the likelihood of what was done, and scaled to one."""
    click, like, share, hide = (line["bits"][i] >> b & 1 for b in range(4))
    p = 1 / (1 + np.exp(-(np.array(model["base"]) + line["x"][i])))
    d = (line["log_watch"][i] - np.array(model["watch"][click])) / model["watch_sd"][click]
    alpha = alpha * np.exp(-0.5 * d**2) * (p if click else 1 - p)
    reactions = ((like, "like"), (share, "share")) if click else ((hide, "hide"),)
    for was_done, name in reactions:
        rate = np.array(model[name])
        alpha = alpha * (rate if was_done else 1 - rate)
    return alpha / alpha.sum()
