"""The explorer of DIN: a trained activation unit on one user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._base import _HERE, _KIT, _Explorer, _lists, pack, require_equal_lengths, unpack
from ._head import deep_features, head_state, task_logit


class DINExplorer(_Explorer):
    """A trained activation unit on one user: choose a candidate, see the weight of every event.

    State: titles, notes (n,); tokens (n, D); candidates (C, D); candidateTitles (C,);
    extra (C, n, E) or None; unit (see ``unit_state``); head, the ranker above it, or absent. Any
    array may be packed (see ``pack``). ``din_state`` makes all of it from a model's weights.
    """

    _esm = _KIT + (_HERE / "din.js").read_text()
    _needs = ("titles", "notes", "tokens", "candidates", "candidateTitles", "unit")


def _activation(w: Mapping[str, NDArray], name: str, kind: str, eps: float) -> dict[str, Any]:
    """Parameters of one activation, for the browser."""
    out: dict[str, Any] = {"kind": kind, "eps": eps}
    if kind != "sigmoid":
        out["alpha"] = _lists(w[f"{name}.alpha"])
    if kind == "dice":
        out["mean"] = _lists(w[f"{name}.mean"], 7)
        out["var"] = _lists(w[f"{name}.var"], 7)
    return out


def unit_state(
    unit: Mapping[str, Any], *, kind: str = "dice", eps: float = 1e-8, bits: int = 0
) -> dict[str, Any]:
    """The state dict of a ``seqlib`` activation unit, factorised for the browser.

    The unit's first layer reads [q, k, q − k, q ⊙ k]. As it is linear, its four parts become one
    matrix of q, one of k and one of their product.

    Args:
        unit: name -> array, as ``unit.state_dict()`` gives it.
        kind: of the activations.
        eps: beneath the root of a Dice activation.
        bits: pack the matrices with so many bits a number; 0 gives plain lists.

    Raises:
        ValueError: an array is missing.
    """
    w = {k: np.asarray(v, np.float64) for k, v in unit.items()}
    if missing := [k for k in ("first.weight", "second.weight", "last.weight") if k not in w]:
        raise ValueError(f"unit lacks {missing}; it is not the state dict of an activation unit")
    w1, w2, w3, w4 = np.split(w["first.weight"], 4, axis=1)

    def matrix(a: NDArray) -> Any:
        return pack(a, bits) if bits else _lists(a)

    return {
        "wq": matrix(w1 + w3),
        "wk": matrix(w2 - w3),
        "wp": matrix(w4),
        "b1": _lists(w["first.bias"]),
        "we": _lists(w["extra.weight"]) if "extra.weight" in w else None,
        "w2": matrix(w["second.weight"]),
        "b2": _lists(w["second.bias"]),
        "w3": _lists(w["last.weight"][0]),
        "b3": round(float(w["last.bias"][0]), 5),
        "act1": _activation(w, "act1", kind, eps),
        "act2": _activation(w, "act2", kind, eps),
    }


def din_state(
    weights: Mapping[str, Any],
    *,
    tokens: ArrayLike,
    candidates: ArrayLike,
    titles: Sequence[str],
    notes: Sequence[str],
    candidate_titles: Sequence[str],
    extra: ArrayLike | None = None,
    features: ArrayLike | None = None,
    kind: str = "dice",
    product: bool = True,
) -> dict[str, Any]:
    """State of a ``DINExplorer`` from a trained ranker's weights.

    Args:
        weights: ``ranker.state_dict()``.
        tokens: (n, D) of the events, newest first.
        candidates: (C, D) item vectors.
        titles: (n,) of the events.
        notes: (n,) of the events.
        candidate_titles: (C,).
        extra: (C, n, E), further inputs of the unit.
        features: (C, width) of the ranker; with them the explorer also computes the logit.
        kind: activation of the unit.
        product: the encoder returns v ⊙ q beside v.

    Raises:
        ValueError: lengths that don't fit each other.
    """
    k = np.asarray(tokens, np.float64)
    q = np.asarray(candidates, np.float64)
    require_equal_lengths(tokens=k, titles=titles, notes=notes)
    if len(q) != len(candidate_titles):
        raise ValueError(f"{len(q)} candidates for {len(candidate_titles)} candidate_titles")
    if extra is not None and np.shape(extra)[:2] != (len(q), len(k)):
        raise ValueError(f"extra is {np.shape(extra)}; it must be (C, n, E) = {(len(q), len(k))}")
    own = {n.removeprefix("encoder.unit."): v for n, v in weights.items() if "encoder.unit." in n}
    state: dict[str, Any] = {
        "titles": list(titles),
        "notes": list(notes),
        "candidateTitles": list(candidate_titles),
        "tokens": pack(k, 18),
        "candidates": pack(q, 18),
        "extra": None if extra is None else pack(extra, 18),
        "unit": unit_state(own, kind=kind, bits=12),
    }
    if features is not None:
        width = q.shape[1] * (2 if product else 1)
        state["head"] = head_state(weights, features, width, product=product)
    return state


def _activate(a: Mapping[str, Any], s: NDArray) -> NDArray:
    if a["kind"] == "sigmoid":
        return 1 / (1 + np.exp(-s))
    if a["kind"] == "prelu":
        p = (s > 0).astype(float)
    else:
        p = 1 / (1 + np.exp(-(s - np.array(a["mean"])) / np.sqrt(np.array(a["var"]) + a["eps"])))
    return p * s + (1 - p) * np.array(a["alpha"]) * s


def din_weights(
    state: Mapping[str, Any],
    candidate: int,
    *,
    softmax: bool = False,
    copies: int = 1,
    off: Iterable[int] = (),
) -> NDArray[np.float64]:
    """What ``DINExplorer`` shows: the weight of each event (one copy of it), (n,).

    Args:
        state: of the explorer.
        candidate: which one.
        softmax: over the events, in place of the paper's free weights.
        copies: how often the history is repeated.
        off: events left out.
    """
    unit = state["unit"]
    k = unpack(state["tokens"])
    q = unpack(state["candidates"])[candidate]
    out = set(off)
    on = np.array([j not in out for j in range(len(k))])
    s = (
        unpack(unit["wq"]) @ q
        + unit["b1"]
        + k @ unpack(unit["wk"]).T
        + (k * q) @ unpack(unit["wp"]).T
    )
    if unit["we"] is not None:
        s = s + unpack(state["extra"])[candidate] @ unpack(unit["we"]).T
    h = _activate(unit["act2"], _activate(unit["act1"], s) @ unpack(unit["w2"]).T + unit["b2"])
    w = h @ unpack(unit["w3"]) + unit["b3"]
    if softmax and on.any():
        e = np.where(on, np.exp(w - w[on].max()), 0)
        return e / (e.sum() * copies)
    return np.where(on, w, 0.0)


def din_logit(
    state: Mapping[str, Any],
    candidate: int,
    *,
    softmax: bool = False,
    copies: int = 1,
    off: Iterable[int] = (),
) -> float:
    """The logit that ``DINExplorer`` shows; its state needs a ``head``.

    Args:
        state: of the explorer.
        candidate: which one.
        softmax: as in ``din_weights``.
        copies: how often the history is repeated.
        off: events left out.

    Raises:
        ValueError: no head.
    """
    if "head" not in state:
        raise ValueError("state has no head; give din_state the ranker's features")
    w = din_weights(state, candidate, softmax=softmax, copies=copies, off=off)
    head = state["head"]
    v = copies * (w @ unpack(state["tokens"]))
    past = np.r_[v, v * unpack(state["candidates"])[candidate]] if head["product"] else v
    return task_logit(head, candidate, deep_features(head, candidate, past), past)
