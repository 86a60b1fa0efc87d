"""What every chapter's exercises promise: a solution each, and a diagnosis for each wrong answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from seqlib.checks import exercises, outcome


def stub(*_: Any, **__: Any) -> Any:
    """An exercise as the reader finds it."""
    raise NotImplementedError


def suite(
    chapter: str,
    solutions: Mapping[str, Callable[..., Any]],
    wrong: Sequence[tuple[str, Callable[..., Any], str]],
) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:
    """Three tests for a chapter's module to bind to names of its own."""

    def every_exercise_has_a_solution() -> None:
        assert exercises(chapter) == sorted(solutions)

    @pytest.mark.parametrize("name", sorted(solutions))
    def stub_and_solution(name) -> None:
        assert outcome(name, stub) == "not attempted yet"
        assert outcome(name, solutions[name]).startswith("passed (")

    @pytest.mark.parametrize(("name", "answer", "message"), wrong)
    def wrong_answers_get_their_own_diagnosis(name, answer, message) -> None:
        line = outcome(name, answer)
        assert line.startswith("failed: "), line
        assert message in line, line
        assert "\n" not in line

    return every_exercise_has_a_solution, stub_and_solution, wrong_answers_get_their_own_diagnosis
