"""A record of tensors as one file: the state of a request that another process goes on from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import whole_file
from .tensors import Tensors, pack, unpack


def save(record: Tensors, path: str | Path) -> None:
    """Write a record as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    tensors, tree = pack(record)
    # A copy each: two parts of a state may hold one tensor, which the format does not allow.
    whole = {name: t.contiguous().clone() for name, t in tensors.items()}
    with whole_file(path) as partial:
        save_file(whole, str(partial), metadata={"record": json.dumps(tree)})


def load(path: str | Path) -> Any:
    """The record that ``save`` wrote, on the CPU.

    Raises:
        ValueError: the file is no record.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as f:
        metadata = f.metadata() or {}
        if "record" not in metadata:
            raise ValueError(f"{path} holds no record; its metadata names {sorted(metadata)}")
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    return unpack(tensors, json.loads(metadata["record"]))
