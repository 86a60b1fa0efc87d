"""What training minimises: named terms, each of them kept apart in the history of a run.

An objective takes a model and a batch and returns named scalars; ``fit`` adds them up. Most of it
comes from the ranker's outputs. A part of a model may have a term of its own (SIM's soft search,
TransAct V2's next action): it publishes it during the forward, and the objective collects it.

    model(request) ──── outputs ───────────────► one term per task ──┐
         └── publish("search", of_answers) ────► of_answers(answers) ┴─► {"click": …, "search": …}

A part never sees the answers in its forward. So what it publishes is a function of them, and that
function lives only as long as the ``collect`` block: nothing is kept on a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .data.schema import Answers, RequestBatch, Task

Term = Callable[[Answers], Tensor]
Objective = Callable[[nn.Module, RequestBatch], dict[str, Tensor]]

_open: ContextVar[tuple[dict[str, Term], ...]] = ContextVar("open_objectives", default=())


def publish(name: str, term: Term) -> None:
    """Hand a loss term to every open ``collect``; without one it is dropped at once.

    Args:
        name: what the history calls it.
        term: ``Answers`` -> scalar tensor, called once after the forward.

    Raises:
        ValueError: two parts publish under one name in the same forward.
    """
    for terms in _open.get():
        if name in terms:
            raise ValueError(f"two loss terms are called {name!r}; a name belongs to one")
        terms[name] = term


@contextmanager
def collect() -> Iterator[dict[str, Term]]:
    """Gather what modules publish inside the ``with`` block."""
    terms: dict[str, Term] = {}
    token = _open.set((*_open.get(), terms))
    try:
        yield terms
    finally:
        _open.reset(token)


def task_loss(output: Tensor, answers: Answers, t: int, task: Task) -> Tensor:
    """Cross-entropy of a binary task, squared error of a real one, over the labels that are defined.

    Args:
        output: (B, C, T) of the ranker.
        answers: labels and their weights.
        t: which task.
        task: its kind.

    Returns:
        Weighted mean over B·C; 0 where no label is defined.
    """
    predicted = output[..., t].float()
    label = answers.labels[..., t].float()
    error = F.mse_loss if task.kind == "real" else F.binary_cross_entropy_with_logits
    if answers.weight is None:
        return error(predicted, label)
    weight = answers.weight[..., t]
    # An undefined label may be NaN, and NaN times 0 is NaN.
    each = error(predicted, label.where(weight > 0, 0.0), reduction="none")
    return (each * weight).sum() / weight.sum().clamp_min(1e-12)


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy summed over tasks, averaged over candidates: (B, C, T) twice -> ()."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    return loss.sum(-1).mean()


def outputs_and_terms(model: nn.Module, batch: RequestBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward: the ranker's (B, C, T), and the terms that parts of it published."""
    with collect() as published:
        outputs = model(batch.request)
    return outputs, {name: term(batch.answers) for name, term in published.items()}


def supervised(tasks: Sequence[Task]) -> Objective:
    """One term per task, and those that parts of the model publish: what ``fit`` minimises by default.

    Args:
        tasks: of the ranker, in the order of its outputs.
    """

    def objective(model: nn.Module, batch: RequestBatch) -> dict[str, Tensor]:
        outputs, published = outputs_and_terms(model, batch)
        answers = batch.answers
        of_tasks = {task.name: task_loss(outputs, answers, t, task) for t, task in enumerate(tasks)}
        return of_tasks | published

    return objective


def checked(terms: Any) -> dict[str, Tensor]:
    """What an objective gave.

    Raises:
        TypeError: it is no mapping of names to scalar tensors, or an empty one.
    """
    scalars = isinstance(terms, dict) and all(
        isinstance(term, Tensor) and term.ndim == 0 for term in terms.values()
    )
    if not scalars or not terms:
        raise TypeError(
            f"the objective gave {terms!r:.200}; it must give named scalars, such as "
            f'{{"click": loss}} with a loss of shape ()'
        )
    return terms
