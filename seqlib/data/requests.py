"""Requests as arrays, and where in the log the history of each one ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import columns as checks
from . import files, kernels
from .event_log import EventLog
from .schema import PAD, SchemaError

# Type and number of axes of every field; ``truth`` may be missing.
_FIELDS: Mapping[str, tuple[type, int]] = {
    "user": (np.int32, 1),
    "time": (np.float64, 1),
    "surface": (np.uint8, 1),
    "position": (np.int32, 1),
    "items": (np.int32, 2),
    "labels": (np.uint8, 3),
    "truth": (np.float64, 3),
}


@dataclass(frozen=True, eq=False)
class Requests:
    """R requests as arrays; histories are cut from an ``EventLog`` when batches are made.

    Attributes:
        user: (R,) int32.
        time: (R,) float64 s.
        surface: (R,) uint8.
        position: (R,) int32.
        items: (R, C) int32.
        labels: (R, C, T) uint8.
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
            n_users: users of the log.
            n_items: rows of the item table.
            now: seconds; no request may be later.
            log: no request may lie more than a month before its first event, nor later after its
                last one than the log is long (at least a month, at most a year).

        Raises:
            SchemaError: naming the field, what it was and what would be right.
        """
        self._check_shapes()
        checks.check_time("requests.time", self.time, now)
        if log is not None:
            checks.check_clock("requests.time", self.time, log.time)
        self._check_values(n_users, n_items)
        return self

    def _check_shapes(self) -> None:
        r = len(self)
        for name, (dtype, ndim) in _FIELDS.items():
            a = getattr(self, name)
            if a is None:
                continue
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

    def _check_values(self, n_users: int | None, n_items: int | None) -> None:
        checks.no("requests.position is negative; it counts from 0", self.position < 0)
        checks.no("requests.labels has values other than 0 and 1", (self.labels > 1).any((1, 2)))
        if self.truth is not None:
            outside = ~((self.truth >= 0) & (self.truth <= 1)).all((1, 2))
            checks.no("requests.truth is not a probability", outside)
        checks.no("requests.user is negative; users count from 0", self.user < 0)
        if n_users is not None:
            largest = self.user.max(initial=0)
            beyond = f"requests.user is {largest}, beyond the log's {n_users} users"
            checks.no(beyond, self.user >= n_users)
        checks.no("requests.items is 0 (padding) or negative", (self.items <= PAD).any(1))
        if n_items is not None:
            largest = self.items.max(initial=0)
            beyond = f"requests.items has id {largest}, beyond the item table's {n_items} rows"
            checks.no(beyond, (self.items >= n_items).any(1))

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
    return kernels.search(log.time, log.offsets, requests.user, requests.time)


def _to_arrow(a: NDArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(a).reshape(-1))
    width = int(np.prod(a.shape[1:], dtype=np.int64))
    return flat if a.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _from_arrow(column: pa.ChunkedArray, shape: list[int]) -> NDArray:
    a = column.combine_chunks()
    flat = a.flatten() if shape else a
    return np.array(flat.to_numpy(zero_copy_only=False)).reshape(len(column), *shape)
