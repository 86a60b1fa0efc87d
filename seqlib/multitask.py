"""Several heads at once, as at Pinterest: which label weighs how much, and one score of them all.

TransAct (arXiv:2306.00248), Section 3.2.4 and Appendix A: the loss of head h is weighted by what the
user did, ``w_h = Σ_a M[h, a] y_a``, and pins are ranked by a utility ``S = Σ_h u_h f(x)_h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .data.schema import RequestBatch
from .objectives import Objective, outputs_and_terms

UTILITY = (1.0, 1.0, -1.0)  # click, like or share, hide; the paper does not give its own


@dataclass(frozen=True)
class LabelWeights:
    """``w_h = Σ_a M[h, a] y_a``, and the last column where nothing was done.

    Without that column an impression that was only seen has weight 0 in every head, and a model is
    never shown a plain negative; the paper is silent about it.

    Attributes:
        matrix: one row per head, one column per observed action in the order of the tasks, and one
            for "no action".
    """

    matrix: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.matrix) + 1 for row in self.matrix):
            widths = [len(row) for row in self.matrix]
            raise ValueError(
                f"rows of {widths} numbers for {len(self.matrix)} heads; each needs one per head "
                f"and one for no action, {len(self.matrix) + 1}"
            )
        if min(min(row) for row in self.matrix) < 0:
            raise ValueError("a label weight is negative; weights scale a loss and are at least 0")

    def __call__(self, labels: Tensor) -> Tensor:
        """Labels (B, C, T) in {0, 1} -> weight of every head's loss, (B, C, T)."""
        m = torch.tensor(self.matrix, dtype=torch.float32, device=labels.device)
        if labels.shape[-1] != len(m):
            raise ValueError(f"labels have {labels.shape[-1]} tasks, the matrix {len(m)} heads")
        y = labels.float()
        none = 1 - y.amax(-1, keepdim=True)
        return torch.cat([y, none], dim=-1) @ m.T


# The printed matrix. Two of its cells were confirmed (a hide weighs 100 in the other two heads).
PINTEREST = LabelWeights(((100, 0, 100, 1), (0, 100, 100, 1), (1, 5, 10, 1)))
EQUAL = LabelWeights(((1, 1, 1, 1),) * 3)


def weighted_loss(logits: Tensor, labels: Tensor, weights: LabelWeights) -> Tensor:
    """``Σ_h w_h BCE_h``, averaged over candidates and divided by the batch's mean weight.

    The division keeps one learning rate for all matrices, also one of hundreds. (The paper prints
    the second term of BCE as (1 − y)(1 − log f); log(1 − f) is meant.)

    Args:
        logits: (B, C, T).
        labels: (B, C, T).
        weights: the matrix.

    Returns:
        ().
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    w = weights(labels)
    return (w * each).sum(-1).mean() / w.mean()


def weighted_bce(weights: LabelWeights) -> Objective:
    """The paper's loss as an objective: ``weighted_loss``, and what parts of the model publish."""

    def objective(model: nn.Module, batch: RequestBatch) -> dict[str, Tensor]:
        logits, published = outputs_and_terms(model, batch)
        return {"weighted": weighted_loss(logits, batch.answers.labels, weights)} | published

    return objective


def utility(scores: NDArray, weights: Sequence[float] = UTILITY) -> NDArray[np.float64]:
    """``S = Σ_h u_h f(x)_h``: probabilities (…, T) -> (…).

    Raises:
        ValueError: another number of weights than of heads.
    """
    u = np.asarray(weights, dtype=np.float64)
    if scores.shape[-1] != len(u):
        raise ValueError(f"{len(u)} utilities for {scores.shape[-1]} heads; one each is needed")
    return scores @ u


def hits(score: NDArray, label: NDArray, k: int = 3) -> NDArray[np.float64]:
    """How many positives stand among the k best of each request: β of the paper's HIT@k.

    Ties at the k-th place count by their share, as under a random order. ``label`` may hold exact
    probabilities; the result is then the expected number.

    Args:
        score: (R, C).
        label: (R, C).
        k: how many are the best; a request of fewer candidates is taken whole.

    Returns:
        (R,).
    """
    if score.shape != label.shape or score.ndim != 2:
        raise ValueError(
            f"score has shape {score.shape} and label {label.shape}; both must be (R, C)"
        )
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    if not score.size:
        raise ValueError(f"score has shape {score.shape}; nothing can be hit")
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} scores are NaN or infinite")
    k = min(k, score.shape[1])
    cut = np.partition(score, -k, axis=1)[:, [-k]]
    above = score > cut
    tied = score == cut
    places = k - above.sum(1)
    return (label * above).sum(1) + places * (label * tied).sum(1) / tied.sum(1)


def hit_at_k(score: NDArray, label: NDArray, user: NDArray, k: int = 3) -> float:
    """HIT@k of one head: hits of all requests, divided by the number of **users**.

    ``HIT@k/h = Σ_u Σ_{c ∈ C_u} β_{c,h} / |U|`` (TransAct, Section 4.1.2). Only its relative change
    means something: it grows with the number of requests per user. For hide, lower is better.
    """
    return float(hits(score, label, k).sum() / len(np.unique(user)))
