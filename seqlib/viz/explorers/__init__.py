"""Explorers: widgets whose JavaScript does the work, so they run without a kernel on the website.

Each takes plain numbers, draws nothing that it did not compute from them, and has a Python
reference in this module that the browser tests compare it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray

_HERE = Path(__file__).parent
_KIT = (_HERE / "kit.js").read_text()
_CSS = (_HERE / "common.css").read_text()


class _Explorer(anywidget.AnyWidget):
    _css = _CSS
    state = traitlets.Dict().tag(sync=True)

    def __repr__(self) -> str:  # no address: notebook tests compare text
        return f"{type(self).__name__}()"


class PoolingExplorer(_Explorer):
    """Choose a pool and a half-life, drop and repeat events, forget the mask; see what comes out.

    State: titles, notes (n,); tokens (n, D); ages (n,) days; axes (D,); candidates (C, D);
    candidateTitles (C,).
    """

    _esm = _KIT + (_HERE / "pooling.js").read_text()


class DINExplorer(_Explorer):
    """A trained activation unit on one user: choose a candidate, see the weight of every event.

    State: titles, notes (n,); tokens (n, D); candidates (C, D); candidateTitles (C,);
    extra (C, n, E) or None; unit (see ``unit_state``).
    """

    _esm = _KIT + (_HERE / "din.js").read_text()


class LifeExplorer(_Explorer):
    """The world's exact filter on the last L events of one life, for several candidates.

    State: titles (C,); states (4,); model (pi, base, like, share, hide, watch, watch_sd, powers =
    P[2^b]); candidates: rank, ticks, x, click, log_watch, like, share, hide (n,) oldest first,
    end_tick, x_by_length (the candidate's offset if only so many last events are known).
    """

    _esm = _KIT + (_HERE / "life.js").read_text()


def _lists(a: Any, digits: int = 5) -> Any:
    return np.round(np.asarray(a, np.float64), digits).tolist()


def unit_state(unit: Mapping[str, Any], *, kind: str = "dice", eps: float = 1e-8) -> dict[str, Any]:
    """The state dict of a ``seqlib`` activation unit, factorised for the browser.

    Args:
        unit: name -> array, as ``unit.state_dict()`` gives it. kind: of the activations.
    """
    w = {k: np.asarray(v, np.float64) for k, v in unit.items()}
    w1, w2, w3, w4 = np.split(w["first.weight"], 4, axis=1)

    def act(name: str) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": kind, "eps": eps}
        if kind != "sigmoid":
            out["alpha"] = _lists(w[f"{name}.alpha"])
        if kind == "dice":
            out |= {"mean": _lists(w[f"{name}.mean"], 7), "var": _lists(w[f"{name}.var"], 7)}
        return out

    return {
        "wq": _lists(w1 + w3),
        "wk": _lists(w2 - w3),
        "wp": _lists(w4),
        "b1": _lists(w["first.bias"]),
        "we": _lists(w["extra.weight"]) if "extra.weight" in w else None,
        "w2": _lists(w["second.weight"]),
        "b2": _lists(w["second.bias"]),
        "w3": _lists(w["last.weight"][0]),
        "b3": round(float(w["last.bias"][0]), 5),
        "act1": act("act1"),
        "act2": act("act2"),
    }


def _activate(a: Mapping[str, Any], s: NDArray) -> NDArray:
    if a["kind"] == "sigmoid":
        return 1 / (1 + np.exp(-s))
    if a["kind"] == "prelu":
        p = (s > 0).astype(float)
    else:
        p = 1 / (1 + np.exp(-(s - np.array(a["mean"])) / np.sqrt(np.array(a["var"]) + a["eps"])))
    return p * s + (1 - p) * np.array(a["alpha"]) * s


def din_weights(
    state: Mapping[str, Any], candidate: int, *, softmax: bool = False, copies: int = 1,
    off: Iterable[int] = (),
) -> NDArray[np.float64]:  # fmt: skip
    """What ``DINExplorer`` shows: the weight of each event (one copy of it), (n,)."""
    u, q, k = state["unit"], np.array(state["candidates"][candidate]), np.array(state["tokens"])
    on = np.array([j not in set(off) for j in range(len(k))])
    s = np.array(u["wq"]) @ q + u["b1"] + k @ np.array(u["wk"]).T + (k * q) @ np.array(u["wp"]).T
    if u["we"] is not None:
        s = s + np.array(state["extra"][candidate]) @ np.array(u["we"]).T
    h = _activate(u["act2"], _activate(u["act1"], s) @ np.array(u["w2"]).T + u["b2"])
    w = h @ np.array(u["w3"]) + u["b3"]
    if softmax:
        e = np.where(on, np.exp(w - w[on].max()), 0)
        return e / (e.sum() * copies)
    return np.where(on, w, 0.0)


def pooled_vector(
    state: Mapping[str, Any], pool: str, *, half_life: float = 7.0, pads: int = 0,
    masked: bool = True, copies: int = 1, off: Iterable[int] = (),
) -> NDArray[np.float64]:  # fmt: skip
    """What ``PoolingExplorer`` shows: the pooled vector, (D,)."""
    keep = [j for j in range(len(state["tokens"])) if j not in set(off)]
    e, age = np.array(state["tokens"])[keep], np.array(state["ages"])[keep]
    e, age = np.tile(e, (copies, 1)), np.tile(age, copies)
    if not masked:
        e = np.vstack([e, np.zeros((pads, e.shape[1]))])
        age = np.r_[age, np.zeros(pads)]
    if pool == "max":
        return e.max(0) if len(e) else np.zeros(e.shape[1])
    w = 2 ** (-age / half_life) if pool.startswith("recency") else np.ones(len(e))
    if pool in ("mean", "recency, normalised") and w.sum() > 0:
        w = w / w.sum()
    return w @ e


def life_state(
    titles: Sequence[str], candidates: Sequence[Mapping[str, Any]], model: Mapping[str, Any],
    step: NDArray, states: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """State of a ``LifeExplorer``.

    Args:
        candidates: each as ``world.topic_history`` gives it, with ``x_by_length`` added.
        model: pi, base, like, share, hide, watch, watch_sd. step: (ticks, 4, 4) table P[d].
    """
    whole = ("rank", "ticks", "click", "like", "share", "hide")
    powers = [step[2**b].tolist() for b in range(int(np.log2(len(step) - 1)) + 1)]
    rows = []
    for c in candidates:
        row: dict[str, Any] = {k: np.asarray(c[k], np.int64).tolist() for k in whole}
        row |= {"x": _lists(c["x"], 6), "log_watch": _lists(c["log_watch"], 6)}
        row |= {"end_tick": int(c["end_tick"]), "x_by_length": _lists(c["x_by_length"], 6)}
        rows.append(row)
    plain = {k: np.asarray(v, float).tolist() for k, v in model.items()}
    return {
        "titles": list(titles),
        "states": list(states),
        "model": {**plain, "powers": powers},
        "candidates": rows,
    }
