"""The columns of a log, their types, and what can be wrong with them: one clear sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .schema import LATEST, MOST_ACTIONS, PAD, SECONDS_PER_DAY, SchemaError

COLUMNS: Mapping[str, type] = {
    "user": np.int32,
    "item": np.int32,
    "time": np.float64,
    "action": np.uint8,
    "surface": np.uint8,
    "watch": np.float32,
    "duration": np.float32,
}
# Up to eight actions fit in a byte; a set of more needs bits that only this type has.
WIDE_ACTION: type = np.int64
SCALE = "that looks like milliseconds: divide by 1000"
# A request may come so long after the log's last event: as long as the log is, within these bounds.
_PAUSE = 30 * SECONDS_PER_DAY, 365 * SECONDS_PER_DAY


def cast(name: str, values: ArrayLike) -> NDArray:
    """A column in its type; only a change that loses nothing is made silently."""
    a = np.asarray(values)
    want = np.dtype(_narrowest(name, a))
    if a.ndim != 1:
        raise SchemaError(f"log.{name} has shape {a.shape}; every column must be (E,)")
    if a.size == 0:
        return np.empty(0, want)
    if want.kind in "iu":
        if a.dtype.kind not in "iu":
            raise SchemaError(f"log.{name} is {a.dtype}; it must hold integers ({want})")
        top = np.iinfo(want).max
        if int(a.max()) > top or int(a.min()) < np.iinfo(want).min:
            raise SchemaError(f"log.{name} has {a.min()}..{a.max()}; {want} ends at {top}")
    elif a.dtype.kind not in "iuf":
        raise SchemaError(f"log.{name} is {a.dtype}; it must hold seconds as numbers ({want})")
    return np.ascontiguousarray(a, dtype=want)


def types_of(name: str) -> tuple[np.dtype, ...]:
    """The types that a column may have, the usual one first."""
    usual = np.dtype(COLUMNS[name])
    return (usual, np.dtype(WIDE_ACTION)) if name == "action" else (usual,)


def _narrowest(name: str, a: NDArray) -> type:
    """The type for these values: action sets in a byte each, if all of them fit there."""
    is_wide = name == "action" and a.size and a.dtype.kind in "iu" and int(a.max()) > 255
    return WIDE_ACTION if is_wide else COLUMNS[name]


def no(message: str, bad: NDArray[np.bool_]) -> None:
    """Raise ``message`` with number and place of the bad rows, if there are any."""
    if bad.any():
        rows = np.flatnonzero(bad)
        raise SchemaError(f"{message} ({len(rows)} of {len(bad)} rows, first row {rows[0]})")


def check_names(path: str | Path, got: Iterable[str], want: Iterable[str]) -> None:
    """The file has the columns it must have and no other."""
    missing = [k for k in want if k not in got]
    extra = [k for k in got if k not in want]
    if missing or extra:
        what = [f"{k} {v}" for k, v in (("lacks", missing), ("has unknown", extra)) if v]
        raise SchemaError(f"{path} {' and '.join(what)}; its columns must be {list(want)}")


def check_lengths(col: Mapping[str, NDArray]) -> None:
    """All columns are as long as each other."""
    sizes = {name: a.shape for name, a in col.items()}
    if len(set(sizes.values())) > 1 or len(next(iter(sizes.values()))) != 1:
        raise SchemaError(f"the log's columns have shapes {sizes}; all must be (E,)")


def check_time(name: str, time: NDArray[np.float64], now: float | None = None) -> None:
    """What can be wrong with moments, of events or of requests, by themselves."""
    no(f"{name} has NaN or infinity", ~np.isfinite(time))
    if len(time) == 0:
        return
    late = float(time.max())
    size = float(np.abs(time).max())
    if size > LATEST:
        raise SchemaError(f"{name} reaches {size:.6g}; it must be seconds, and {SCALE}")
    if now is not None and late > now:
        hint = f"; {SCALE}" if late > 10 * now else ""
        no(f"{name} is in the future: {late:.6g} with now = {now:.6g}{hint}", time > now)


def check_clock(name: str, time: NDArray[np.float64], log: NDArray[np.float64]) -> None:
    """Requests are timed by the log's clock: none lies far outside of what the log covers.

    In another unit, or from another epoch, a request sees nothing of its user or everything.
    """
    if len(time) == 0 or len(log) == 0:
        return
    first = float(log.min())
    last = float(log.max())
    before = _PAUSE[0]
    pause = float(np.clip(last - first, *_PAUSE))
    covers = f"the log covers {first:.6g} to {last:.6g} s"
    hint = "both must be seconds since the same moment"
    no(
        f"{name} is {time.min():.6g}, long before the log begins: {covers}; {hint}",
        time < first - before,
    )
    no(
        f"{name} is {time.max():.6g}, long after the log ends: {covers}; {hint}",
        time > last + pause,
    )


def check_reach(name: str, time: NDArray[np.float64], first: float, last: float) -> None:
    """The last of these requests comes when a fiftieth of the way from first to last has passed.

    Times that count from zero lie within the log also in a larger unit, all of them at its very
    beginning: 1/86,400 of the way for days, 1/1,000 for thousands of seconds, 1/60 for minutes.
    """
    if time.max() < first + (last - first) / 50:
        raise SchemaError(
            f"{name} ends at {time.max():.6g}, hardly after the log begins at {first:.6g} s, and "
            f"what follows goes on to {last:.6g}; all must be seconds since the same moment"
        )


def check_values(
    col: Mapping[str, NDArray], n_users: int, n_items: int | None = None, now: float | None = None
) -> None:
    """Everything that can be wrong in one row alone."""
    if len(col["user"]) == 0:
        raise SchemaError("the log has no events; it must have at least one")
    for name in ("time", "watch", "duration"):
        no(f"log.{name} has NaN or infinity", ~np.isfinite(col[name]))
    for name in ("watch", "duration"):
        no(f"log.{name} is negative; it is seconds >= 0", col[name] < 0)
    check_time("log.time", col["time"], now)
    no("log.user is negative; users count from 0", col["user"] < 0)
    largest = int(col["user"].max())
    no(f"log.user is {largest}, beyond n_users = {n_users}", col["user"] >= n_users)
    no("log.item is 0 (padding) or negative; real ids start at 2", col["item"] <= PAD)
    if n_items is not None:
        largest = int(col["item"].max())
        no(f"log.item is {largest}, beyond the item table's {n_items} rows", col["item"] >= n_items)
    no("log.action is negative; it is a set of bits", col["action"] < 0)
    beyond = f"log.action has a bit above {MOST_ACTIONS - 1}; an action set holds at most {MOST_ACTIONS} bits"
    no(beyond, col["action"] >= 2**MOST_ACTIONS)


def strictly_ordered(user: NDArray, time: NDArray) -> bool:
    """Sorted by user and time already, without a tie."""
    later = time[1:] > time[:-1]
    return bool(((user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & later)).all())


def check_order(col: Mapping[str, NDArray]) -> None:
    """Sorted by user and time, and no event twice."""
    user = col["user"]
    item = col["item"]
    time = col["time"]
    same = user[1:] == user[:-1]
    back = (user[1:] < user[:-1]) | (same & (time[1:] < time[:-1]))
    if back.any():
        row = int(np.argmax(back)) + 1
        raise SchemaError(
            f"the log is not sorted by user and time: row {row} (user {user[row]}, time "
            f"{time[row]:.6f}) comes after user {user[row - 1]}, time {time[row - 1]:.6f}; "
            f"EventLog.build sorts"
        )
    tie = same & (time[1:] == time[:-1])
    if not tie.any():
        return
    rows = np.flatnonzero(np.append(tie, False) | np.append(False, tie))
    rows = rows[np.lexsort((item[rows], time[rows], user[rows]))]
    a = rows[:-1]
    b = rows[1:]
    twice = (user[a] == user[b]) & (time[a] == time[b]) & (item[a] == item[b])
    if twice.any():
        i = int(np.argmax(twice))
        raise SchemaError(
            f"the log has duplicate events: rows {min(a[i], b[i])} and {max(a[i], b[i])} are both "
            f"user {user[a[i]]}, item {item[a[i]]}, time {time[a[i]]:.6f} ({twice.sum()} in "
            f"all); several actions on one impression are one event (EventLog.build(merge=True))"
        )


def merge_ties(col: dict[str, NDArray]) -> None:
    """Make one row of each (user, time, item) of sorted columns, in place, column by column."""
    new = np.zeros(len(col["user"]), bool)
    new[0] = True
    for name in ("user", "time", "item"):
        new[1:] |= col[name][1:] != col[name][:-1]
    if new.all():
        return
    first = np.flatnonzero(new)
    unite = {
        "action": np.bitwise_or,
        "surface": np.minimum,
        "watch": np.maximum,
        "duration": np.maximum,
    }
    for name, a in col.items():
        col[name] = unite[name].reduceat(a, first) if name in unite else a[first]
