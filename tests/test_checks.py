"""The frame of all exercise checks: one line, never an exception."""

from __future__ import annotations

import pytest
import torch

from seqlib.checks import check, exercise, outcome, ramp
from seqlib.checks._framework import _CHECKS


@exercise("E99.1")
def _double(t, answer):
    x = ramp(2, 3)
    t.true("the shape", answer(x).shape == x.shape, "keep the shape")
    t.close("twice x", answer(x), 2 * x, "multiply by two", known={"x is squared": x * x})
    t.same("the name", getattr(answer, "title", "double"), "double", "do not rename it")


@pytest.fixture(autouse=True, scope="module")
def _clean():
    yield
    _CHECKS.pop("E99.1", None)


def stub(x):
    raise NotImplementedError


def renamed(x):
    return 2 * x


renamed.title = "triple"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (stub, "not attempted yet"),
        (lambda x: 2 * x, "passed (3 checks)"),
        (lambda x: x * x, "failed: twice x is what you get when x is squared"),
        (lambda x: 2 * x[:1], "failed: the shape — keep the shape"),
        (lambda x: 2 * x + 1e-3, "failed: twice x at (0, 0)"),
        (lambda x: x / 0 * 0, "failed: twice x has NaN or infinity — multiply by two"),
        (renamed, "failed: the name is 'triple', expected 'double' — do not rename it"),
        (lambda x: {}["missing"], "failed: your code raised KeyError: 'missing'"),
        (lambda: 1, "failed: your code raised TypeError"),
    ],
)
def test_one_line_for_every_answer(answer, line, capsys):
    assert outcome("E99.1", answer).startswith(line)
    check("E99.1", answer)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("E99.1: ")


def test_ramp_is_deterministic_float64_and_has_no_twins():
    x = ramp(50)
    assert x.dtype == torch.float64
    assert len(set(x.tolist())) == 50
    assert torch.equal(x, ramp(50))


def test_unknown_and_doubled_exercises_are_errors():
    with pytest.raises(ValueError, match="no exercise 'E98.7'"):
        outcome("E98.7", stub)
    with pytest.raises(ValueError, match=r"E99.1 has two checks"):
        exercise("E99.1")(lambda t, a: None)
