"""What a model predicts of a set of requests, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .data.schema import RequestBatch
from .nn.heads import predictions as of_heads


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a model on a set of requests, in the order of the requests.

    Attributes:
        score: (R, C, T) float64, probabilities of binary tasks, values of real ones.
        label: (R, C, T).
        user: (R,).
        index: (R,).
        truth: (R, C, T) exact probabilities, or None on real data.
        weight: (R, C, T) ≥ 0, how much each label counts; 0 where it is undefined. None is 1 each.
    """

    score: NDArray[np.float64]
    label: NDArray[np.float64]
    user: NDArray[np.int64]
    index: NDArray[np.int64]
    truth: NDArray[np.float64] | None = None
    weight: NDArray[np.float64] | None = None

    def rows(self, keep: NDArray) -> Predictions:
        """Some of the requests.

        Args:
            keep: their rows, or a mask (R,).
        """
        return Predictions(
            self.score[keep],
            self.label[keep],
            self.user[keep],
            self.index[keep],
            None if self.truth is None else self.truth[keep],
            None if self.weight is None else self.weight[keep],
        )

    def is_defined(self, task: int) -> NDArray[np.bool_]:
        """(R, C), where the task has a label that counts.

        Args:
            task: which label.
        """
        if self.weight is None:
            return np.ones(self.label.shape[:2], bool)
        return self.weight[..., task] > 0


@torch.no_grad()
def predict(model: nn.Module, loader: Any, device: torch.device | str | None = None) -> Predictions:
    """Run a model over a loader in evaluation mode; its mode is restored.

    Args:
        model: a ranker.
        loader: of ``RequestBatch``.
        device: None is the model's.

    Raises:
        ValueError: an empty loader.
    """
    device = device or next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = [_predict_batch(model, batch, device) for batch in loader]
    model.train(was_training)
    if not parts:
        raise ValueError("the loader has no batches; there is nothing to predict")
    whole = Predictions(
        np.concatenate([p.score for p in parts]),
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.user for p in parts]),
        np.concatenate([p.index for p in parts]),
        _joined_truth(parts),
        _joined_weight(parts),
    )
    return whole.rows(np.argsort(whole.index, kind="stable"))


def _predict_batch(
    model: nn.Module, batch: RequestBatch, device: torch.device | str
) -> Predictions:
    outputs = model(batch.request.to(device)).double().cpu()
    answers = batch.answers
    return Predictions(
        of_heads(outputs, getattr(model, "tasks", ())).numpy(),
        _as_float64(answers.labels),
        batch.request.user.numpy(),
        batch.index.numpy(),
        None if answers.truth is None else answers.truth.numpy(),
        None if answers.weight is None else _as_float64(answers.weight),
    )


def _as_float64(x: Tensor) -> NDArray[np.float64]:
    return x.numpy().astype(np.float64)


def _joined_truth(parts: list[Predictions]) -> NDArray[np.float64] | None:
    """Known where every batch knows it: a truth can't be made up."""
    known = [p.truth for p in parts if p.truth is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _joined_weight(parts: list[Predictions]) -> NDArray[np.float64] | None:
    """A batch without weights beside one that has some counts 1 each."""
    if all(p.weight is None for p in parts):
        return None
    return np.concatenate([np.ones_like(p.label) if p.weight is None else p.weight for p in parts])
