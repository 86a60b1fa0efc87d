"""Limits on time that a busy machine doesn't break: they are written in seconds of an idle one.

A limit here ends what hangs, or says what may be slow to a human. How much else runs on the
machine is none of its business, so each limit grows with the time that a small fixed piece of work
takes at the moment.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

IDLE = 0.020  # seconds of the reference work on an idle machine, of the kind that runs the tests
STEP = 5.0  # seconds between two looks at how busy the machine is


def reference_work() -> int:
    """A fixed piece of work for one core."""
    return sum(i * i % 7 for i in range(250_000))


def slowness(clock: Callable[[], float] = time.perf_counter) -> float:
    """How many times longer than on an idle machine the reference work takes; at least 1.

    Args:
        clock: what to measure with, in seconds: ``time.process_time`` for limits on processor time,
            which others on the machine stretch only through its caches.
    """
    spent = []
    for _ in range(5):
        started = clock()
        reference_work()
        spent.append(clock() - started)
    return max(1.0, statistics.median(spent) / IDLE)


def scaled(seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """A limit of so many seconds of an idle machine, in seconds of this one as it is now."""
    return seconds * slowness(clock)


def wait_until(done: Callable[[float], bool], seconds: float) -> bool:
    """Ask until the answer is yes, for so many seconds of an idle machine; False: it never was.

    The machine is looked at again and again, since other work comes and goes while we wait.

    Args:
        done: takes the seconds it may wait for; returns whether it is done.
    """
    before = slowness()
    while seconds > 0:
        started = time.perf_counter()
        if done(STEP):
            return True
        waited = time.perf_counter() - started
        after = slowness()
        seconds -= waited / max(before, after)
        before = after
    return False
