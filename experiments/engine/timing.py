"""How long a run takes, as far as anything was ever noted of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import cache, store
from .cache import Job
from .run import Run


def seconds(jobs: Iterable[Job], name: str) -> dict[str, float | None]:
    """Key -> CPU seconds of each job of an experiment: as it was noted beside what is kept, else in
    the stored result, else in the stored row of its label; None where nothing is noted."""
    stored = store.read(name) if store.path(name).exists() else {}
    return {job.key: _of(job, stored) for job in jobs}


def _of(job: Job, stored: Mapping[str, Any]) -> float | None:
    kept = cache.record(job.key) or stored.get("runs", {}).get(job.key)
    if kept is not None:
        return float(kept["seconds"])
    if not isinstance(job, Run):
        return None
    for row in stored.get("rows", []):
        if (row["label"], row["length"]) == (job.label, job.length):
            return float(row["cpu_seconds"])
    return None
