"""Lives drawn user by user, and put together as a log and requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..event_log import EventLog
from ..requests import Requests
from ..schema import FIRST_ID, SECONDS_PER_DAY
from . import kernels
from .catalogue import Catalogue
from .config import ACTIONS, MIN_HISTORY, WorldConfig
from .records import Life, Slate, empty_life, empty_slate, model_of, moves_of

# Every random part of a user has a stream of its own, (seed, stream, user).
DICE_OF_LOG = 1
DICE_OF_HIDDEN = 2
DICE_OF_REQUESTS = 3


class Drawn(NamedTuple):
    """What is drawn of all users.

    Attributes:
        log: the event log.
        train: requests before ``test_from``.
        test: requests from then on.
        truth: by name, hidden states and filter quantities of every event.
    """

    log: EventLog
    train: Requests
    test: Requests
    truth: Mapping[str, NDArray]


class _User(NamedTuple):
    life: Life
    slate: Slate
    at: NDArray[np.int64]
    n_train: int


def draw(
    config: WorldConfig,
    catalogue: Catalogue,
    pi: NDArray[np.float64],
    step: NDArray[np.float64],
    seed: int,
) -> Drawn:
    """All lives and requests of a world.

    Args:
        config: the world's parameters.
        catalogue: what can be shown.
        pi: (4,) stationary law of the hidden chain.
        step: (ticks, 4, 4) its transitions.
        seed: user u's life depends on (seed, u) only.
    """
    model = model_of(config, catalogue, pi, step)
    moves = moves_of(config, catalogue)
    n_ticks = (config.days + 1) * kernels.TICKS_PER_DAY + 1
    users = []
    for user in range(config.n_users):
        of_log = np.random.default_rng([seed, DICE_OF_LOG, user])
        of_hidden = np.random.default_rng([seed, DICE_OF_HIDDEN, user])
        of_requests = np.random.default_rng([seed, DICE_OF_REQUESTS, user])
        path = kernels.hidden_paths(of_hidden, config.n_topics, n_ticks, pi, step[1])
        size, start = sessions(config, of_log)
        life = empty_life(int(size.sum()))
        given = (of_log, of_requests, size, start, *path, model, moves, life)
        kernels.live(*given, np.empty(0, np.int64), empty_slate(0, 1))
        at, n_train = _positions(config, life.time, of_requests)
        slate = empty_slate(len(at), config.C)
        if len(at):
            # The same life once more, to answer requests with what the filter knew on the way.
            kernels.live(*given, at, slate)
        users.append(_User(life, slate, at, n_train))
    log, truth = _log(users, catalogue)
    return Drawn(log, _requests(users, is_test=False), _requests(users, is_test=True), truth)


def sessions(config: WorldConfig, rng) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sizes and planned starts (days, rising) of one user's sessions."""
    c = config
    n = int(np.clip(rng.lognormal(np.log(c.len_median), c.len_sigma), c.len_min, c.len_max))
    mean = float(np.clip(rng.lognormal(np.log(c.mean_session), 0.4), 6, 50))
    # n sessions are more than enough for n events.
    size = rng.geometric(1 / mean, size=n)
    size = size[: int(np.searchsorted(np.cumsum(size), n)) + 1].astype(np.int64)
    size[-1] -= size.sum() - n
    begin = []
    end = []
    t = 0.0
    while t < c.days:
        stop = min(t + rng.exponential(90), c.days)
        begin.append(t)
        end.append(stop)
        t = stop + rng.exponential(12) + (rng.exponential(60) if rng.random() < 0.15 else 0.0)
    a = np.array(begin)
    b = np.array(end)
    spell = rng.choice(len(a), size=len(size), p=(b - a) / (b - a).sum())
    day = np.floor(a[spell] + rng.random(len(size)) * (b - a)[spell])
    peak = rng.choice(4, size=len(size), p=(0.15, 0.20, 0.20, 0.45))
    hour = np.array((8, 12.5, 18, 21.5))[peak] + 1.6 * rng.normal(size=len(size))
    start = np.sort(day + np.mod(hour, 24) / 24)
    for s in range(1, len(start)):
        start[s] = max(start[s], start[s - 1] + 40 * size[s - 1] / SECONDS_PER_DAY)
    return size, np.minimum(start, c.days - 1e-6)


def _positions(config: WorldConfig, days: NDArray, rng) -> tuple[NDArray, int]:
    """Where requests stand: positions (ascending), and how many of them are for training."""
    c = config
    index = np.arange(len(days))
    old = index >= MIN_HISTORY
    train = index[old & (days >= c.train_from) & (days < c.test_from)]
    test = index[old & (days >= c.test_from) & (days < c.days)]
    a = np.sort(rng.choice(train, min(c.R_train, len(train)), replace=False))
    b = np.sort(rng.choice(test, min(c.R_test, len(test)), replace=False))
    return np.r_[a, b].astype(np.int64), len(a)


def _log(users: list[_User], catalogue: Catalogue) -> tuple[EventLog, dict[str, NDArray]]:
    def all_of(name: str) -> NDArray:
        return np.concatenate([getattr(u.life, name) for u in users])

    bits = sum(all_of(name).astype(np.uint8) << b for b, name in enumerate(ACTIONS))
    item = all_of("item")
    day = all_of("time")
    sizes = [len(u.life.time) for u in users]
    log = EventLog(
        user=np.repeat(np.arange(len(users), dtype=np.int32), sizes),
        item=(item + FIRST_ID).astype(np.int32),
        time=day * SECONDS_PER_DAY,
        action=bits.astype(np.uint8),
        surface=all_of("surface").astype(np.uint8),
        watch=(np.exp(all_of("log_watch")) * catalogue.duration[item]).astype(np.float32),
        duration=catalogue.duration[item].astype(np.float32),
        n_users=len(users),
    )
    names = ("tick", "position", "source", "log_watch", "x", "state", "previous", "p")
    return log, {"day": day} | {name: all_of(name) for name in names}


def _requests(users: list[_User], is_test: bool) -> Requests:
    rows = [slice(u.n_train, None) if is_test else slice(0, u.n_train) for u in users]

    def of_slate(name: str) -> NDArray:
        parts = [getattr(u.slate, name)[of] for u, of in zip(users, rows, strict=True)]
        return np.concatenate(parts)

    def of_event(name: str) -> NDArray:
        parts = [getattr(u.life, name)[u.at[of]] for u, of in zip(users, rows, strict=True)]
        return np.concatenate(parts)

    index_in_life = [u.at[of] for u, of in zip(users, rows, strict=True)]
    sizes = [len(at) for at in index_in_life]
    return Requests(
        user=np.repeat(np.arange(len(users), dtype=np.int32), sizes),
        time=of_event("time") * SECONDS_PER_DAY,
        surface=of_event("surface").astype(np.uint8),
        position=of_event("position").astype(np.int32),
        items=(of_slate("item") + FIRST_ID).astype(np.int32),
        labels=of_slate("label"),
        truth=of_slate("bayes"),
        extra={
            "p_none": of_slate("none"),
            "p_true": of_slate("true"),
            "source": of_slate("source"),
            "T": of_slate("transition"),
            "Phi": of_slate("fatigue"),
            "x0": of_slate("x0"),
            "last": of_slate("last"),
            "index_in_life": np.concatenate(index_in_life),
        },
    )
