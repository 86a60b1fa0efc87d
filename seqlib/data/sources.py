"""What gives a loader its events at a moment: the log, part of it, clusters of a life, stored rows.

A source is asked for the histories of some requests and answers with ``Events``, newest first, all of
them strictly before each request's time. That is its one promise, and the tests hold every source to
it; what a system reads beside the raw log (explicit actions only, a life in clusters, what a server
logged) then reaches it without a loader of its own.

    RawLog       log ─────────────────────────────────► the newest L events
    FilteredLog  log ── keep ─────────────────────────► the newest L of those that count
    Snapshots    the newest snapshot made by then ─┐
                 raw events since ─────────────────┴──► both, newest first
    Logged       rows written when the request was served, read again as they were
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from . import kernels
from .columns import COLUMNS
from .event_log import EventLog, cut
from .identity import contents_digest, digest, name_of
from .requests import Requests, history_end
from .schema import Events, SchemaError


class Source(Protocol):
    """Events of requests, point-in-time."""

    def __call__(self, requests: Requests, rows: NDArray[np.int64], length: int) -> Events:
        """Histories of some requests, strictly before their times, newest first.

        Args:
            requests: all R requests of a loader.
            rows: (B,) which of them.
            length: L, the most events of a history.

        Returns:
            (B, at most L) events.
        """


class Feature(Protocol):
    """What only some systems read of a request: a second history, stored numbers, an embedding."""

    def __call__(self, requests: Requests, rows: NDArray[np.int64], length: int) -> Any:
        """As ``Source``, but any tensor or record of tensors whose first axis is B."""


def identity_of(source: Source | Feature) -> dict[str, Any]:
    """Name of a source and digests of what it holds, so that two of one identity are the same.

    A source that holds more than plain values, tensors and arrays says so in its own ``identity``.
    """
    held = source.identity() if hasattr(source, "identity") else contents_digest(source)
    return {"name": name_of(source), "holds": held}


def log_digests(log: EventLog) -> dict[str, str]:
    """A digest of each column of a log. O(bytes)."""
    return {name: digest({name: getattr(log, name)}) for name in COLUMNS}


class RawLog:
    """The newest events of each request's user.

    Args:
        log: all events.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log

    def identity(self) -> dict[str, Any]:
        """Digests of the log's columns."""
        return log_digests(self.log)

    def __call__(self, requests: Requests, rows: NDArray[np.int64], length: int) -> Events:
        """See ``Source``."""
        of = requests[rows]
        end = history_end(self.log, of)
        return cut(self.log, np.maximum(self.log.offsets[of.user], end - length), end)


