"""Compiled inner loops over the log: sort, search in time, copy newest first; and seeded dice."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def copy_reversed(column, low, high, out):
    """Rows low:high of a column into the (B, L) ``out``, last row first, zeros behind."""
    for b in range(len(low)):
        n = high[b] - low[b]
        last = high[b] - 1
        for i in range(n):
            out[b, i] = column[last - i]
        out[b, n:] = 0


@njit(cache=True, nogil=True)
def fill_mask(size, out):
    """True in the first ``size[b]`` places of row b of the (B, L) ``out``, False behind."""
    for b in range(len(size)):
        out[b, : size[b]] = True
        out[b, size[b] :] = False


@njit(cache=True, nogil=True)
def _before(time, low, high, now):
    """First row of low:high whose time is not before ``now``."""
    while low < high:
        middle = (low + high) // 2
        if time[middle] < now:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def search(time, offsets, user, now):
    """(R,) for each user the first of its rows whose time is not before ``now``."""
    out = np.empty(len(user), np.int64)
    for r in range(len(user)):
        out[r] = _before(time, offsets[user[r]], offsets[user[r] + 1], now[r])
    return out


@njit(cache=True, nogil=True)
def order(user, time, item, n_users):
    """Rows by user, then time, then item; what is alike in all three keeps its order.

    A counting sort by user, then each user's times by themselves: no comparison of two users, and
    none at all for a life that is in order already.
    """
    start = np.zeros(n_users + 1, np.int64)
    for u in user:
        start[u + 1] += 1
    start = np.cumsum(start)
    place = start[:-1].copy()
    rows = np.empty(len(user), np.int64)
    for i in range(len(user)):
        rows[place[user[i]]] = i
        place[user[i]] += 1
    for u in range(n_users):
        life = rows[start[u] : start[u + 1]]
        when = time[life]
        rising = True
        for j in range(1, len(life)):
            if when[j] <= when[j - 1]:
                rising = False
                break
        if not rising:
            by_time = np.argsort(when, kind="mergesort")
            life[:] = life[by_time]
            _break_ties(life, when[by_time], item)
    return rows


@njit(cache=True, nogil=True)
def _break_ties(life, when, item):
    """Within each run of equal times, rows by item: an insertion sort, for runs are short."""
    for j in range(1, len(life)):
        row = life[j]
        k = j
        while k > 0 and when[k - 1] == when[j] and item[life[k - 1]] > item[row]:
            life[k] = life[k - 1]
            k -= 1
        life[k] = row


def dice(seed: int, epoch: int, rows: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """(B, n) 64 random-looking bits each: a function of seed, epoch, row and column only.

    Splitmix64's finaliser, chained over the four. A generator would make what a request gets
    depend on the requests before it, and so on batch size, processes and resuming.
    """
    x = np.full((1, 1), 0x9E3779B97F4A7C15, np.uint64)
    for part in (seed, epoch, np.asarray(rows)[:, None], np.arange(n)[None]):
        x = (x ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x


@njit(cache=True, nogil=True)
def others(time, offsets, user, now, own, active, length, dice):
    """For each request another user with events, and the end of that user's history at its time.

    Of the users that the (R, n) ``dice`` name, the one whose history is nearest in length.
    """
    who = np.empty(len(user), np.int32)
    end = np.empty(len(user), np.int64)
    for r in range(len(user)):
        u = user[r]
        size = min(own[r] - offsets[u], length)
        # The user's own place among those with events, if it has any, is left out of the draw.
        self_at = np.searchsorted(active, u)
        known = self_at < len(active) and active[self_at] == u
        best = -1
        for k in range(dice.shape[1]):
            j = np.int64(dice[r, k] % np.uint64(len(active) - known))
            if known and j >= self_at:
                j += 1
            v = active[j]
            e = _before(time, offsets[v], offsets[v + 1], now[r])
            off = abs(min(e - offsets[v], length) - size)
            if best < 0 or off < best:
                best = off
                who[r] = v
                end[r] = e
            if off == 0:
                break
    return who, end
