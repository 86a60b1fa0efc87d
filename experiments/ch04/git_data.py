"""The data set "git": a seeded sample of the requests in a git clone's history.

``SEQLIB_GIT_CLONE`` names the clone; ``git log`` is read, nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from seqlib.data.dataset import Dataset
from seqlib.data.log import Requests
from seqlib.data.public import GitError, git_history
from seqlib.data.public.clone import opened

from ..engine.data import Source, register

CLONE = "SEQLIB_GIT_CLONE"
KNOWN = {"97e3422f41d94209577713af4f3a94e97d6c4eda": "Samba (github.com/samba-team/samba)"}
BUSY = 10_000  # files that the busiest authors should have touched
MIN_EVENTS = 1_000  # of an author
TRAIN = 7_000  # requests
TEST = 4_000


@lru_cache(maxsize=1)
def full_history() -> tuple[Dataset, dict[str, Any]]:
    """The clone's data set with all its requests, and which history it is (no path, no name).

    Raises:
        GitError: the variable is not set, or names no complete clone.
    """
    if not os.environ.get(CLONE):
        raise GitError(
            f"this experiment reads a git clone of yours: set {CLONE} to the path of one whose "
            f"busiest authors touched more than {BUSY:,} files (`git log` is read, nothing fetched)"
        )
    path = Path(os.environ[CLONE])
    with opened(path) as clone:
        end = clone.ask("log", "-1", "--format=%ct")
        date = clone.ask("log", "-1", "--format=%cs")
        commits = clone.ask("rev-list", "--count", "HEAD")
        roots = clone.ask("log", "--max-parents=0", "--format=%at %H", "HEAD")
    data = git_history(path, min_events=MIN_EVENTS, now=float(end) if end else None)
    if not roots or not commits:
        raise GitError(f"the history of {path} is not complete; 'git fsck' shows what is missing")
    root = min(roots.split("\n"), key=lambda line: int(line.split()[0])).split()[1]
    return data, {
        "project": KNOWN.get(root, "not one this course knows"),
        "oldest_root": root,
        "head": clone.head,
        "head_date": date,
        "commits": int(commits),
    }


@lru_cache(maxsize=1)
def history() -> Dataset:
    """A seeded sample of the clone's requests, with whole histories.

    Raises:
        GitError: as ``full_history``.
    """
    data, _ = full_history()
    rng = np.random.default_rng(0)

    def some(requests: Requests, n: int) -> Requests:
        rows = rng.choice(len(requests), min(n, len(requests)), replace=False)
        return requests[np.sort(rows)]

    sample = dataclasses.replace(data, train=some(data.train, TRAIN), test=some(data.test, TEST))
    return sample.validate()


def settings() -> dict[str, Any]:
    """What of the clone's history is taken."""
    return {"min_events": MIN_EVENTS, "train": TRAIN, "test": TEST}


def identity() -> dict[str, Any]:
    """Which history it is: runs of another one have other keys.

    Raises:
        GitError: as ``full_history``.
    """
    return {"head": full_history()[1]["head"]}


register(
    "git",
    Source(
        load=lambda: history(),
        settings=settings,
        roots=((__name__, "history"),),
        identity=identity,
        home=__name__,
    ),
)