class FilteredLog(RawLog):
    """The newest of those events that count, such as explicit actions only.

    Args:
        log: all events.
        keep: the log -> (E,) bool.

    Raises:
        SchemaError: ``keep`` gives another shape, or leaves nothing.
    """

    def __init__(self, log: EventLog, keep: Callable[[EventLog], NDArray[np.bool_]]) -> None:
        wanted = np.asarray(keep(log))
        if wanted.shape != (len(log),) or wanted.dtype != bool:
            raise SchemaError(
                f"keep gives {wanted.dtype} of shape {wanted.shape}; it must be bool, one per event: "
                f"({len(log)},)"
            )
        if not wanted.any():
            raise SchemaError("keep leaves no event of the log; there is no history to cut")
        super().__init__(log.where(wanted))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A summary of every life as it stood at one moment.

    Attributes:
        time: seconds; made of events strictly before it.
        log: the clusters as events: a representative item, a time within the cluster.
        count: (E,) float32, how many events each stands for.
    """

    time: float
    log: EventLog
    count: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.count.shape != (len(self.log),) or not (self.count >= 1).all():
            raise SchemaError(
                f"count has shape {self.count.shape}; it must hold a number of at least 1 for each of "
                f"the snapshot's {len(self.log)} clusters"
            )
        if len(self.log) and self.log.time.max() >= self.time:
            raise SchemaError(
                f"the snapshot of {self.time} holds a cluster at {self.log.time.max()}; clusters are "
                f"made of events strictly before it"
            )


class Snapshots:
    """The newest snapshot that existed at the request, and the raw events since, each counting one.

    A request before the first snapshot gets raw events only.

    Args:
        log: all events.
        snapshots: in any order.

    Raises:
        SchemaError: no snapshot, two of one time, or one of other users.
    """

    def __init__(self, log: EventLog, snapshots: Sequence[Snapshot]) -> None:
        self.log = log
        self.snapshots = sorted(snapshots, key=lambda s: s.time)
        self.times = np.array([s.time for s in self.snapshots])
        if not len(self.times) or len(np.unique(self.times)) < len(self.times):
            raise SchemaError(
                f"snapshots are of {self.times.tolist()}; each needs a time of its own"
            )
        for s in self.snapshots:
            if s.log.n_users != log.n_users:
                raise SchemaError(
                    f"the snapshot of {s.time} has {s.log.n_users} users, the log {log.n_users}"
                )

    def identity(self) -> list[dict[str, Any]]:
        """Digests of the log and of every snapshot."""
        clusters = [
            {"time": s.time, "count": digest({"count": s.count}), **log_digests(s.log)}
            for s in self.snapshots
        ]
        return [log_digests(self.log), *clusters]

    def __call__(self, requests: Requests, rows: NDArray[np.int64], length: int) -> Events:
        """See ``Source``; ``count`` carries the sizes."""
        of = requests[rows]
        # −1 where no snapshot existed yet.
        which = np.searchsorted(self.times, of.time, side="right") - 1
        made = np.where(which >= 0, self.times[which], -np.inf)
        end = history_end(self.log, of)
        since = kernels.search(self.log.time, self.log.offsets, of.user, made)
        recent = cut(self.log, np.maximum(since, end - length), end)
        recent = replace(recent, count=recent.mask.float())
        return _behind(recent, self._clusters(of.user, which, length), length)

    def _clusters(
        self, user: NDArray[np.int32], which: NDArray[np.int64], length: int
    ) -> list[Events]:
        """The clusters of every snapshot in use: rows of other snapshots' requests are empty."""
        parts = []
        for i in np.unique(which[which >= 0]):
            snapshot = self.snapshots[i]
            low = snapshot.log.offsets[user]
            high = np.where(which == i, snapshot.log.offsets[user + 1], low)
            low = np.maximum(low, high - length)
            size = np.empty((len(user), max(int((high - low).max(initial=0)), 1)), np.float32)
            kernels.copy_reversed(snapshot.count, low, high, size)
            parts.append(replace(cut(snapshot.log, low, high), count=torch.from_numpy(size)))
        return parts


class Logged:
    """Events as a server wrote them down when it answered, one row per request.

    What was looked up then is not looked up again, so training sees what serving saw.

    Args:
        events: (R, L), in the order of the requests.
    """

    def __init__(self, events: Events) -> None:
        self.events = events

    def identity(self) -> dict[str, str]:
        """Digests of the rows."""
        held = {f.name: getattr(self.events, f.name) for f in fields(Events)}
        return {name: digest({name: t}) for name, t in held.items() if t is not None}

    def __call__(self, requests: Requests, rows: NDArray[np.int64], length: int) -> Events:
        """See ``Source``.

        Raises:
            SchemaError: other requests than those that were logged; an event at or after its
                request.
        """
        if len(requests) != len(self.events.item):
            raise SchemaError(
                f"{len(self.events.item)} rows were logged for {len(requests)} requests; one each"
            )
        events = self.events[torch.from_numpy(np.asarray(rows))]
        longest = max(int(events.lengths.max()), 1)
        return events[:, : min(length, longest)].validate(torch.from_numpy(requests.time[rows]))


def _behind(first: Events, parts: Sequence[Events], length: int) -> Events:
    """Every row's events of ``first``, then those of each part, padding last, at most ``length``."""
    columns = {}
    for field in fields(Events):
        columns[field.name] = torch.cat([getattr(e, field.name) for e in (first, *parts)], dim=1)
    together = Events(**columns)
    longest = max(int(together.lengths.max()), 1)
    return together.select(together.mask, min(length, longest))
