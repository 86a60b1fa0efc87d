"""What stored keys save at a request of 10,000 events: time on this machine, multiply-adds anywhere."""

from __future__ import annotations

from typing import Any

from seqlib import runtime
from seqlib.serving.bench import timings
from seqlib.serving.twin_savings import (
    PAPER_CYCLE,
    PAPER_POOL,
    PAPER_REDUCTION,
    break_even,
    rate_reduction,
)

from ..engine import cache
from ..engine.data import dataset
from ..engine.summary import Study
from . import plans
from .models import of_plan, run_of

CANDIDATES = (1, 100, 1_000)
ROUNDS = 20


def study() -> dict[str, Any]:
    """One thread, all kinds of keys in turns; best run on an idle machine."""
    runtime.setup(1, 0)
    rows = timings(dataset("course"), of_plan("twin", 0).eval(), CANDIDATES, ROUNDS, plans.LIFE)
    rate = break_even(PAPER_POOL, PAPER_CYCLE, reduction=PAPER_REDUCTION)
    return {
        "length": plans.LIFE,
        "rounds": ROUNDS,
        "timings": [r | {k: round(r[k], 2) for k in ("p50", "p99", "best")} for r in rows],
        "rate": {"requests_per_second": round(rate),
                 "reduction": round(rate_reduction(PAPER_POOL, PAPER_CYCLE, rate), 4)},
    }  # fmt: skip


def _jobs() -> list[cache.Job]:
    return [run_of("twin", 0)]


STUDY = Study(study, jobs=_jobs)
