"""Complete Journey's requests: one per household, store and week, and what was promoted then."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..requests import Requests
from ..schema import FIRST_ID
from .journey_tables import PRODUCT_BITS, WEEK_BITS, Promotions, Purchases, key_of

TRAIN_WEEKS = (27, 43)
TEST_WEEKS = (44, 53)
# So many stores are surfaces of their own; the rest share one.
N_STORES = 31


def surfaces_of(bought: Purchases, stores: NDArray) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """(stores,) surface of each store, and the surfaces' names.

    The stores with the most purchases before training starts have one each.
    """
    early = np.bincount(bought.store[bought.week < TRAIN_WEEKS[0]], minlength=len(stores))
    largest = np.argsort(-early, kind="stable")[:N_STORES]
    surface = np.full(len(stores), len(largest), np.uint8)
    surface[largest] = np.arange(len(largest))
    return surface, (*(f"store {stores[i]}" for i in largest), "other store")


def visits_of(
    bought: Purchases,
    promoted: NDArray,
    promotions: Promotions,
    surface: NDArray,
    candidates: int,
    positives: int,
    seed: int,
) -> Requests:
    """One request per household, store and week from the first training week on."""
    late = bought.week >= TRAIN_WEEKS[0]
    visit = np.stack([bought.user, bought.store, bought.week])[:, late]
    number = (visit[0].astype(np.int64) << 32) | (visit[1] << WEEK_BITS) | visit[2]
    _, first, of = np.unique(number, return_index=True, return_inverse=True)
    # The first row of a visit is its earliest.
    user, store, week = visit[:, first]
    time = bought.time[late][first]

    low = np.searchsorted(promotions.key, key_of(store, week, 0))
    high = np.searchsorted(promotions.key, key_of(store, week + 1, 0))
    hit = promoted[late]
    pair = np.unique(np.stack([of[hit], bought.product[late][hit]]), axis=1)
    at = np.searchsorted(promotions.key, key_of(store[pair[0]], week[pair[0]], pair[1]))
    bounds = np.searchsorted(pair[0], np.arange(len(user) + 1))
    n_positive = np.diff(bounds)
    enough = np.flatnonzero(high - low - n_positive >= candidates)
    enough = enough[np.lexsort((user[enough], time[enough]))]

    rng = np.random.default_rng([seed, 27])
    shown = (low[enough], high[enough], bounds[enough], bounds[enough + 1])
    rows, label = _draw(rng, *shown, at, candidates, positives)
    pool = (high - low)[enough]
    n = n_positive[enough]
    kept = label.sum(1)
    positive_weight = np.where(kept > 0, n / np.maximum(kept, 1), 1.0)
    negative_weight = (pool - n) / (candidates - kept)
    product = promotions.key[rows] & (2**PRODUCT_BITS - 1)
    return Requests(
        user=user[enough].astype(np.int32),
        time=time[enough],
        surface=surface[store[enough]],
        position=np.zeros(len(enough), np.int32),
        items=(product + FIRST_ID).astype(np.int32),
        labels=label[:, :, None],
        extra={
            "week": week[enough].astype(np.uint8),
            "pool": pool.astype(np.int32),
            "bought": n.astype(np.int32),
            "weight": np.where(label, positive_weight[:, None], negative_weight[:, None]),
            "display": promotions.display[rows],
            "mailer": promotions.mailer[rows],
        },
    )


def kept_ratio(requests: Requests) -> float:
    """Share of negatives kept over share of positives kept."""
    bought = requests.labels[:, :, 0] == 1
    weight = requests.extra["weight"]
    return float(weight[bought].mean() / weight[~bought].mean())


@njit(cache=True)
def _draw(rng, low, high, first, last, at, n_candidates, n_positives):
    """Rows of promotions to show, (R, C), in random order, and whether they were bought.

    Args:
        rng: dice.
        low: (R,) first promotion of each visit.
        high: (R,) the one past its last.
        first: (R,) in ``at``, the first of its promotions that were bought.
        last: (R,) the one past the last of these.
        at: rows of promotions that were bought.
        n_candidates: C.
        n_positives: of these, at most so many bought.
    """
    n = len(low)
    rows = np.empty((n, n_candidates), np.int64)
    label = np.zeros((n, n_candidates), np.uint8)
    for r in range(n):
        bought = at[first[r] : last[r]].copy()
        k = min(len(bought), n_positives)
        # What was bought: the first k of a random order.
        for i in range(k):
            j = rng.integers(i, len(bought))
            bought[i], bought[j] = bought[j], bought[i]
            rows[r, i] = bought[i]
            label[r, i] = 1
        i = k
        while i < n_candidates:
            x = rng.integers(low[r], high[r])
            taken = False
            for j in range(len(bought)):
                taken |= bought[j] == x
            for j in range(k, i):
                taken |= rows[r, j] == x
            if not taken:
                rows[r, i] = x
                i += 1
        # Shuffled, so that a candidate's place says nothing.
        for i in range(n_candidates - 1):
            j = rng.integers(i, n_candidates)
            rows[r, i], rows[r, j] = rows[r, j], rows[r, i]
            label[r, i], label[r, j] = label[r, j], label[r, i]
    return rows, label
