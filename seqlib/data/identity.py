"""Whether two things are the same: a digest of tensors, and the names of what differs."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .schema import DataSpec

_SIMPLE = (bool, int, float, str, bytes, type(None))


def digest(named: Mapping[str, Tensor | NDArray]) -> str:
    """64 bits of SHA-256, in hexadecimal, over names, shapes, types and bytes.

    The order of the names does not matter. O(bytes), about a second per gigabyte.
    """
    sha = hashlib.sha256()
    for name, value in sorted(named.items()):
        sha.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        sha.update(_bytes(value))
    return sha.hexdigest()[:16]


def _bytes(value: Tensor | NDArray) -> NDArray[np.uint8]:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy()  # NumPy lacks some types of torch, bytes it has
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def text_digest(text: str) -> str:
    """64 bits of SHA-256 over a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def catalogue(spec: DataSpec) -> dict[str, Any]:
    """What the rows of a model's tables stand for in a data set; JSON can hold it.

    Weights mean something for one catalogue only: another numbering of items, field values,
    actions, surfaces or tasks has the same shapes. Not in it: base rates, which only begin a model.
    """
    table = spec.items
    names = json.dumps(spec.notes.get("names"), sort_keys=True, default=str)
    return {
        "rows": len(table),
        "order": list(table.sizes),
        "sizes": dict(table.sizes),
        "fields": {name: digest({name: ids}) for name, ids in table.fields.items()},
        "content": digest({"content": table.content}),
        "dense": digest({"dense": table.dense}),
        "duration": digest({"duration": table.duration}),
        "names": text_digest(names),
        "actions": list(spec.actions),
        "surfaces": list(spec.surfaces),
        "tasks": [[task.name, task.kind] for task in spec.tasks],
        "key_field": spec.key_field,
        "watch": spec.watch,
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any], at: str = "") -> list[str]:
    """Names of what differs between two nested mappings, with both values; empty if nothing."""
    out = []
    for key in sorted(set(there) | set(here)):
        x = there.get(key)
        y = here.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            out += differences(x, y, f"{at}{key}.")
        elif _as_json(x) != _as_json(y):
            out.append(f"{at}{key} ({x} there, {y} here)")
    return out


def _as_json(value: Any) -> Any:
    """A tuple comes back from a file as a list; that is no difference."""
    return json.loads(json.dumps(value))


def name_of(function: Any) -> str | None:
    """Module and name of a function or of a callable object's class; None for None."""
    if function is None:
        return None
    if isinstance(function, functools.partial):
        return name_of(function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def contents_digest(function: Any) -> str:
    """Digest of what a function computes: its code, its defaults and the values it holds.

    Two closures of one name with other values differ, and so do two lambdas. Not seen: globals,
    and of objects whatever is neither a number, a text, an array nor a list of these.
    """
    return text_digest(json.dumps(_contents(function, set())))


def _contents(value: Any, seen: set[int]) -> Any:
    """Nested lists of text that are equal for equal values, in every process."""
    if isinstance(value, _SIMPLE):
        return repr(value)
    if id(value) in seen:  # a function may hold itself
        return "…"
    seen = seen | {id(value)}
    if isinstance(value, Tensor | np.ndarray):
        return digest({"": value})
    if isinstance(value, list | tuple):
        return [_contents(v, seen) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_contents(v, seen)) for v in value)
    if isinstance(value, Mapping):
        return [[repr(k), _contents(v, seen)] for k, v in value.items()]
    if isinstance(value, functools.partial):
        return _contents([value.func, value.args, value.keywords], seen)
    if isinstance(value, CodeType):
        return [value.co_code.hex(), _contents([value.co_consts, value.co_names], seen)]
    if hasattr(value, "__code__"):
        cells = [c.cell_contents for c in value.__closure__ or ()]
        held = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
        return [name_of(value), _contents(held, seen)]
    if hasattr(value, "__func__"):
        return _contents([value.__func__, value.__self__], seen)
    # Of other objects, the settings that lie open; an object may hold the whole program.
    settings = getattr(value, "__dict__", {}) if not isinstance(value, type) else {}
    kinds = (*_SIMPLE, list, tuple, Tensor, np.ndarray)
    plain = {k: v for k, v in sorted(settings.items()) if isinstance(v, kinds)}
    return [name_of(value), _contents(plain, seen)]
