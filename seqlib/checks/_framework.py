"""How an exercise's answer is held against what it promises: one line, never an exception.

A check first tests properties (shape, invariance, sums), then compares with the reference once. It
knows the usual wrong answers and names their cause. Inputs are tiny, float64 and deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
import torch

_CHECKS: dict[str, Callable[[Test, Any], None]] = {}


class Failed(Exception):
    """Ends a check at its first difference."""


def exercise(name: str) -> Callable[[Callable[[Test, Any], None]], Callable[[Test, Any], None]]:
    """Register a function ``(t, answer)`` as the check of an exercise such as "E01.2"."""

    def add(fn: Callable[[Test, Any], None]) -> Callable[[Test, Any], None]:
        if name in _CHECKS:
            raise ValueError(f"exercise {name} has two checks")
        _CHECKS[name] = fn
        return fn

    return add


def ramp(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Float64 values in (−scale, scale) by the golden ratio: no two alike, no generator."""
    n = int(np.prod(shape))
    x = torch.frac(torch.arange(1, n + 1, dtype=torch.float64) * 0.6180339887498949)
    return ((2 * x - 1) * scale).reshape(shape)


class Test:
    """Collects the comparisons of one check; the first that fails ends it."""

    __test__ = False  # not a test class of pytest's

    def __init__(self) -> None:
        self.passed = 0

    def true(self, what: str, condition: Any, cause: str) -> None:
        """``condition`` must hold; otherwise the answer fails with what differs and why."""
        if not bool(condition):
            raise Failed(f"{what} — {cause}")
        self.passed += 1

    def close(
        self,
        what: str,
        got: Any,
        want: Any,
        cause: str = "compare with the formula in the text",
        *,
        atol: float = 1e-9,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        """``got`` must equal ``want`` in shape and value.

        Args:
            cause: the likely reason when nothing in ``known`` fits.
            known: likely cause -> the wrong result it leads to.
        """
        if got is None:
            raise Failed(f"{what} is None — the function returns nothing")
        try:
            a = _array(got)
            b = _array(want)
        except (TypeError, ValueError) as error:
            raise Failed(
                f"{what} is {type(got).__name__}, not numbers — return a tensor"
            ) from error
        for reason, wrong in (known or {}).items():
            w = _array(wrong)
            if w.shape == a.shape and np.allclose(a, w, rtol=0, atol=atol, equal_nan=True):
                raise Failed(f"{what} is what you get when {reason}")
        if a.shape != b.shape:
            raise Failed(f"{what} has shape {a.shape}, expected {b.shape} — {cause}")
        if not np.isfinite(a).all():
            raise Failed(f"{what} has NaN or infinity — {cause}")
        if not np.allclose(a, b, rtol=0, atol=atol):
            at = np.unravel_index(np.argmax(np.abs(a - b)), a.shape) if a.shape else ()
            where = f" at {tuple(int(i) for i in at)}" if a.shape else ""
            raise Failed(f"{what}{where} is {a[at]:.6g}, expected {b[at]:.6g} — {cause}")
        self.passed += 1

    def same(self, what: str, got: Any, want: Any, cause: str) -> None:
        """Exact equality, for words, integers and sets."""
        if got != want:
            raise Failed(f"{what} is {got!r}, expected {want!r} — {cause}")
        self.passed += 1


def _array(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().numpy()
    return np.asarray(x, dtype=np.float64)


class Counting(torch.Tensor):
    """A tensor that remembers the largest tensor made from it."""

    largest = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(out, torch.Tensor):
            Counting.largest = max(Counting.largest, out.numel())
        return out


def outcome(name: str, answer: Any) -> str:
    """The line that ``check`` prints.

    Raises:
        ValueError: there is no such exercise.
    """
    if name not in _CHECKS:
        with suppress(ModuleNotFoundError):
            import_module(f"seqlib.checks.ch{name[1:3]}")
    if name not in _CHECKS:
        raise ValueError(f"there is no exercise {name!r}")
    t = Test()
    try:
        _CHECKS[name](t, answer)
    except NotImplementedError:
        return "not attempted yet"
    except Failed as failure:
        return f"failed: {failure}"
    except Exception as error:
        text = str(error).split("\n")[0][:160]
        return f"failed: your code raised {type(error).__name__}: {text} — run it on a small input"
    return f"passed ({t.passed} checks)"


def check(name: str, answer: Any) -> None:
    """Print one line: "not attempted yet", "passed (k checks)" or "failed: what — likely cause".

    Args:
        name: id of the exercise, e.g. "E01.2".
        answer: your function or value.
    """
    print(f"{name}: {outcome(name, answer)}")


def exercises(chapter: str) -> list[str]:
    """Ids of a chapter's exercises, e.g. of "01"."""
    import_module(f"seqlib.checks.ch{chapter}")
    return sorted(n for n in _CHECKS if n.startswith(f"E{chapter}."))
