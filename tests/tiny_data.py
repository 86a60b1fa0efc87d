"""A log and requests over the 30 items of ``tiny.spec``, filled by formulas."""

from __future__ import annotations

import numpy as np
import tiny

from seqlib.data.log import BatchLoader, EventLog, Requests

N_USERS, EVENTS, N_REQUESTS = 8, 12, 32


def log(shift: int = 0) -> EventLog:
    """Twelve events of each of eight users; ``shift`` gives other items in the same shapes."""
    i = np.arange(N_USERS * EVENTS)
    return EventLog.build(
        user=i // EVENTS,
        item=2 + (i * 7 + shift) % tiny.N_ITEMS,
        time=1e6 + (i % EVENTS) * 3600.0,
        action=i % 16,
        watch=(i % 13).astype(np.float32),
        duration=np.full(len(i), 10.0, np.float32),
        n_users=N_USERS,
    )


def requests(shift: int = 0) -> Requests:
    """32 requests with four candidates each; ``shift`` gives other labels in the same shapes."""
    i = np.arange(N_REQUESTS)
    j = i[:, None] * 5 + np.arange(4) * 7
    labels = ((j[..., None] + np.arange(3) + shift) % 4 == 0).astype(np.uint8)
    return Requests(
        user=(i % N_USERS).astype(np.int32),
        time=1e6 + (EVENTS - i % 4) * 3600.0,
        surface=(i % 2).astype(np.uint8),
        position=(i % 5).astype(np.int32),
        items=(2 + j % tiny.N_ITEMS).astype(np.int32),
        labels=labels,
    ).validate(n_users=N_USERS, n_items=tiny.N_ITEMS + 2)


def loader(
    events: EventLog | None = None, asked: Requests | None = None, **settings
) -> BatchLoader:
    """Eight batches of four requests, shuffled, unless the settings say otherwise."""
    settings = {"length": 12, "batch_size": 4, "shuffle": True, **settings}
    return BatchLoader(
        log() if events is None else events,
        requests() if asked is None else asked,
        **settings,
    )
