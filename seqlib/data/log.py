"""Event log and point-in-time request batches.

The log holds every event once, sorted by user and time. A request's history is then one slice
that ends before the request's time: found by binary search, copied newest first, never stored.

    user 0 ────●──●────────●───●──┆──●──      ┆ request: events before it, at most L of them
                  └── history ──┘ ┆ future
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray

from . import _checks as checks
from . import _gather as gather
from . import files
from ._checks import COLUMNS
from .identity import digest
from .schema import PAD, Answers, Events, Items, Request, RequestBatch, SchemaError


@dataclass(frozen=True, eq=False)
class EventLog:
    """All events of all users, sorted by user and then by time (oldest first).

    The constructor takes the arrays as they are; ``build`` takes columns in any order.

    Attributes:
        user: (E,) int32, from 0. item: (E,) int32, reserved ids 0 and 1. time: (E,) float64 s.
        action: (E,) uint8 bit set. surface: (E,) uint8. watch, duration: (E,) float32 s.
        n_users: number of users, also of those with no event.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    action: NDArray[np.uint8]
    surface: NDArray[np.uint8]
    watch: NDArray[np.float32]
    duration: NDArray[np.float32]
    n_users: int

    @classmethod
    def build(
        cls,
        user: ArrayLike,
        item: ArrayLike,
        time: ArrayLike,
        action: ArrayLike | None = None,
        surface: ArrayLike | None = None,
        watch: ArrayLike | None = None,
        duration: ArrayLike | None = None,
        *,
        n_users: int | None = None,
        merge: bool = False,
    ) -> EventLog:
        """A checked log from (E,) columns in any order; missing ones are zero.

        Events of one user at one time are put in order of their item, so the log does not depend on
        the order of the input. O(E log E); arrays that are in order already are not copied.

        Args:
            n_users: number of users; None counts up to the largest id.
            merge: make one event of rows that share user, item and time: bits of ``action``
                united, longest ``watch`` and ``duration``, lowest ``surface``. False: an error.

        Raises:
            SchemaError: as ``validate``, or a column that does not fit its type.
        """
        given = {"user": user, "item": item, "time": time, "action": action}
        given |= {"surface": surface, "watch": watch, "duration": duration}
        n = len(np.atleast_1d(np.asarray(user)))
        col = {
            k: checks.cast(k, np.zeros(n, COLUMNS[k]) if v is None else v) for k, v in given.items()
        }
        checks.check_lengths(col)
        if n_users is None:
            n_users = int(col["user"].max(initial=-1)) + 1
        checks.check_values(col, n_users)
        if not checks.strictly_ordered(col["user"], col["time"]):
            order = gather.order(col["user"], col["time"], col["item"], n_users)
            for name in col:  # one column at a time, so that never two copies of the log exist
                col[name] = col[name][order]
            del order
            if merge:
                checks.merge_ties(col)
        log = cls(**col, n_users=n_users)
        checks.check_order(col)
        return log

    def __len__(self) -> int:
        """E."""
        return len(self.user)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns; 26 an event."""
        return sum(getattr(self, name).nbytes for name in COLUMNS)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(n_users + 1,) int64: user u's events are rows offsets[u]:offsets[u + 1]."""
        bounds = np.arange(self.n_users + 1, dtype=self.user.dtype)
        return np.searchsorted(self.user, bounds).astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n_users,) int64, events of each user."""
        return np.diff(self.offsets)

    def of(self, user: int) -> slice:
        """Rows of one user. Raises IndexError for a user beyond ``n_users``."""
        if not 0 <= user < self.n_users:
            raise IndexError(f"user {user} does not exist; there are {self.n_users}, from 0")
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    def validate(self, n_items: int | None = None, now: float | None = None) -> EventLog:
        """Check everything a model relies on; return self. O(E).

        Args:
            n_items: rows of the item table (``len(spec.items)``); ids must be below it.
            now: seconds; no event may be later.

        Raises:
            SchemaError: naming the column, the first bad row, and what would be right. A user with
                no event is fine; a log with no event is not.
        """
        col = {name: getattr(self, name) for name in COLUMNS}
        for name, dtype in COLUMNS.items():
            if not isinstance(col[name], np.ndarray) or col[name].dtype != dtype:
                was = getattr(col[name], "dtype", type(col[name]).__name__)
                raise SchemaError(f"log.{name} is {was}; it must be {np.dtype(dtype)}")
        checks.check_lengths(col)
        checks.check_values(col, self.n_users, n_items, now)
        checks.check_order(col)
        return self

    def to_parquet(self, path: str | Path, meta: Mapping[str, Any] | None = None) -> None:
        """Write all columns to one Parquet file, whole or not at all.

        Args:
            meta: anything JSON can hold; ``files.read_meta(path)["meta"]`` gives it back.
        """
        table = pa.table({name: getattr(self, name) for name in COLUMNS})
        head = {"n_users": int(self.n_users), "meta": dict(meta or {})}
        files.write_table(path, table, "event log", head)

    @classmethod
    def from_parquet(
        cls, path: str | Path, *, n_items: int | None = None, now: float | None = None
    ) -> EventLog:
        """Read a log that ``to_parquet`` wrote, and validate it (``n_items``, ``now`` as there).

        Raises:
            SchemaError: truncated or damaged file; missing, extra or mistyped columns; whatever
                ``validate`` finds.
        """
        head = files.read_meta(path, "event log")
        table = files.read_table(path)
        checks.check_names(path, table.column_names, COLUMNS)
        col = {}
        for name, dtype in COLUMNS.items():
            want, got = pa.from_numpy_dtype(dtype), table.schema.field(name).type
            if got != want:
                raise SchemaError(f"{path}: column {name!r} is {got}; it must be {want}")
            if table[name].null_count:
                raise SchemaError(f"{path}: column {name!r} has {table[name].null_count} nulls")
            col[name] = np.array(table[name].to_numpy())
            table = table.drop_columns([name])  # so that never two copies of the log exist
        return cls(**col, n_users=int(head["n_users"])).validate(n_items, now)


@dataclass(frozen=True, eq=False)
class Requests:
    """R requests as arrays; histories are cut from an ``EventLog`` when batches are made.

    Attributes:
        user: (R,) int32. time: (R,) float64 s. surface: (R,) uint8. position: (R,) int32.
        items: (R, C) int32. labels: (R, C, T) uint8.
        truth: (R, C, T) float64 exact probabilities, or None.
        extra: name -> array with first axis R (reference probabilities, candidate sources, …).
    """

    user: NDArray[np.int32]
    time: NDArray[np.float64]
    surface: NDArray[np.uint8]
    position: NDArray[np.int32]
    items: NDArray[np.int32]
    labels: NDArray[np.uint8]
    truth: NDArray[np.float64] | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """R."""
        return len(self.user)

    def __getitem__(self, rows: slice | NDArray) -> Requests:
        """The requests at ``rows``: a slice, indices or a mask."""
        if isinstance(rows, int | np.integer):
            raise TypeError(f"requests[{rows}] is one row; write requests[{rows}:{rows + 1}]")
        return self._map(lambda a: a[rows])

    def between(self, t0: float, t1: float) -> Requests:
        """Requests with t0 <= time < t1, in seconds."""
        return self[(self.time >= t0) & (self.time < t1)]

    def _map(self, fn) -> Requests:
        new = {f.name: fn(getattr(self, f.name)) for f in fields(self) if self._is_array(f.name)}
        return replace(self, **new, extra={k: fn(v) for k, v in self.extra.items()})

    def _is_array(self, name: str) -> bool:
        return name != "extra" and getattr(self, name) is not None

    def validate(
        self,
        n_users: int | None = None,
        n_items: int | None = None,
        now: float | None = None,
        log: EventLog | None = None,
    ) -> Requests:
        """Check shapes, types, ids and moments; return self.

        Args:
            n_users: users of the log. n_items: rows of the item table.
            now: seconds; no request may be later.
            log: no request may lie more than a month before its first event, nor later after its
                last one than the log is long (at least a month, at most a year).

        Raises:
            SchemaError: naming the field, what it was and what would be right.
        """
        r = len(self)
        want = {"user": (np.int32, 1), "time": (np.float64, 1), "surface": (np.uint8, 1)}
        want |= {"position": (np.int32, 1), "items": (np.int32, 2), "labels": (np.uint8, 3)}
        if self.truth is not None:
            want["truth"] = (np.float64, 3)
        for name, (dtype, ndim) in want.items():
            a = getattr(self, name)
            if a.dtype != dtype:
                raise SchemaError(f"requests.{name} is {a.dtype}; it must be {np.dtype(dtype)}")
            if a.ndim != ndim or len(a) != r:
                shape = ("(R,)", "(R, C)", "(R, C, T)")[ndim - 1]
                raise SchemaError(
                    f"requests.{name} has shape {a.shape}; it must be {shape} with R = {r}"
                )
        if self.labels.shape[:2] != self.items.shape:
            raise SchemaError(
                f"requests.labels has shape {self.labels.shape}; it must begin with items' "
                f"{self.items.shape}"
            )
        if self.truth is not None and self.truth.shape != self.labels.shape:
            raise SchemaError(
                f"requests.truth has shape {self.truth.shape}; it must equal labels' "
                f"{self.labels.shape}"
            )
        for name, a in self.extra.items():
            if len(a) != r:
                raise SchemaError(f"requests.extra[{name!r}] has {len(a)} rows; it must have {r}")
        checks.check_time("requests.time", self.time, now)
        if log is not None:
            checks.check_clock("requests.time", self.time, log.time)
        checks.no("requests.position is negative; it counts from 0", self.position < 0)
        checks.no("requests.labels has values other than 0 and 1", (self.labels > 1).any((1, 2)))
        if self.truth is not None:
            outside = ~((self.truth >= 0) & (self.truth <= 1)).all((1, 2))
            checks.no("requests.truth is not a probability", outside)
        checks.no("requests.user is negative; users count from 0", self.user < 0)
        if n_users is not None:
            beyond = (
                f"requests.user is {self.user.max(initial=0)}, beyond the log's {n_users} users"
            )
            checks.no(beyond, self.user >= n_users)
        checks.no("requests.items is 0 (padding) or negative", (self.items <= PAD).any(1))
        if n_items is not None:
            largest = self.items.max(initial=0)
            beyond = f"requests.items has id {largest}, beyond the item table's {n_items} rows"
            checks.no(beyond, (self.items >= n_items).any(1))
        return self

    def to_parquet(self, path: str | Path, meta: Mapping[str, Any] | None = None) -> None:
        """Write one row per request, whole or not at all; inner axes become fixed-size lists."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if self._is_array(f.name)}
        arrays |= {f"extra.{k}": v for k, v in self.extra.items()}
        table = pa.table({k: _to_arrow(v) for k, v in arrays.items()})
        shapes = {k: list(v.shape[1:]) for k, v in arrays.items()}
        files.write_table(path, table, "requests", {"shapes": shapes, "meta": dict(meta or {})})

    @classmethod
    def from_parquet(cls, path: str | Path, *, now: float | None = None) -> Requests:
        """Read what ``to_parquet`` wrote, and validate it (``now`` as there). Raises SchemaError."""
        shapes = files.read_meta(path, "requests")["shapes"]
        table = files.read_table(path)
        required = ("user", "time", "surface", "position", "items", "labels")
        names = [k for k in table.column_names if not k.startswith("extra.") and k != "truth"]
        checks.check_names(path, names, required)
        a = {k: _from_arrow(table[k], shapes[k]) for k in table.column_names}
        extra = {k.removeprefix("extra."): a.pop(k) for k in list(a) if k.startswith("extra.")}
        return cls(**a, extra=extra).validate(now=now)


