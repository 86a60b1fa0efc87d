"""How a row of numbers becomes bytes on disk, and comes back as float32.

    float32, float16   as they are
    int8:LIMIT         q = round(x / LIMIT · 127), clamped; one scale for all (TransAct V2: 0.65)
    int4               per vector: 16 steps between its minimum and its maximum, which go with it

A row is an array of any shape; int4 works on its last axis. Encoding is a fixed rule, so that what
was trained on decoded rows meets the very same rows when it is served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


class Codec(Protocol):
    """One way to keep rows."""

    @property
    def name(self) -> str:
        """What ``codec`` takes, and what a manifest holds."""

    def nbytes(self, shape: Shape) -> int:
        """Bytes of one row of this shape. Raises ValueError for a shape it can't keep."""

    def encode(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(n, *shape) finite float32 -> (n, nbytes). Raises ValueError for values out of range."""

    def decode(self, raw: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
        """(n, nbytes) -> (n, *shape) float32; without a copy where bytes are numbers already."""


@dataclass(frozen=True)
class Float:
    """Numbers as they are.

    Attributes:
        name: "float32" or "float16".
    """

    name: str = "float32"

    @property
    def dtype(self) -> np.dtype:
        """NumPy's type."""
        return np.dtype(self.name)

    def nbytes(self, shape: Shape) -> int:
        """See ``Codec``."""
        return math.prod(shape) * self.dtype.itemsize

    def encode(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See ``Codec``."""
        largest = np.abs(rows).max(initial=0)
        limit = np.finfo(self.dtype).max
        if largest > limit:
            raise ValueError(f"rows reaches {largest:.6g}; {self.name} ends at {limit:.6g}")
        kept = np.ascontiguousarray(rows, self.dtype)
        return kept.reshape(len(rows), -1).view(np.uint8)

    def decode(self, raw: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
        """See ``Codec``."""
        return raw.view(self.dtype).reshape(len(raw), *shape).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Int8:
    """``q = clamp(round(x / limit · 127), −127, 127)``, ``x̂ = q · limit / 127``.

    TransAct V2's rule for unit vectors of 32 numbers (limit .65): hardly any coordinate is larger,
    and those that are get clamped. Symmetric: 0 stays 0.

    Attributes:
        limit: the largest number that is kept.
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        if not (self.limit > 0 and math.isfinite(self.limit)):
            raise ValueError(f"int8's limit is {self.limit}; it must be positive and finite")

    @property
    def name(self) -> str:
        """See ``Codec``."""
        return f"int8:{self.limit:g}"

    def nbytes(self, shape: Shape) -> int:
        """See ``Codec``."""
        return math.prod(shape)

    def encode(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See ``Codec``; what lies beyond the limit is clamped."""
        q = np.rint(np.asarray(rows, np.float32) * (127 / self.limit)).clip(-127, 127)
        return q.astype(np.int8).reshape(len(rows), -1).view(np.uint8)

    def decode(self, raw: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
        """See ``Codec``."""
        q = raw.view(np.int8).reshape(len(raw), *shape)
        return q.astype(np.float32) * np.float32(self.limit / 127)


@dataclass(frozen=True)
class Int4:
    """Sixteen steps between a vector's minimum and maximum: ``x̂ = minimum + q · scale``.

    Two numbers a byte, the first in the lower half, and 8 bytes for scale and minimum behind them:
    256 numbers take 136 bytes, which is 17 int64 (DV365). The error is at most half a step.
    """

    name: str = "int4"

    def nbytes(self, shape: Shape) -> int:
        """See ``Codec``."""
        if not shape or shape[-1] % 2:
            raise ValueError(f"a row of shape {shape} can't be int4; its last axis must be even")
        return math.prod(shape[:-1]) * (shape[-1] // 2 + 8)

    def encode(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See ``Codec``."""
        x = np.asarray(rows, np.float32)
        total = self.nbytes(x.shape[1:])
        low = x.min(-1, keepdims=True)
        with np.errstate(over="ignore"):
            spread = x.max(-1, keepdims=True) - low
        if not np.isfinite(spread).all():
            raise ValueError(
                "a vector's maximum minus its minimum is beyond float32; scale it down"
            )
        scale = spread / 15
        q = np.rint((x - low) / np.where(scale > 0, scale, 1)).clip(0, 15).astype(np.uint8)
        packed = q[..., 0::2] | q[..., 1::2] << 4
        ends = np.concatenate([scale, low], -1).astype(np.float32).view(np.uint8)
        return np.concatenate([packed, ends], -1).reshape(len(x), total)

    def decode(self, raw: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
        """See ``Codec``."""
        vectors = raw.reshape(len(raw), *shape[:-1], shape[-1] // 2 + 8)
        packed = vectors[..., :-8]
        ends = np.ascontiguousarray(vectors[..., -8:]).view(np.float32)
        q = np.stack([packed & 15, packed >> 4], -1).reshape(len(raw), *shape)
        return q.astype(np.float32) * ends[..., :1] + ends[..., 1:]


def codec(name: str) -> Codec:
    """A codec by the name that a manifest holds.

    Raises:
        ValueError: no such codec; the message lists them.
    """
    kind, _, option = name.partition(":")
    if kind in ("float32", "float16") and not option:
        return Float(kind)
    if kind == "int4" and not option:
        return Int4()
    if kind == "int8":
        try:
            return Int8(float(option or 1))
        except ValueError as error:
            raise ValueError(
                f"codec is {name!r}; int8 takes a positive limit, int8:0.65"
            ) from error
    raise ValueError(f"codec is {name!r}; it is one of float32, float16, int8:LIMIT, int4")
