"""Who makes a number: commit, code, machine. What can't be known counts as unclean."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import code

ROOT = code.ROOT
UNKNOWN = "unknown"
# Results are what experiments write: a new one does not make the next one unclean.
RESULTS = "experiments/results"
_BEGAN = time.time()
# A user's settings must not hide a change: nor ignore files, nor bits that say "not changed".
_SETTINGS = (
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.fileMode=false",
    "core.quotePath=false",
    "status.renames=false",
    "safe.directory=*",
)


def state() -> dict[str, Any]:
    """``commit`` of the working tree, and whether it is ``clean``.

    Clean means: no tracked file differs from the commit (but for results), none is marked as not to
    be looked at, and no module of ours is untracked. Without git, or outside a clone of this very
    project, the commit is "unknown", and unclean.
    """
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != ROOT:
        return {"commit": UNKNOWN, "clean": False}
    return {"commit": commit, "clean": uncommitted() == []}


def uncommitted() -> list[str] | None:
    """Files that keep the tree from being clean; None where git can't say."""
    apart = f":(exclude){RESULTS}"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=none",
                   "--", ".", apart)  # fmt: skip
    untracked = _git("ls-files", "--others", "--", "seqlib/*.py", "experiments/*.py")
    marked = _git("ls-files", "-v", "--", ".", apart)
    if changed is None or untracked is None or marked is None:
        return None
    hidden = [line[2:] for line in marked.splitlines() if not line.startswith("H ")]
    return [line[3:] for line in changed.splitlines()] + untracked.splitlines() + hidden


def maker(roots: list[code.Root], at_start: dict[str, Any]) -> dict[str, Any]:
    """The maker of what this process has just computed.

    Args:
        roots: where its code begins, see ``code``.
        at_start: ``state()`` when it began.
    """
    made_by = code.of(roots)
    edited = [m for m in made_by["modules"] if code.source(m).stat().st_mtime > _BEGAN]
    # What a file says now is not what this process imported before.
    clean = at_start["clean"] and not edited
    return {**at_start, "clean": clean, "code": made_by, "machine": machine()}


def machine() -> dict[str, Any]:
    """Processor, threads and versions: what else decides floating-point sums, and time."""
    return {
        "cpu": _processor(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads_per_run": torch.get_num_threads(),
        "device": "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
    }


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or UNKNOWN


def _git(*args: str) -> str | None:
    """git's answer about this repository, whatever the user's settings; None where it fails."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    ours = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }
    settings = [part for s in _SETTINGS for part in ("-c", s)]
    try:
        done = subprocess.run(
            ["git", "--no-pager", *settings, *args],
            cwd=ROOT,
            env=keep | ours,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except OSError:
        return None
    return done.stdout.decode(errors="replace").rstrip() if done.returncode == 0 else None
