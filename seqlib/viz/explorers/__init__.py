"""Explorers: widgets whose JavaScript does the work, so they run without a kernel on the website.

Each takes plain numbers, draws nothing that it did not compute from them, and has a Python
reference in this module that the browser tests compare it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._base import _HERE, _KIT, MAX_STATE, _Explorer, _lists, pack, unpack
from .twin import K_STEPS, SEARCHES, TwinExplorer, twin_state, twin_view

__all__ = [
    "EVERYTHING",
    "HEAD_BITS",
    "K_STEPS",
    "LENGTHS",
    "MAX_STATE",
    "POOLS",
    "SEARCHES",
    "WINDOWS",
    "DINExplorer",
    "LifeExplorer",
    "PoolingExplorer",
    "TransActExplorer",
    "TwinExplorer",
    "din_logit",
    "din_state",
    "din_weights",
    "head_state",
    "life_filter",
    "life_state",
    "pack",
    "pooled_vector",
    "transact_forward",
    "transact_state",
    "twin_state",
    "twin_view",
    "unit_state",
    "unpack",
]

HEAD_BITS = 9  # of the ranker's matrices; its logit is then right to about .001
POOLS = ("sum", "mean", "max", "recency", "recency, normalised")
EVERYTHING = 1_000_000_000  # the length that stands for the whole life
LENGTHS = (0, *(int(10 ** (i / 15) + 0.5) for i in range(61)), EVERYTHING)


class PoolingExplorer(_Explorer):
    """Choose a pool and a half-life, drop and repeat events, forget the mask; see what comes out.

    State: titles, notes (n,); tokens (n, D); ages (n,) days; axes (D,); candidates (C, D);
    candidateTitles (C,); padAge, the age in days that a padded row seems to have (0 if absent).
    """

    _esm = _KIT + (_HERE / "pooling.js").read_text()
    _needs = ("titles", "notes", "tokens", "ages", "axes", "candidates", "candidateTitles")

    @classmethod
    def mira(cls, now_days: float = 400.0) -> Self:
        """The toy user. A padded row of ``toy.batch`` has time 0, so it looks ``now_days`` old."""
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


class DINExplorer(_Explorer):
    """A trained activation unit on one user: choose a candidate, see the weight of every event.

    State: titles, notes (n,); tokens (n, D); candidates (C, D); candidateTitles (C,);
    extra (C, n, E) or None; unit (see ``unit_state``); head, the ranker above it, or absent. Any
    array may be packed (see ``pack``). ``din_state`` makes all of it from a model's weights.
    """

    _esm = _KIT + (_HERE / "din.js").read_text()
    _needs = ("titles", "notes", "tokens", "candidates", "candidateTitles", "unit")


class TransActExplorer(_Explorer):
    """A trained TransAct layer on one session: choose a candidate, change what was done, move the
    window; see the attention and the probability of every head.

    State: see ``transact_state``, which makes it from a model's weights.
    """

    _esm = _KIT + (_HERE / "transact.js").read_text()
    _needs = ("titles", "notes", "ages", "tokens", "candidates", "candidateTitles", "layer", "head")
    _limit = 80_000


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
            world: ``seqlib.data.world.World``. requests: ``world.test`` or ``world.train``.
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


# --- pooling ----------------------------------------------------------------------------------


def pooled_vector(
    state: Mapping[str, Any], pool: str, *, half_life: float = 7.0, pads: int = 0,
    masked: bool = True, copies: int = 1, off: Iterable[int] = (),
) -> NDArray[np.float64]:  # fmt: skip
    """What ``PoolingExplorer`` shows: the pooled vector, (D,).

    Args:
        pool: one of ``POOLS``. half_life: days. pads: padded rows, which count if not ``masked``.
        copies: how often the history is repeated. off: events left out.
    """
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}; one of {', '.join(POOLS)}")
    out = set(off)
    keep = [j for j in range(len(state["tokens"])) if j not in out]
    e, age = np.array(state["tokens"])[keep], np.array(state["ages"])[keep]
    e, age = np.tile(e, (copies, 1)), np.tile(age, copies)
    if not masked:
        e = np.vstack([e, np.zeros((pads, e.shape[1]))])
        age = np.r_[age, np.full(pads, state.get("padAge", 0.0))]
    if pool == "max":
        return e.max(0) if len(e) else np.zeros(e.shape[1])
    share = pool in ("mean", "recency, normalised") and len(e) > 0
    newest = age.min() if share else 0.0  # gaps alone count, and the newest weight can't underflow
    w = 2 ** ((newest - age) / half_life) if pool.startswith("recency") else np.ones(len(e))
    if share:
        w = w / w.sum()
    return w @ e


# --- DIN --------------------------------------------------------------------------------------


def unit_state(
    unit: Mapping[str, Any], *, kind: str = "dice", eps: float = 1e-8, bits: int = 0
) -> dict[str, Any]:
    """The state dict of a ``seqlib`` activation unit, factorised for the browser.

    Args:
        unit: name -> array, as ``unit.state_dict()`` gives it. kind: of the activations.
        bits: pack the matrices with so many bits a number; 0 gives plain lists.
    """
    w = {k: np.asarray(v, np.float64) for k, v in unit.items()}
    if missing := [k for k in ("first.weight", "second.weight", "last.weight") if k not in w]:
        raise ValueError(f"unit lacks {missing}; it is not the state dict of an activation unit")
    w1, w2, w3, w4 = np.split(w["first.weight"], 4, axis=1)

    def matrix(a: NDArray) -> Any:
        return pack(a, bits) if bits else _lists(a)

    def act(name: str) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": kind, "eps": eps}
        if kind != "sigmoid":
            out["alpha"] = _lists(w[f"{name}.alpha"])
        if kind == "dice":
            out |= {"mean": _lists(w[f"{name}.mean"], 7), "var": _lists(w[f"{name}.var"], 7)}
        return out

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
        "act1": act("act1"),
        "act2": act("act2"),
    }


def head_state(
    weights: Mapping[str, Any], features: ArrayLike, n_history: int, *, product: bool, task: int = 0
) -> dict[str, Any]:
    """The ranker above the encoder, cut down to what the history can change.

    A feature vector is [what the candidate brings, the encoder's output]. The first part is
    constant per candidate, so its products with every matrix are numbers and need not be sent.

    Args:
        weights: the ranker's state dict. features: (C, width) as ``ranker.features`` gives them.
        n_history: width of the encoder's output. product: it is [v, v ⊙ q] and not v alone.
        task: which logit.

    Raises:
        ValueError: a ranker of another shape than one full-rank cross layer and an MLP.
    """
    w = {k: np.asarray(v, np.float64) for k, v in weights.items() if not k.startswith("encoder.")}
    if "cross.layers.0.weight" not in w or "cross.layers.1.weight" in w:
        raise ValueError("the explorer knows rankers with exactly one full-rank cross layer")
    x = np.asarray(features, np.float64)[:, :-n_history]
    cross, wide = w["cross.layers.0.weight"], w["heads.wide.weight"][task]
    layers = sorted({int(k.split(".")[2]) for k in w if k.startswith("mlp.layers.")})
    return {
        "product": product,
        "fixed": _lists(x),
        "crossFixed": [pack(row) for row in x @ cross[:, :-n_history].T + w["cross.layers.0.bias"]],
        "cross": pack(cross[:, -n_history:], HEAD_BITS),
        "mlp": [
            {
                "w": pack(w[f"mlp.layers.{n}.weight"], HEAD_BITS),
                "b": pack(w[f"mlp.layers.{n}.bias"], 18),
            }
            for n in layers
        ],
        "deep": _lists(w["heads.deep.weight"][task]),
        "deepBias": round(float(w["heads.deep.bias"][task]), 5),
        "wide": _lists(wide[-n_history:]),
        "wideFixed": _lists(x @ wide[:-n_history]),
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
        weights: ``ranker.state_dict()``. tokens: (n, D) of the events, newest first.
        candidates: (C, D) item vectors. titles, notes: (n,) of the events.
        candidate_titles: (C,). extra: (C, n, E), further inputs of the unit.
        features: (C, width) of the ranker; with them the explorer also computes the logit.
        kind: activation of the unit. product: the encoder returns v ⊙ q beside v.

    Raises:
        ValueError: lengths that don't fit each other.
    """
    k, q = np.asarray(tokens, np.float64), np.asarray(candidates, np.float64)
    sizes = {"tokens": len(k), "titles": len(titles), "notes": len(notes)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"lengths differ: {sizes}; they must be equal")
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
    state: Mapping[str, Any], candidate: int, *, softmax: bool = False, copies: int = 1,
    off: Iterable[int] = (),
) -> NDArray[np.float64]:  # fmt: skip
    """What ``DINExplorer`` shows: the weight of each event (one copy of it), (n,)."""
    u, k = state["unit"], unpack(state["tokens"])
    q, out = unpack(state["candidates"])[candidate], set(off)
    on = np.array([j not in out for j in range(len(k))])
    s = unpack(u["wq"]) @ q + u["b1"] + k @ unpack(u["wk"]).T + (k * q) @ unpack(u["wp"]).T
    if u["we"] is not None:
        s = s + unpack(state["extra"])[candidate] @ unpack(u["we"]).T
    h = _activate(u["act2"], _activate(u["act1"], s) @ unpack(u["w2"]).T + u["b2"])
    w = h @ unpack(u["w3"]) + u["b3"]
    if softmax and on.any():
        e = np.where(on, np.exp(w - w[on].max()), 0)
        return e / (e.sum() * copies)
    return np.where(on, w, 0.0)


