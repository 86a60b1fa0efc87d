"""Where in the log every request's history lies: its own user's, or another user's as a control."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .event_log import EventLog
from .requests import Requests, history_end

# Of so many other users drawn, the control takes the one whose history is nearest in length.
OTHERS_DRAWN = 16


class Spans:
    """First row and end of every request's history in the log.

    Args:
        log: events of all users.
        requests: R requests of the same users.
        length: L, the most events of a history; the newest are kept.
        other_user: another random user's history in place of the own, drawn anew each epoch.
        seed: of the other users.

    Raises:
        ValueError: ``other_user``, but fewer than two users have events.
    """

    def __init__(
        self, log: EventLog, requests: Requests, length: int, other_user: bool, seed: int
    ) -> None:
        self.log = log
        self.requests = requests
        self.length = length
        self.seed = seed
        self._end: NDArray[np.int64] = history_end(log, requests)
        self._active = np.flatnonzero(log.lengths).astype(np.int32) if other_user else None
        if self._active is not None and len(self._active) < 2:
            raise ValueError(
                f"other_user=True needs two users with events; the log has {len(self._active)}"
            )
        self._known: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def at(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(R,) first row and end of every history in this epoch."""
        is_stale = self._known is None or (self._active is not None and self._known[0] != epoch)
        if is_stale:
            user, end = self._whose(epoch)
            low = np.maximum(self.log.offsets[user], end - self.length)
            self._known = epoch, low, end
        assert self._known is not None
        return self._known[1:]

    def _whose(self, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(R,) user whose history each request gets, and the row where it ends."""
        log = self.log
        r = self.requests
        if self._active is None:
            return r.user, self._end
        dice = kernels.dice(self.seed, epoch, np.arange(len(r)), OTHERS_DRAWN)
        return kernels.others(
            log.time, log.offsets, r.user, r.time, self._end, self._active, self.length, dice
        )
