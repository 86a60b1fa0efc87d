"""A record of tensors: what moves to a device, is sliced by request, and is stored as one.

Requests, histories, item tables and the states of staged encoders are all records. Their tensors
share the first axis, one entry per request, except those of fields marked ``SHARED``: tables that
all requests look into, which move with the record but are never sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

# Metadata of a dataclass field whose tensor has no request axis: slicing leaves it whole.
SHARED = {"shared": True}


class Tensors:
    """Base of frozen dataclasses made of tensors, of other records, of mappings to them, of plain
    values, and of None."""

    kinds: ClassVar[dict[str, type[Tensors]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Tensors.kinds[cls.__name__] = cls

    def _map(self, fn: Callable[[Tensor], Tensor], slicing: bool = False) -> Self:
        new = {}
        for f in fields(self):  # type: ignore[arg-type]
            if not (slicing and f.metadata.get("shared")):
                new[f.name] = _apply(getattr(self, f.name), fn, slicing)
        return replace(self, **new)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same record on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same record in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda t: t.pin_memory())

    def __getitem__(self, index: Any) -> Self:
        """The same record of some of the requests; ``index`` is applied to every tensor."""
        return self._map(lambda t: t[index], slicing=True)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, shared ones included."""
        sizes: list[int] = []
        self._map(lambda t: sizes.append(t.nbytes) or t)  # type: ignore[func-returns-value]
        return sum(sizes)


def _apply(value: Any, fn: Callable[[Tensor], Tensor], slicing: bool) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Tensors):
        return value._map(fn, slicing)
    if isinstance(value, Mapping):
        return {k: _apply(v, fn, slicing) for k, v in value.items()}
    return value


def pack(record: Tensors) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Flat tensors by dotted name, and a tree of plain values that says how to put them together.

    ``unpack(*pack(record))`` is the record again. The tree is JSON: it names classes, and no code.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _describe(record, "", tensors)


def _describe(value: Any, at: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(value, Tensor):
        tensors[at] = value.detach()
        return {"tensor": at}
    if isinstance(value, Tensors):
        names = [f.name for f in fields(value)]  # type: ignore[arg-type]
        parts = {n: _describe(getattr(value, n), f"{at}.{n}".lstrip("."), tensors) for n in names}
        return {"record": type(value).__name__, "parts": parts}
    if isinstance(value, Mapping):
        return {"mapping": {k: _describe(v, f"{at}.{k}", tensors) for k, v in value.items()}}
    return {"plain": value}


def unpack(tensors: Mapping[str, Tensor], tree: Mapping[str, Any]) -> Any:
    """What ``pack`` took apart.

    Raises:
        ValueError: the tree names a record that this library doesn't have.
    """
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "mapping" in tree:
        return {k: unpack(tensors, v) for k, v in tree["mapping"].items()}
    if "plain" in tree:
        return tree["plain"]
    name = tree["record"]
    if name not in Tensors.kinds:
        raise ValueError(f"no record is called {name!r}; there are {', '.join(Tensors.kinds)}")
    return Tensors.kinds[name](**{k: unpack(tensors, v) for k, v in tree["parts"].items()})
