"""Any git clone as a lifelong history: what every author touched, commit by commit, for years.

User = author, under a pseudonym (rank by number of events: 0 is the most active); no name, no
address and no path leaves this module. Item = file, or folder at a depth. A commit is a basket:
its events share one time, so none of them is history of another.

There are no impressions here. A request is a commit; its positives are touched items, its negatives
are drawn uniformly from the items that existed at that moment. Nobody declined those.
"""

from __future__ import annotations

import re
import time as clock
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .. import kernels
from ..dataset import Dataset, fingerprint
from ..event_log import EventLog
from ..requests import Requests
from ..schema import FIRST_ID, DataSpec, ItemTable
from .clone import Clone, GitError, opened

ACTIONS = ("add", "modify", "delete")
ADD = 1
MODIFY = 2
DELETE = 4
MAX_ITEMS = 30  # a commit that touches more is a mass change, not an interest
TEST_SHARE = 0.15
_BIT = {"A": ADD, "M": MODIFY, "T": MODIFY, "D": DELETE}
_BOT = re.compile(
    r"\[bot\]|\bbot\b|bot@|dependabot|renovate|greenkeeper|github-actions|buildbot|jenkins|autoroll",
    re.IGNORECASE,
)


def git_history(
    path: str | Path,
    *,
    depth: int | None = None,
    min_events: int = 500,
    candidates: int = 10,
    positives: int = 3,
    seed: int = 0,
    now: float | None = None,
    progress: bool = False,
) -> Dataset:
    """The history of a local clone's current branch as events and requests.

    Left out: merges, bots, commits of more than 30 items, commits whose clock is before 1970 or in
    the future, authors with fewer than ``min_events`` events. Renames are a delete and an add. What
    is left out still counts for "existed by then". ``spec.notes`` says how much it was.

    Requests are commits of the kept authors that touch an item which existed before. The first
    85 % of time are training, the rest test. Medians of events per author are tiny, so what is
    seen here holds for the most active authors only.

    Settings of git, the clone's or the user's, are not read: they change no number, and nothing
    they name is run. Authors are united by the ``.mailmap`` of the newest commit.

    Args:
        path: root of the clone (or a bare one). Nothing is fetched.
        depth: None makes files the items; d makes folders the items, cut after d levels.
        min_events: fewest events of an author to be a user.
        candidates: C, per request.
        positives: of these, at most so many touched.
        seed: of the draws.
        now: seconds since 1970; later commits are left out. None: the clock.
        progress: show a bar.

    Raises:
        GitError: no such path, not a clone, empty, shallow, too few events; git is not installed.
        ValueError: an argument out of range.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 1, or None for files")
    if not 1 <= positives < candidates:
        raise ValueError(
            f"positives is {positives} and candidates {candidates}; "
            f"1 <= positives < candidates is needed"
        )
    with opened(path) as clone:
        touched = _read(clone, depth, clock.time() if now is None else now, progress)
    user, n_users, notes = _users(touched, min_events)
    log = _log(touched, user, n_users)
    requests = _requests(log, touched, depth is None, candidates, positives, seed)
    train, test = _split(requests, candidates)
    notes |= {
        "exposure": "negatives are drawn from items that existed at the commit; nobody saw them",
        "item": "file" if depth is None else f"folder, {depth} levels",
        "min_events": min_events,
        "test_from": float(test.time.min()),
    }
    spec = _spec(touched, train, notes)
    return Dataset(log, train, test, spec).validate()


def _log(touched: _Touched, user: NDArray[np.int32], n_users: int) -> EventLog:
    kept = user >= 0
    return EventLog.build(
        user=user[kept],
        item=touched.item[kept] + FIRST_ID,
        time=touched.time[kept],
        action=touched.action[kept],
        n_users=n_users,
        merge=True,
    )


def _split(requests: Requests, candidates: int) -> tuple[Requests, Requests]:
    """Training and test requests, by time."""
    if len(requests) < 2:
        raise GitError(
            f"the history gives {len(requests)} requests: too few commits touch items that existed "
            f"before, or fewer than {candidates} items exist; use a larger clone or "
            f"fewer candidates"
        )
    at = float(np.sort(requests.time)[int((1 - TEST_SHARE) * len(requests))])
    train = requests[requests.time < at]
    test = requests[requests.time >= at]
    if len(train) == 0:
        raise GitError("all commits of the history share one time; there is nothing to train on")
    return train, test


def _spec(touched: _Touched, train: Requests, notes: dict[str, Any]) -> DataSpec:
    return DataSpec(
        name="git",
        items=_item_table(touched),
        actions=ACTIONS,
        surfaces=("commit",),
        tasks=("touched",),
        base_rates=(float(train.labels.mean()),),
        key_field="folder",
        notes=notes,
    )


# --- reading ----------------------------------------------------------------------------------


class _Touched(NamedTuple):
    """Distinct (commit, item) pairs of all commits but merges, and their items' folders."""

    commit: NDArray  # (E,) from 0
    author: NDArray  # (E,) from 0 in order of appearance
    bot: NDArray  # (E,) bool
    large: NDArray  # (E,) bool, the commit has more than MAX_ITEMS items
    item: NDArray  # (E,) from 0 in order of appearance
    time: NDArray  # (E,) seconds
    action: NDArray  # (E,) uint8
    folder: NDArray  # (items,) parent, from 0 in order of appearance
    top: NDArray  # (items,) top-level folder
    merges: int
    odd_clock: int  # commits