def din_logit(
    state: Mapping[str, Any], candidate: int, *, softmax: bool = False, copies: int = 1,
    off: Iterable[int] = (),
) -> float:  # fmt: skip
    """The logit that ``DINExplorer`` shows; its state needs a ``head``."""
    if "head" not in state:
        raise ValueError("state has no head; give din_state the ranker's features")
    w = din_weights(state, candidate, softmax=softmax, copies=copies, off=off)
    h, v = state["head"], copies * (w @ unpack(state["tokens"]))
    past = np.r_[v, v * unpack(state["candidates"])[candidate]] if h["product"] else v
    x0 = np.r_[h["fixed"][candidate], past]
    x = x0 * (unpack(h["cross"]) @ past + unpack(h["crossFixed"][candidate])) + x0
    for layer in h["mlp"]:
        x = np.maximum(unpack(layer["w"]) @ x + unpack(layer["b"]), 0)
    return float(x @ h["deep"] + h["deepBias"] + h["wideFixed"][candidate] + past @ h["wide"])


# --- TransAct ---------------------------------------------------------------------------------

WINDOWS = (0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 12, 24, 48, 96)  # hours, the explorer's slider


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
        items: (n, D) item vectors of the events, newest first. actions: (n,) action ids.
        ages: (n,) hours. candidates: (C, D). features: (C, width) of the ranker.
        titles, notes: (n,). candidate_titles: (C,).
        kinds: name -> action id, what all events may be counted as. tasks: names of the heads.

    Raises:
        ValueError: lengths that don't fit each other, or an encoder of another shape.
    """
    w = {k: np.asarray(v, np.float64) for k, v in weights.items()}
    at = "encoder.encoder.layers."
    if f"{at}0.linear1.weight" not in w or f"{at}1.linear1.weight" in w or "encoder.empty" not in w:
        raise ValueError("the explorer knows TransAct with strict masks and exactly one layer")
    p, q = np.asarray(items, np.float64), np.asarray(candidates, np.float64)
    sizes = {"items": len(p), "actions": len(actions), "ages": len(np.asarray(ages))}
    sizes |= {"titles": len(titles), "notes": len(notes)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"lengths differ: {sizes}; they must be equal")
    if len(q) != len(candidate_titles):
        raise ValueError(f"{len(q)} candidates for {len(candidate_titles)} candidate_titles")
    ids = list(dict.fromkeys([*kinds.values(), *map(int, actions)]))
    acts = w["encoder.action.weight"][np.array(ids) + 1]
    d_a, d_p = acts.shape[1], p.shape[1]
    w_in, b_in = w[f"{at}0.self_attn.in_proj_weight"], w[f"{at}0.self_attn.in_proj_bias"]
    w_o, b_o = w[f"{at}0.self_attn.out_proj.weight"], w[f"{at}0.self_attn.out_proj.bias"]
    d = len(w_o)
    w_q, w_k, w_v = np.split(w_in, 3)
    w_vo = w_o @ w_v
    b_q, _, b_v = np.split(b_in, 3)
    parts = {"a": slice(0, d_a), "p": slice(d_a, d_a + d_p), "c": slice(d_a + d_p, d)}
    given = {"a": acts, "p": p, "c": q}
    layer = {
        f"{name}{part}": pack(given[part] @ m[:, parts[part]].T, 12)
        for name, m in (("q", w_q), ("k", w_k), ("v", w_vo))
        for part in "apc"
        if (name, part) != ("k", "c")  # a term without j: the softmax ignores it
    }
    layer |= {"bq": pack(b_q, 18), "bv": pack(w_o @ b_v + b_o, 18), "scale": float(d**-0.5)}
    for n in ("linear1", "linear2"):
        layer[f"{n}w"] = pack(w[f"{at}0.{n}.weight"], 10)
        layer[f"{n}b"] = pack(w[f"{at}0.{n}.bias"], 12)
    for n in ("norm1", "norm2"):
        layer |= {
            f"{n}{x}": pack(w[f"{at}0.{n}.{y}"], 12) for x, y in zip("wb", _NORM, strict=True)
        }
    n_history = len(w["encoder.out.weight"])
    heads = [
        head_state(weights, features, n_history, product=False, task=t) for t in range(len(tasks))
    ]
    own = ("deep", "deepBias", "wide", "wideFixed")
    head = {k: v for k, v in heads[0].items() if k not in own}
    head["tasks"] = [{k: h[k] for k in own} for h in heads]
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
        "layer": layer,
        "read": {
            "rows": len(w["encoder.empty"]) // d - 1,
            "empty": pack(w["encoder.empty"], 12),
            "w": pack(w["encoder.norm.weight"], 12),
            "b": pack(w["encoder.norm.bias"], 12),
            "out": pack(w["encoder.out.weight"], HEAD_BITS),
            "outb": pack(w["encoder.out.bias"], 18),
        },
        "head": head,
    }


_NORM = ("weight", "bias")


def _norm(x: NDArray, w: Any, b: Any) -> NDArray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * unpack(w) + unpack(b)


def transact_forward(
    state: Mapping[str, Any], candidate: int, *, kind: str | None = None, window: float = 0.0,
    strict: bool = True, off: Iterable[int] = (),
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """What ``TransActExplorer`` shows.

    Args:
        kind: count every event as this kind of action; None leaves them as they were.
        window: hours; what is younger is hidden. strict: altogether, or only as a key.
        off: events left out (in ``strict=False`` they become padding, as in the authors' code).

    Returns:
        ``attention`` (n, n), rows of events that can't be read are zero; ``mean`` (n,), its mean
        over the readable rows; ``logits`` and ``probabilities`` (T,).
    """
    m, r = state["layer"], state["read"]
    age, n = np.asarray(state["ages"], np.float64), len(state["ages"])
    on = np.array([j not in {*off} for j in range(n)])
    chosen = np.full(n, state["kinds"][kind]) if kind else np.array(state["kind"])
    real = on[:, None] | strict  # in the authors' way a left-out event is padding: a zero token
    a, p = unpack(state["actions"])[chosen] * real, unpack(state["tokens"]) * real
    c = unpack(state["candidates"])[candidate]
    keys = on & (age > window if strict else age >= window)
    rows = keys if strict else np.ones(n, bool)
    if not strict:
        keys = keys | (np.arange(n) == 0)
    attention = np.zeros((n, n))
    if rows.any():
        q, k, v = (
            (unpack(m[f"{x}a"])[chosen] + unpack(m[f"{x}p"])) * real for x in ("q", "k", "v")
        )
        q = q + unpack(m["qc"])[candidate] + unpack(m["bq"])
        s = np.where(keys, q @ k.T * m["scale"], -np.inf)
        e = np.exp(s - s.max(-1, keepdims=True))
        attention = e / e.sum(-1, keepdims=True)
        x = np.concatenate([a, p, np.broadcast_to(c, p.shape)], axis=1)
        x = x + attention @ v + unpack(m["vc"])[candidate] + unpack(m["bv"])
        x = _norm(x, m["norm1w"], m["norm1b"])
        h = np.maximum(x @ unpack(m["linear1w"]).T + unpack(m["linear1b"]), 0)
        x = x + h @ unpack(m["linear2w"]).T + unpack(m["linear2b"])
        x = _norm(x, m["norm2w"], m["norm2b"])
        first = (x * rows[:, None])[: r["rows"]]
        first = np.vstack([first, np.zeros((r["rows"] - len(first), x.shape[1]))])
        z = np.r_[first.ravel(), x[rows].max(0)]
    else:
        z = unpack(r["empty"])
    past = unpack(r["out"]) @ _norm(z, r["w"], r["b"]) + unpack(r["outb"])
    logits = _head(state["head"], candidate, past)
    attention = attention * rows[:, None]
    mean = attention[rows].mean(0) if rows.any() else np.zeros(n)
    p_ = 1 / (1 + np.exp(-logits))
    return {"attention": attention, "mean": mean, "logits": logits, "probabilities": p_}


def _head(h: Mapping[str, Any], candidate: int, past: NDArray) -> NDArray[np.float64]:
    """Logits of all tasks of a ranker with one cross layer."""
    x0 = np.r_[h["fixed"][candidate], past]
    x = x0 * (unpack(h["cross"]) @ past + unpack(h["crossFixed"][candidate])) + x0
    for layer in h["mlp"]:
        x = np.maximum(unpack(layer["w"]) @ x + unpack(layer["b"]), 0)
    return np.array(
        [
            x @ t["deep"] + t["deepBias"] + t["wideFixed"][candidate] + past @ t["wide"]
            for t in h["tasks"]
        ]
    )


# --- lives ------------------------------------------------------------------------------------


def life_state(
    titles: Sequence[str], candidates: Sequence[Mapping[str, Any]], model: Mapping[str, Any],
    step: NDArray, states: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """State of a ``LifeExplorer``.

    Args:
        titles: of the candidates. candidates: each as ``world.topic_history`` gives it, with
            ``x_by_length`` (``world.offsets_by_length``) added; ``days`` (n,) of all events before
            the request, oldest first, lets the life line show how busy each week was and where
            the window begins; ``at``, (request, candidate), is kept for tests.
        model: pi, base, like, share, hide, watch, watch_sd. step: (ticks, 4, 4) table P[d].
        states: names of the four states.
    """
    powers = [step[2**b].tolist() for b in range(int(np.log2(len(step) - 1)) + 1)]
    rows = []
    for c in candidates:
        ticks, rank = (np.asarray(c[k], np.int64) for k in ("ticks", "rank"))
        bits = sum(
            np.asarray(c[k], np.int64) << b
            for b, k in enumerate(("click", "like", "share", "hide"))
        )
        line: dict[str, Any] = {
            "first_tick": int(ticks[0]) if len(ticks) else 0,
            "first_rank": int(rank[0]) if len(rank) else 0,
            "gaps": np.diff(ticks, prepend=ticks[:1]).tolist(),
            "steps": (-np.diff(rank, prepend=rank[:1])).tolist(),
            "bits": np.asarray(bits).tolist(),
            "x": _lists(c["x"], 6),
            "log_watch": _lists(c["log_watch"], 6),
            "end_tick": int(c["end_tick"]),
            "x_by_length": _lists(c["x_by_length"], 6),
        }
        if "days" in c:
            t = np.asarray(c["days"], np.float64)
            line["activity"] = np.bincount((t // 7).astype(np.int64)).tolist()
            begin = [t[max(len(t) - n, 0)] if n else t[-1] for n in LENGTHS]
            line["windowDays"] = _lists(begin, 2)
        if "at" in c:
            line["at"] = [int(i) for i in c["at"]]
        rows.append(line)
    return {
        "titles": list(titles),
        "states": list(states),
        "model": {k: np.asarray(v, float).tolist() for k, v in model.items()} | {"powers": powers},
        "candidates": rows,
    }


def life_filter(state: Mapping[str, Any], candidate: int, length: int) -> dict[str, Any]:
    """What ``LifeExplorer`` shows for the last ``length`` events.

    Returns:
        ``alpha`` (4,) belief, ``p`` click probability, ``used`` events of the topic.
    """
    m, c = state["model"], state["candidates"][candidate]
    ticks = c["first_tick"] + np.cumsum(c["gaps"]) if c["gaps"] else np.zeros(0, np.int64)
    rank = c["first_rank"] - np.cumsum(c["steps"]) if c["steps"] else np.zeros(0, np.int64)
    powers, base = np.array(m["powers"]), np.array(m["base"])

    def predict(alpha: NDArray, gap: int) -> NDArray:
        for b, power in enumerate(powers):
            if gap >> b & 1:
                alpha = alpha @ power
        return alpha

    alpha, now, used = np.array(m["pi"]), None, 0
    for i in np.flatnonzero(rank <= length):
        if now is not None:
            alpha = predict(alpha, int(ticks[i] - now))
        click, like, share, hide = (c["bits"][i] >> b & 1 for b in range(4))
        p = 1 / (1 + np.exp(-(base + c["x"][i])))
        d = (c["log_watch"][i] - np.array(m["watch"][click])) / m["watch_sd"][click]
        alpha = alpha * np.exp(-0.5 * d**2) * (p if click else 1 - p)
        for done, rate in ((like, "like"), (share, "share")) if click else ((hide, "hide"),):
            alpha = alpha * (np.array(m[rate]) if done else 1 - np.array(m[rate]))
        alpha, now, used = alpha / alpha.sum(), int(ticks[i]), used + 1
    if now is not None:
        alpha = predict(alpha, c["end_tick"] - now)
    x = c["x_by_length"][min(length, len(c["x_by_length"]) - 1)]
    return {"alpha": alpha, "p": float(alpha @ (1 / (1 + np.exp(-(base + x))))), "used": used}
