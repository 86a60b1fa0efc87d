"""Real data sets of the course, each a ``Dataset`` like the synthetic world."""

from ..dataset import Dataset
from .git import GitError, git_history
from .journey import complete_journey, provenance, true_probability, week_start

__all__ = [
    "Dataset",
    "GitError",
    "complete_journey",
    "git_history",
    "provenance",
    "true_probability",
    "week_start",
]
