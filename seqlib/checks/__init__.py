"""What an exercise's answer is held against."""

from ._framework import Test, check, exercise, exercises, outcome, ramp

__all__ = ["Test", "check", "exercise", "exercises", "outcome", "ramp"]