def _commits(clone: Clone, progress: bool) -> Iterator[tuple[float, str, list[tuple[str, str]]]]:
    """(author's time, identity, [(status letter, path)]) of every commit but merges."""
    n = int(clone.ask("rev-list", "--no-merges", "--count", "HEAD") or 0)
    what = ("--no-merges", "--no-renames", "--no-ext-diff", "--name-status", "-z")
    process = clone.start("log", *what, "--format=%x01%at%x00%aN%x00%aE", "HEAD")
    assert process.stdout is not None
    tokens = _tokens(process.stdout)
    commit: tuple[float, str, list[tuple[str, str]]] | None = None
    try:
        with tqdm(total=n, desc="commits", unit="", disable=not progress, leave=False) as bar:
            for token in tokens:
                if token.startswith("\x01"):
                    if commit is not None:
                        yield commit
                    stamp = token[1:]
                    name = next(tokens)
                    mail = next(tokens)
                    commit = (float(stamp or "nan"), f"{name}\n{mail}", [])
                    bar.update()
                elif status := token.strip("\n"):
                    if commit is None:
                        raise GitError(f"git answers for {clone.path} what is no list of commits")
                    commit[2].append((status[0], next(tokens)))
            if commit is not None:
                yield commit
    finally:
        process.stdout.close()
        failed = process.wait()
    if failed:
        raise GitError(
            f"git could not read the whole history of {clone.path} (exit code {failed}); "
            f"'git fsck' shows what is missing"
        )


def _tokens(stream) -> Iterator[str]:
    """NUL-separated tokens; bytes that are no UTF-8 survive."""
    rest = b""
    while chunk := stream.read(1 << 20):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from (t.decode("utf-8", "surrogateescape") for t in whole)
    if rest.strip():
        yield rest.decode("utf-8", "surrogateescape")


def _item_of(path: str, depth: int | None) -> str:
    if depth is None:
        return path
    return "/".join(path.split("/")[:-1][:depth]) or "."


def _read(clone: Clone, depth: int | None, now: float, progress: bool) -> _Touched:
    """One row per commit and item. Names and paths live in this function's dictionaries only."""
    authors: dict[str, int] = {}
    items: dict[str, int] = {}
    bots: set[int] = set()
    rows = [array(kind) for kind in "iiidB"]  # commit, author, item, time, action
    odd_clock = 0
    for commit, (time, identity, changes) in enumerate(_commits(clone, progress)):
        if not 0 < time <= now:
            odd_clock += 1
            continue
        author = authors.setdefault(identity.split("\n")[1].lower() or identity, len(authors))
        if _BOT.search(identity):
            bots.add(author)
        for status, name in changes:
            item = items.setdefault(_item_of(name, depth), len(items))
            new = (commit, author, item, time, _BIT.get(status, MODIFY))
            for column, value in zip(rows, new, strict=True):
                column.append(value)
    if not rows[0]:
        raise GitError(
            f"{clone.path} has no commit that changes a file before now; nothing to read"
        )
    commit, author, item, time, action = (np.array(column) for column in rows)
    order = np.lexsort((item, commit))
    commit, author, item, time, action = (c[order] for c in (commit, author, item, time, action))
    first = np.flatnonzero(np.append(True, (np.diff(commit) != 0) | (np.diff(item) != 0)))
    size = np.bincount(commit[first])
    folders: dict[str, int] = {}
    tops: dict[str, int] = {}
    parent = [name.rpartition("/")[0] or "." for name in items]
    return _Touched(
        commit=commit[first],
        author=author[first],
        bot=np.isin(author[first], list(bots)),
        large=size[commit[first]] > MAX_ITEMS,
        item=item[first],
        time=time[first],
        action=np.bitwise_or.reduceat(action, first).astype(np.uint8),
        folder=np.array([folders.setdefault(p, len(folders)) for p in parent]),
        top=np.array([tops.setdefault(p.split("/")[0], len(tops)) for p in parent]),
        merges=int(clone.ask("rev-list", "--merges", "--count", "HEAD") or 0),
        odd_clock=odd_clock,
    )


