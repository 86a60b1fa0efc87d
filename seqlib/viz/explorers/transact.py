"""The explorer of TransAct: a trained layer on one session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._base import _HERE, _KIT, _Explorer, _lists, pack, require_equal_lengths, unpack
from ._head import HEAD_BITS, deep_features, head_state, task_logit

WINDOWS = (0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 12, 24, 48, 96)  # hours, the explorer's slider
_LAYER = "encoder.encoder.layers.0."
_SECOND_LAYER = "encoder.encoder.layers.1."
_OF_ONE_TASK = ("deep", "deepBias", "wide", "wideFixed")


class TransActExplorer(_Explorer):
    """A trained TransAct layer on one session: choose a candidate, change what was done, move the
    window; see the attention and the probability of every head.

    State: see ``transact_state``, which makes it from a model's weights.
    """

    _esm = _KIT + (_HERE / "transact.js").read_text()
    _needs = ("titles", "notes", "ages", "tokens", "candidates", "candidateTitles", "layer", "head")
    _limit = 80_000


def transact_state(
    weights: Mapping[str, Any],
    *,
    items: ArrayLike,
    actions: Sequence[int],
    ages: ArrayLike,
    candidates: ArrayLike,
    features: ArrayLike,
    titles: Sequence[str],
    notes: Sequence[str],
    candidate_titles: Sequence[str],
    kinds: Mapping[str, int],
    tasks: Sequence[str],
) -> dict[str, Any]:
    """State of a ``TransActExplorer`` from a trained ranker's weights.

    Projections are linear and tokens are concatenations, so those of every item, action kind and
    candidate are sent in place of the matrices; W_O is applied to the values.

    Args:
        weights: ``ranker.state_dict()``; one layer, one head, fusion "concat", rows "first", pool.
        items: (n, D) item vectors of the events, newest first.
        actions: (n,) action ids.
        ages: (n,) hours.
        candidates: (C, D).
        features: (C, width) of the ranker.
        titles: (n,).
        notes: (n,).
        candidate_titles: (C,).
        kinds: name -> action id, what all events may be counted as.
        tasks: names of the heads.

    Raises:
        ValueError: lengths that don't fit each other, or an encoder of another shape.
    """
    w = {k: np.asarray(v, np.float64) for k, v in weights.items()}
    has_one_layer = f"{_LAYER}linear1.weight" in w and f"{_SECOND_LAYER}linear1.weight" not in w
    if not has_one_layer or "encoder.empty" not in w:
        raise ValueError("the explorer knows TransAct with strict masks and exactly one layer")
    p = np.asarray(items, np.float64)
    q = np.asarray(candidates, np.float64)
    require_equal_lengths(
        items=p,
        actions=actions,
        ages=np.asarray(ages),
        titles=titles,
        notes=notes,
    )
    if len(q) != len(candidate_titles):
        raise ValueError(f"{len(q)} candidates for {len(candidate_titles)} candidate_titles")
    ids = list(dict.fromkeys([*kinds.values(), *map(int, actions)]))
    acts = w["encoder.action.weight"][np.array(ids) + 1]
    return {
        "titles": list(titles),
        "notes": list(notes),
        "ages": _lists(ages, 4),
        "candidateTitles": list(candidate_titles),
        "tokens": pack(p, 12),
        "candidates": pack(q, 12),
        "actions": pack(acts, 12),
        "kind": [ids.index(int(i)) for i in actions],
        "kinds": {name: ids.index(i) for name, i in kinds.items()},
        "tasks": list(tasks),
        "windows": list(WINDOWS),
        "layer": _layer_state(w, acts, p, q),
        "read": _read_state(w),
        "head": _heads_state(weights, features, len(w["encoder.out.weight"]), len(tasks)),
    }


def _layer_state(
    w: Mapping[str, NDArray],
    actions: NDArray,
    items: NDArray,
    candidates: NDArray,
) -> dict[str, Any]:
    """The transformer layer. A token is [action, item, candidate]: a projection is a sum of three.

    Args:
        w: the ranker's weights, float64.
        actions: (kinds, d_a) rows of the action table.
        items: (n, d_p).
        candidates: (C, d_c).
    """
    w_o = w[f"{_LAYER}self_attn.out_proj.weight"]
    b_o = w[f"{_LAYER}self_attn.out_proj.bias"]
    w_q, w_k, w_v = np.split(w[f"{_LAYER}self_attn.in_proj_weight"], 3)
    b_q, _, b_v = np.split(w[f"{_LAYER}self_attn.in_proj_bias"], 3)
    d = len(w_o)
    d_a = actions.shape[1]
    d_ap = d_a + items.shape[1]
    parts = {
        "a": (slice(0, d_a), actions),
        "p": (slice(d_a, d_ap), items),
        "c": (slice(d_ap, d), candidates),
    }
    layer: dict[str, Any] = {}
    for name, matrix in (("q", w_q), ("k", w_k), ("v", w_o @ w_v)):
        for part, (columns, given) in parts.items():
            # The candidate's part of a key is the same for every event; the softmax ignores it.
            if (name, part) != ("k", "c"):
                layer[f"{name}{part}"] = pack(given @ matrix[:, columns].T, 12)
    layer["bq"] = pack(b_q, 18)
    layer["bv"] = pack(w_o @ b_v + b_o, 18)
    layer["scale"] = float(d**-0.5)
    for name in ("linear1", "linear2"):
        layer[f"{name}w"] = pack(w[f"{_LAYER}{name}.weight"], 10)
        layer[f"{name}b"] = pack(w[f"{_LAYER}{name}.bias"], 12)
    for name in ("norm1", "norm2"):
        layer[f"{name}w"] = pack(w[f"{_LAYER}{name}.weight"], 12)
        layer[f"{name}b"] = pack(w[f"{_LAYER}{name}.bias"], 12)
    return layer


def _read_state(w: Mapping[str, NDArray]) -> dict[str, Any]:
    """What reads the encoded session: the newest rows and a maximum, normalised and projected."""
    width = len(w[f"{_LAYER}self_attn.out_proj.weight"])
    return {
        "rows": len(w["encoder.empty"]) // width - 1,
        "empty": pack(w["encoder.empty"], 12),
        "w": pack(w["encoder.norm.weight"], 12),
        "b": pack(w["encoder.norm.bias"], 12),
        "out": pack(w["encoder.out.weight"], HEAD_BITS),
        "outb": pack(w["encoder.out.bias"], 18),
    }


def _heads_state(
    weights: Mapping[str, Any],
    features: ArrayLike,
    n_history: int,
    n_tasks: int,
) -> dict[str, Any]:
    """The ranker with all its tasks: what they share once, and their own numbers in ``tasks``."""
    heads = [
        head_state(weights, features, n_history, product=False, task=t) for t in range(n_tasks)
    ]
    shared = {k: v for k, v in heads[0].items() if k not in _OF_ONE_TASK}
    return shared | {"tasks": [{k: head[k] for k in _OF_ONE_TASK} for head in heads]}


def _norm(x: NDArray, w: Any, b: Any) -> NDArray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * unpack(w) + unpack(b)


def transact_forward(
    state: Mapping[str, Any],
    candidate: int,
    *,
    kind: str | None = None,
    window: float = 0.0,
    strict: bool = True,
    off: Iterable[int] = (),
) -> dict[str, NDArray[np.float64]]:
    """What ``TransActExplorer`` shows.

    Args:
        state: of the explorer.
        candidate: which one.
        kind: count every event as this kind of action; None leaves them as they were.
        window: hours; what is younger is hidden.
        strict: hide altogether, or only as a key.
        off: events left out (in ``strict=False`` they become padding, as in the authors' code).

    Returns:
        ``attention`` (n, n), rows of events that can't be read are zero; ``mean`` (n,), its mean
        over the readable rows; ``logits`` and ``probabilities`` (T,).
    """
    age = np.asarray(state["ages"], np.float64)
    n = len(age)
    out = set(off)
    on = np.array([j not in out for j in range(n)])
    chosen = np.full(n, state["kinds"][kind]) if kind else np.array(state["kind"])
    keys = on & (age > window if strict else age >= window)
    rows = keys if strict else np.ones(n, bool)
    if not strict:
        keys = keys | (np.arange(n) == 0)
    attention = np.zeros((n, n))
    read = unpack(state["read"]["empty"])
    if rows.any():
        # In the authors' way a left-out event is padding: a token of zeros.
        real = on[:, None] | strict
        attention, x = _attend(state, candidate, chosen, real, keys)
        read = _rows_and_max(x, rows, state["read"]["rows"])
    outputs = _norm(read, state["read"]["w"], state["read"]["b"])
    past = unpack(state["read"]["out"]) @ outputs + unpack(state["read"]["outb"])
    deep = deep_features(state["head"], candidate, past)
    logits = np.array([task_logit(t, candidate, deep, past) for t in state["head"]["tasks"]])
    attention = attention * rows[:, None]
    return {
        "attention": attention,
        "mean": attention[rows].mean(0) if rows.any() else np.zeros(n),
        "logits": logits,
        "probabilities": 1 / (1 + np.exp(-logits)),
    }


def _attend(
    state: Mapping[str, Any],
    candidate: int,
    chosen: NDArray[np.int64],
    real: NDArray[np.bool_],
    keys: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The layer on one candidate: attention (n, n), and the encoded events (n, d).

    Args:
        state: of the explorer.
        candidate: which one.
        chosen: (n,) the action kind of each event.
        real: (n, 1) False where a token is zeros.
        keys: (n,) which events may be attended to.
    """
    m = state["layer"]
    q, k, v = ((unpack(m[f"{x}a"])[chosen] + unpack(m[f"{x}p"])) * real for x in ("q", "k", "v"))
    q = q + unpack(m["qc"])[candidate] + unpack(m["bq"])
    s = np.where(keys, q @ k.T * m["scale"], -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    attention = e / e.sum(-1, keepdims=True)
    action = unpack(state["actions"])[chosen] * real
    item = unpack(state["tokens"]) * real
    target = np.broadcast_to(unpack(state["candidates"])[candidate], item.shape)
    x = np.concatenate([action, item, target], axis=1)
    x = x + attention @ v + unpack(m["vc"])[candidate] + unpack(m["bv"])
    x = _norm(x, m["norm1w"], m["norm1b"])
    h = np.maximum(x @ unpack(m["linear1w"]).T + unpack(m["linear1b"]), 0)
    x = x + h @ unpack(m["linear2w"]).T + unpack(m["linear2b"])
    return attention, _norm(x, m["norm2w"], m["norm2b"])


def _rows_and_max(x: NDArray, rows: NDArray[np.bool_], n_first: int) -> NDArray[np.float64]:
    """The first rows, zeros where there are none, and the maximum over the readable ones."""
    first = (x * rows[:, None])[:n_first]
    first = np.vstack([first, np.zeros((n_first - len(first), x.shape[1]))])
    return np.r_[first.ravel(), x[rows].max(0)]
