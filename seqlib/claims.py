"""``claim``: the only way a chapter prints a number that was learned or timed.

It asserts an interval and prints the value inside ⟨ ⟩. The notebook tests compare stored outputs
text by text and ignore what stands in these brackets: the interval is the test, the value is for
the reader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

CLAIM_PATTERN = re.compile(r"⟨\s*[-+.0-9a-z,]+\s*⟩")


class ClaimError(AssertionError):
    """A measured value lies outside the interval that the text relies on."""


def _checked(name: str, value: float, low: float, high: float) -> float:
    value = float(value)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: [{low}, {high}] is no interval; both ends must be finite")
    if not low < high:
        raise ValueError(f"{name}: [{low}, {high}] is empty; low must lie below high")
    if not low <= value <= high:
        raise ClaimError(f"{name} is {value}, outside [{low}, {high}]")
    return value


def claim(
    name: str, value: float, low: float, high: float, *, digits: int = 3, unit: str = ""
) -> None:
    """Assert ``low ≤ value ≤ high`` and print ``name: ⟨value⟩ unit in [low, high]``.

    Args:
        name: what is claimed.
        value: measured here.
        low: the interval's lower end, finite.
        high: the interval's upper end, finite.
        digits: after the point.
        unit: printed behind the value.

    Raises:
        ClaimError: the value lies outside (NaN always does).
        ValueError: the interval is empty or not finite: it could not fail.
    """
    value = _checked(name, value, low, high)
    unit = f" {unit}" if unit else ""
    print(f"{name}: ⟨{value:.{digits}f}⟩{unit} in [{low:g}, {high:g}]")


def table(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | tuple[float, float, float] | str]]],
    *,
    digits: int = 3,
    width: int = 10,
) -> None:
    """Print a text table whose measured cells are claims.

    Args:
        columns: headings.
        rows: (name, cells); a cell ``(value, low, high)`` is asserted and
            printed in brackets of constant width, anything else is printed as it is.
        digits: of measured cells.
        width: of measured cells.

    Raises:
        ClaimError: naming row and column.
    """
    first = max(len(name) for name, _ in rows)
    print(" " * first + "".join(f"  {c:>{width + 2}}" for c in columns))
    for name, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(f"row {name!r} has {len(cells)} cells for {len(columns)} columns")
        line = f"{name:<{first}}"
        for column, cell in zip(columns, cells, strict=True):
            if isinstance(cell, tuple):
                value = _checked(f"{name}, {column}", *cell)
                line += f"  ⟨{value:>{width}.{digits}f}⟩"
            else:
                line += f"  {cell!s:>{width + 2}}"
        print(line)