def _users(t: _Touched, min_events: int) -> tuple[NDArray[np.int32], int, dict[str, int]]:
    """(E,) user of each row or −1, number of users, and what was left out."""
    usable = ~t.bot & ~t.large
    events = np.bincount(t.author[usable], minlength=int(t.author.max()) + 1)
    ranked = np.argsort(-events, kind="stable")
    n_users = int((events >= max(min_events, 1)).sum())
    if n_users == 0:
        raise GitError(
            f"no author has {min_events} events; the most active has {events.max()}: "
            f"pass a smaller min_events (--min-events)"
        )
    rank = np.full(len(events), -1, np.int32)
    rank[ranked[:n_users]] = np.arange(n_users)

    def commits(rows: NDArray) -> int:
        return len(np.unique(t.commit[rows]))

    notes = {
        "commits": commits(np.ones(len(t.commit), bool)),
        "left_out_merges": t.merges,
        "left_out_bots": commits(t.bot),
        "left_out_large": commits(t.large & ~t.bot),
        "left_out_odd_clock": t.odd_clock,
        "authors": len(np.unique(t.author[usable])),
        "median_events_per_author": int(np.median(events[events > 0])),
    }
    return np.where(usable, rank[t.author], -1).astype(np.int32), n_users, notes


def _item_table(t: _Touched) -> ItemTable:
    folder, top = (torch.from_numpy(np.r_[0, 1, f + FIRST_ID].astype(np.int64))
                   for f in (t.folder, t.top))  # fmt: skip
    n = len(folder)
    return ItemTable(
        fields={"folder": folder, "top": top},
        sizes={"folder": int(folder.max()) + 1, "top": int(top.max()) + 1},
        content=fingerprint(top.numpy(), folder.numpy()),
        dense=torch.zeros(n, 0),
        duration=torch.zeros(n),
    ).validate()


# --- requests ---------------------------------------------------------------------------------


class _Life(NamedTuple):
    """When items existed: rows sorted by item and time, and items in order of birth."""

    time: NDArray
    action: NDArray
    offsets: NDArray
    born: NDArray  # (items,) sorted times of birth
    by_birth: NDArray  # (items,)
    files: bool

    def exists(self, item: NDArray, at: NDArray) -> NDArray[np.bool_]:
        """Whether each item was there just before ``at``; folders are not deleted."""
        last = kernels.search(self.time, self.offsets, item.astype(np.int32), at) - 1
        known = last >= self.offsets[item]
        return known & ~(self.files & (self.action[last] == DELETE))


def _life(t: _Touched, files: bool) -> _Life:
    order = np.lexsort((t.time, t.item))
    item = t.item[order]
    time = t.time[order]
    offsets = np.searchsorted(item, np.arange(len(t.folder) + 1))
    birth = time[offsets[:-1]]
    by_birth = np.argsort(birth, kind="stable")
    return _Life(time, t.action[order], offsets, birth[by_birth], by_birth, files)


def _requests(
    log: EventLog, t: _Touched, files: bool, candidates: int, positives: int, seed: int
) -> Requests:
    """One request per user and moment at which something that existed was touched."""
    rng = np.random.default_rng([seed, 85])
    life = _life(t, files)
    new = np.append(True, (np.diff(log.user) != 0) | (np.diff(log.time) != 0))
    basket = np.cumsum(new) - 1
    user = log.user[new]
    time = log.time[new]
    item = log.item.astype(np.int64) - FIRST_ID
    touched = np.sort(basket * len(life.by_birth) + item)
    there = np.flatnonzero(life.exists(item, log.time))
    there = there[np.lexsort((rng.random(len(there)), basket[there]))]  # random within a basket
    turn = np.arange(len(there)) - np.searchsorted(basket[there], basket[there])
    n_there = np.bincount(basket[there], minlength=len(user))
    is_kept = turn < positives
    there = there[is_kept]
    turn = turn[is_kept]

    chosen = np.full((len(user), candidates), -1, np.int64)
    chosen[basket[there], turn] = item[there]
    labels = chosen >= 0
    existed = np.searchsorted(life.born, time)
    for _ in range(50):
        r, c = np.nonzero((chosen < 0) & (n_there > 0)[:, None] & (existed >= candidates)[:, None])
        if len(r) == 0:
            break
        draw = life.by_birth[(rng.random(len(r)) * existed[r]).astype(np.int64)]
        fine = life.exists(draw, time[r]) & ~np.isin(r * len(life.by_birth) + draw, touched)
        fine &= ~(chosen[r] == draw[:, None]).any(1)
        _, once = np.unique(r * len(life.by_birth) + draw, return_index=True)
        fine &= np.isin(np.arange(len(r)), once)
        chosen[r[fine], c[fine]] = draw[fine]
    full = np.flatnonzero((chosen >= 0).all(1))
    full = full[np.lexsort((user[full], time[full]))]
    mix = np.argsort(rng.random((len(full), candidates)), axis=1)  # so that the place says nothing
    return Requests(
        user=user[full],
        time=time[full],
        surface=np.zeros(len(full), np.uint8),
        position=np.zeros(len(full), np.int32),
        items=(np.take_along_axis(chosen[full], mix, 1) + FIRST_ID).astype(np.int32),
        labels=np.take_along_axis(labels[full], mix, 1).astype(np.uint8)[:, :, None],
        extra={
            "existed": existed[full].astype(np.int32),
            "touched": n_there[full].astype(np.int32),
        },
    )
