"""The ranker above an encoder, cut down to what the history can change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._base import _lists, pack, unpack

HEAD_BITS = 9  # The logit is then right to about .001.


def head_state(
    weights: Mapping[str, Any],
    features: ArrayLike,
    n_history: int,
    *,
    product: bool,
    task: int = 0,
) -> dict[str, Any]:
    """The ranker above the encoder, as the browser computes it.

    A feature vector is [what the candidate brings, the encoder's output]. The first part is
    constant per candidate, so its products with every matrix are numbers and need not be sent.

    Args:
        weights: the ranker's state dict.
        features: (C, width) as ``ranker.features`` gives them.
        n_history: width of the encoder's output.
        product: the encoder's output is [v, v ⊙ q] and not v alone.
        task: which logit.

    Raises:
        ValueError: a ranker of another shape than one full-rank cross layer and an MLP.
    """
    w = {k: np.asarray(v, np.float64) for k, v in weights.items() if not k.startswith("encoder.")}
    if "cross.layers.0.weight" not in w or "cross.layers.1.weight" in w:
        raise ValueError("the explorer knows rankers with exactly one full-rank cross layer")
    x = np.asarray(features, np.float64)[:, :-n_history]
    cross = w["cross.layers.0.weight"]
    wide = w["heads.wide.weight"][task]
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


def deep_features(head: Mapping[str, Any], candidate: int, past: NDArray) -> NDArray[np.float64]:
    """Cross layer and MLP on one candidate, (width,).

    Args:
        head: of a state.
        candidate: which one.
        past: (n_history,) what the encoder made of the history.
    """
    x0 = np.r_[head["fixed"][candidate], past]
    x = x0 * (unpack(head["cross"]) @ past + unpack(head["crossFixed"][candidate])) + x0
    for layer in head["mlp"]:
        x = np.maximum(unpack(layer["w"]) @ x + unpack(layer["b"]), 0)
    return x


def task_logit(task: Mapping[str, Any], candidate: int, deep: NDArray, past: NDArray) -> float:
    """One task's logit of one candidate.

    Args:
        task: deep, deepBias, wide and wideFixed of a state.
        candidate: which one.
        deep: (width,) of ``deep_features``.
        past: (n_history,) what the encoder made of the history.
    """
    own = deep @ task["deep"] + task["deepBias"]
    return float(own + task["wideFixed"][candidate] + past @ task["wide"])
