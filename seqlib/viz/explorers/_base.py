"""What all explorers share: the widget's base class, and numbers packed into text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import numpy as np
import traitlets
from numpy.typing import ArrayLike, NDArray

_HERE = Path(__file__).parent
_KIT = (_HERE / "kit.js").read_text()
_CSS = (_HERE / "common.css").read_text()
MAX_STATE = 60_000  # Bytes of JSON; a notebook may hold 600 kB in all.


class _Explorer(anywidget.AnyWidget):
    _css = _CSS
    state = traitlets.Dict().tag(sync=True)
    _needs: ClassVar[tuple[str, ...]] = ()
    _limit: ClassVar[int] = MAX_STATE

    def __init__(self, state: Mapping[str, Any], **kwargs: Any) -> None:
        if missing := [k for k in self._needs if k not in state]:
            raise ValueError(f"state lacks {missing}; it needs {list(self._needs)}")
        size = len(json.dumps(state))
        if size > self._limit:
            raise ValueError(
                f"state has {size:,} bytes, over {self._limit:,}; give fewer events or candidates"
            )
        super().__init__(state=dict(state), **kwargs)

    def __repr__(self) -> str:
        """The name without an address, for notebook tests compare text."""
        return f"{type(self).__name__}()"


def require_equal_lengths(**columns: Any) -> None:
    """Raise ValueError, naming the columns and their lengths, unless all are of one length."""
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"lengths differ: {sizes}; they must be equal")


# --- numbers for the browser ------------------------------------------------------------------

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def pack(array: ArrayLike, bits: int = 12) -> dict[str, Any]:
    """An array as text: one scale, and ``bits`` bits a number in characters of six.

    With 12 bits errors are at most 1/4094 of the largest value, and a matrix of 10,000 numbers
    takes 20 kB in place of 90.

    Args:
        array: any shape, finite.
        bits: 4 … 24.

    Returns:
        ``{"shape", "scale", "bits", "text"}``; ``unpack`` gives the numbers that the browser uses.

    Raises:
        ValueError: NaN, infinity, or another number of bits.
    """
    a = np.asarray(array, np.float64)
    if not np.isfinite(a).all():
        raise ValueError("array has NaN or infinity; only finite numbers can be packed")
    if not 4 <= bits <= 24:
        raise ValueError(f"bits is {bits}; it must lie in 4 … 24")
    half = 2 ** (bits - 1)
    scale = float(f"{np.abs(a).max(initial=0.0) * (1 + 1e-6) / (half - 1):.7g}") or 1.0
    codes = np.rint(a / scale).astype(np.int64) + half
    return {"shape": list(a.shape), "scale": scale, "bits": bits, "text": _text(codes, bits)}


def _text(codes: NDArray[np.int64], bits: int) -> str:
    stream = (codes.ravel()[:, None] >> np.arange(bits)[::-1] & 1).ravel()
    stream = np.pad(stream, (0, -len(stream) % 6)).reshape(-1, 6)
    return "".join(_ALPHABET[c] for c in stream @ (2 ** np.arange(6)[::-1]))


def unpack(packed: Any) -> NDArray[np.float64]:
    """What ``pack`` packed, as the browser reads it; plain lists come back as an array."""
    if not isinstance(packed, Mapping):
        return np.asarray(packed, np.float64)
    bits = packed["bits"]
    size = int(np.prod(packed["shape"]))
    sixes = np.array([_ALPHABET.index(c) for c in packed["text"]], np.int64)
    stream = (sixes[:, None] >> np.arange(6)[::-1] & 1).ravel()[: size * bits]
    codes = stream.reshape(-1, bits) @ (2 ** np.arange(bits)[::-1])
    return ((codes - 2 ** (bits - 1)) * packed["scale"]).reshape(packed["shape"])


def _lists(a: Any, digits: int = 5) -> Any:
    return (np.round(np.asarray(a, np.float64), digits) + 0.0).tolist()
