"""Look inside a module without changing its signature: ``record`` costs nothing unless captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn


class Trace(dict[str, list[Tensor]]):
    """What was recorded: ``trace["din.weights"]`` is the latest tensor of that name."""

    def __getitem__(self, name: str) -> Tensor:  # type: ignore[override]
        if name not in self:
            raise KeyError(f"nothing was recorded as {name!r}; recorded: {sorted(self)}")
        return super().__getitem__(name)[-1]

    def all(self, name: str) -> list[Tensor]:
        """Every tensor recorded under a name, in order."""
        return super().__getitem__(name)


_open: ContextVar[tuple[Trace, ...]] = ContextVar("open_traces", default=())


def record(name: str, value: Tensor) -> None:
    """Publish a tensor to every open ``capture``; it is detached, not copied."""
    for trace in _open.get():
        trace.setdefault(name, []).append(value.detach())


def active() -> bool:
    """True inside a ``capture``: for what would cost something to compute only to be recorded."""
    return bool(_open.get())


@contextmanager
def capture() -> Iterator[Trace]:
    """Collect what modules record inside the ``with`` block. Captures may be nested."""
    trace = Trace()
    token = _open.set((*_open.get(), trace))
    try:
        yield trace
    finally:
        _open.reset(token)


@torch.no_grad()
def run(model: nn.Module, *inputs: Any) -> Trace:
    """What a model records on some inputs, in evaluation mode; its mode is restored.

    Args:
        model: any module.
        inputs: what it is called with.
    """
    was_training = model.training
    model.eval()
    try:
        with capture() as recorded:
            model(*inputs)
    finally:
        model.train(was_training)
    return recorded
