"""Real data sets of the course, each a ``Dataset`` like the synthetic world."""

from ._complete_journey import complete_journey, provenance, true_probability, week_start
from ._git import GitError, git_history
from .dataset import Dataset

__all__ = [
    "Dataset",
    "GitError",
    "complete_journey",
    "git_history",
    "provenance",
    "true_probability",
    "week_start",
]