def history_end(log: EventLog, requests: Requests) -> NDArray[np.int64]:
    """(R,) int64: the log's row one past the last event strictly before each request's time.

    The history of request r is ``log[log.offsets[user]:history_end[r]]``. An event *at* the
    request's time is not part of it: a basket must not see itself. O(log E) per request.
    """
    return gather.search(log.time, log.offsets, requests.user, requests.time)


class BatchLoader:
    """Batches of requests with the history each had at its moment.

    Iterating gives ``RequestBatch`` objects, events newest first, padded to the longest history of
    the batch (at least one column). Every random choice is a function of ``seed``, the epoch and
    the request, so that neither batch size nor number of processes nor a resume changes it.

    Args:
        log, requests: events and requests of the same users.
        length: L, the most events of a history; the newest are kept.
        batch_size: requests per batch and process.
        shuffle: new order every epoch.
        seed: of order, drawn candidates and other users.
        candidates: draw so many of each request's C without replacement; None takes all.
        sort_by_length: put requests of similar history length together, so that less is padding:
            the whole set, or with ``shuffle`` within 50 batches, whose order is then shuffled.
        other_user: give each request the history of another random user at the same time, of the
            16 drawn the one nearest in length. A control: what is left is not personal.
        rank, world_size: this process and their number; the shards cover every request once, and
            all have the same number of batches.

    Raises:
        SchemaError: requests that don't fit the log.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        log: EventLog,
        requests: Requests,
        *,
        length: int,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        candidates: int | None = None,
        sort_by_length: bool = False,
        other_user: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(log) == 0:
            raise SchemaError("the log has no events; there is no history to cut")
        checks.check_time("log.time", log.time)
        requests.validate(n_users=log.n_users, log=log)
        for name, value in (("length", length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must not be negative")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; it must be in 0..{world_size - 1} (world_size - 1)")
        n_candidates = requests.items.shape[1]
        if candidates is not None and not 1 <= candidates <= n_candidates:
            raise ValueError(
                f"candidates is {candidates}; requests here have {n_candidates}, so it must be in "
                f"1..{n_candidates}"
            )
        self.log, self.requests = log, requests
        self.rank = rank
        self.config = {
            "requests": len(requests),
            "length": length,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": seed,
            "candidates": candidates,
            "sort_by_length": sort_by_length,
            "other_user": other_user,
            "world_size": world_size,
        }
        self.length, self.batch_size, self.candidates = length, batch_size, candidates
        self._bounds = gather.shard(len(requests), batch_size, rank, world_size)
        self._epoch, self._start, self._next = 0, 0, 0
        self._own: NDArray[np.int64] = history_end(log, requests)
        self._active = np.flatnonzero(log.lengths).astype(np.int32) if other_user else None
        if self._active is not None and len(self._active) < 2:
            raise ValueError(
                f"other_user=True needs two users with events; the log has {len(self._active)}"
            )
        self._spans_of: tuple[int, NDArray, NDArray] | None = None

    def __len__(self) -> int:
        """Batches per epoch of this process."""
        return len(self._bounds) - 1

    def identity(self) -> dict[str, Any]:
        """Settings, and a digest of each column that a batch is made of. O(bytes of all columns).

        Two loaders of one identity give the same batches, or shards of the same ones.
        """
        r = self.requests
        trained_on = ("user", "time", "surface", "position", "items", "labels")
        return {
            **self.config,
            "n_users": self.log.n_users,
            "log_columns": {k: digest({k: getattr(self.log, k)}) for k in COLUMNS},
            "request_columns": {k: digest({k: getattr(r, k)}) for k in trained_on},
        }

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, and begin at its first batch."""
        self._epoch, self._start, self._next = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: epoch and next batch, and the settings these belong to."""
        return {"epoch": self._epoch, "next_batch": self._next, "config": dict(self.config)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken: the batches that follow are the very same.

        Raises:
            ValueError: the state belongs to a loader with other settings; names them.
        """
        there, here = state["config"], self.config
        differs = [k for k in here if there.get(k) != here[k]]
        if differs:
            what = ", ".join(f"{k} ({there.get(k)} there, {here[k]} here)" for k in differs)
            raise ValueError(f"the state is of another loader; it differs in {what}")
        self._epoch = int(state["epoch"])
        self._start = self._next = int(state["next_batch"])

    def __iter__(self) -> Iterator[RequestBatch]:
        start, self._start = self._start, 0
        self._next = start
        plan = self._plan()
        for i in range(start, len(self)):
            batch = self.batch(plan[i])
            self._next = i + 1
            yield batch

    def batch(self, rows: NDArray[np.int64]) -> RequestBatch:
        """The batch of these requests, in this order, as of the current epoch.

        Args:
            rows: (B,) indices into ``requests``.
        """
        r, log = self.requests, self.log
        low, high = self._spans()
        items, labels, truth = r.items[rows], r.labels[rows], r.truth
        truth = None if truth is None else truth[rows]
        if self.candidates is not None:
            dice = gather.dice(self.config["seed"], self._epoch, rows, items.shape[1])
            pick = np.sort(np.argsort(dice, axis=1)[:, : self.candidates], axis=1)
            items = np.take_along_axis(items, pick, 1)
            labels = np.take_along_axis(labels, pick[..., None], 1)
            truth = None if truth is None else np.take_along_axis(truth, pick[..., None], 1)
        request = Request(
            events=_cut(log, low[rows], high[rows]),
            items=Items(torch.from_numpy(items.astype(np.int64))),
            time=torch.from_numpy(r.time[rows]),
            surface=torch.from_numpy(r.surface[rows].astype(np.int64)),
            position=torch.from_numpy(r.position[rows].astype(np.int64)),
            user=torch.from_numpy(r.user[rows].astype(np.int64)),
        )
        answers = Answers(
            labels=torch.from_numpy(labels.astype(np.float32)),
            truth=None if truth is None else torch.from_numpy(truth),
        )
        return RequestBatch(request, answers, torch.from_numpy(np.asarray(rows, dtype=np.int64)))

    def _spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(R,) first row and end of every history in the log, in this epoch."""
        if self._spans_of is None or (
            self._active is not None and self._spans_of[0] != self._epoch
        ):
            r, user, high = self.requests, self.requests.user, self._own
            if self._active is not None:
                dice = gather.dice(self.config["seed"], self._epoch, np.arange(len(r)), 16)
                user, high = gather.others(self.log.time, self.log.offsets, r.user, r.time,
                                           self._own, self._active, self.length, dice)  # fmt: skip
            low = np.maximum(self.log.offsets[user], high - self.length)
            self._spans_of = self._epoch, low, high
        return self._spans_of[1:]

    def _plan(self) -> list[NDArray[np.int64]]:
        """Indices of each batch of this process."""
        n, world = len(self.requests), self.config["world_size"]
        rng = np.random.default_rng([self.config["seed"], self._epoch])
        order = rng.permutation(n) if self.config["shuffle"] else np.arange(n)
        if self.config["sort_by_length"]:
            low, high = self._spans()
            size = (high - low)[order]
            window = 50 * self.batch_size * world if self.config["shuffle"] else max(n, 1)
            order = order[np.lexsort((size, np.arange(n) // window))]
        mine = order[self.rank :: world]
        plan = [mine[a:b] for a, b in zip(self._bounds, self._bounds[1:], strict=False)]
        if self.config["shuffle"] and self.config["sort_by_length"]:
            plan = [plan[i] for i in rng.permutation(len(plan))]
        return plan


def _cut(log: EventLog, low: NDArray[np.int64], high: NDArray[np.int64]) -> Events:
    """Rows low:high of the log as one padded batch, newest first."""
    shape = len(low), max(int((high - low).max(initial=0)), 1)
    out = Events(
        item=torch.empty(shape, dtype=torch.int64),
        action=torch.empty(shape, dtype=torch.int64),
        surface=torch.empty(shape, dtype=torch.int64),
        time=torch.empty(shape, dtype=torch.float64),
        watch=torch.empty(shape, dtype=torch.float32),
        duration=torch.empty(shape, dtype=torch.float32),
        mask=torch.empty(shape, dtype=torch.bool),
    )
    for name in ("item", "action", "surface", "time", "watch", "duration"):
        gather.copy_reversed(getattr(log, name), low, high, getattr(out, name).numpy())
    gather.fill_mask(high - low, out.mask.numpy())
    return out


def _to_arrow(a: NDArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(a).reshape(-1))
    width = int(np.prod(a.shape[1:], dtype=np.int64))
    return flat if a.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _from_arrow(column: pa.ChunkedArray, shape: list[int]) -> NDArray:
    a = column.combine_chunks()
    flat = a.flatten() if shape else a
    return np.array(flat.to_numpy(zero_copy_only=False)).reshape(len(column), *shape)
