"""The event log: every event once, sorted by user and time.

A request's history is then one slice that ends before the request's time: found by binary search,
copied newest first, never stored.

    user 0 ────●──●────────●───●──┆──●──      ┆ request: events before it, at most L of them
                  └── history ──┘ ┆ future
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray

from . import columns as checks
from . import files, kernels
from .columns import COLUMNS
from .schema import Events, SchemaError


@dataclass(frozen=True, eq=False)
class EventLog:
    """All events of all users, sorted by user and then by time (oldest first).

    The constructor takes the arrays as they are; ``build`` takes columns in any order.

    Attributes:
        user: (E,) int32, from 0.
        item: (E,) int32, reserved ids 0 and 1.
        time: (E,) float64 s.
        action: (E,) bit set, uint8 for up to eight actions and int64 for more, at most 60.
        surface: (E,) uint8.
        watch: (E,) float32 s.
        duration: (E,) float32 s.
        n_users: number of users, also of those with no event.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.float64]
    action: NDArray[np.uint8 | np.int64]
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
        given = {
            "user": user,
            "item": item,
            "time": time,
            "action": action,
            "surface": surface,
            "watch": watch,
            "duration": duration,
        }
        n = len(np.atleast_1d(np.asarray(user)))
        col = {}
        for name, values in given.items():
            col[name] = checks.cast(name, np.zeros(n, COLUMNS[name]) if values is None else values)
        checks.check_lengths(col)
        if n_users is None:
            n_users = int(col["user"].max(initial=-1)) + 1
        checks.check_values(col, n_users)
        if not checks.strictly_ordered(col["user"], col["time"]):
            order = kernels.order(col["user"], col["time"], col["item"], n_users)
            # One column at a time, so that never two copies of the log exist.
            for name in col:
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
        """Bytes of all columns; 26 an event, with more than eight actions 33."""
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

    def where(self, keep: NDArray[np.bool_]) -> EventLog:
        """The events that count, of the same users. O(E).

        Args:
            keep: (E,) bool.
        """
        return replace(self, **{name: getattr(self, name)[keep] for name in COLUMNS})

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
        for name in COLUMNS:
            right = checks.types_of(name)
            if not isinstance(col[name], np.ndarray) or col[name].dtype not in right:
                was = getattr(col[name], "dtype", type(col[name]).__name__)
                raise SchemaError(f"log.{name} is {was}; it must be {' or '.join(map(str, right))}")
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
        for name in COLUMNS:
            want = [pa.from_numpy_dtype(dtype) for dtype in checks.types_of(name)]
            got = table.schema.field(name).type
            if got not in want:
                right = " or ".join(map(str, want))
                raise SchemaError(f"{path}: column {name!r} is {got}; it must be {right}")
            if table[name].null_count:
                raise SchemaError(f"{path}: column {name!r} has {table[name].null_count} nulls")
            col[name] = np.array(table[name].to_numpy())
            # Dropped at once, so that never two copies of the log exist.
            table = table.drop_columns([name])
        return cls(**col, n_users=int(head["n_users"])).validate(n_items, now)


def cut(log: EventLog, low: NDArray[np.int64], high: NDArray[np.int64]) -> Events:
    """Rows of the log as one padded batch, newest first.

    Args:
        log: all events.
        low: (B,) first row of every history.
        high: (B,) the row past its last one.

    Returns:
        (B, L) events; L is the longest history, at least 1.
    """
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
        kernels.copy_reversed(getattr(log, name), low, high, getattr(out, name).numpy())
    kernels.fill_mask(high - low, out.mask.numpy())
    return out
