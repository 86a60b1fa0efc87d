"""Reference lines: the exact filter, and what it can say when it knows less."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..requests import Requests
from ..schema import FIRST_ID
from . import kernels
from .catalogue import newness, swing
from .records import Slate
from .world import World


def bayes_filter(
    world: World,
    ticks,
    x,
    click,
    log_watch,
    like,
    share,
    hide,
    end_tick: int,
    x_end: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact filter of one topic, as plain as it can be written.

    Args:
        world: for the parameters.
        ticks: (n,) integer times of the topic's events, oldest first, 64 to the day.
        x: (n,) known offsets of their click logits.
        click: (n,) 0 or 1.
        log_watch: (n,) logarithm of watch seconds over duration.
        like: (n,) 0 or 1.
        share: (n,) 0 or 1.
        hide: (n,) 0 or 1.
        end_tick: when the candidate is shown.
        x_end: its offset.

    Returns:
        Belief (4,) at ``end_tick`` and the probabilities (3,) of the tasks. The compiled filter
        that made ``Requests.truth`` is tested against this one.

    Built in chapter 00.
    """
    c = world.config
    base = np.array(c.base)
    like_z = np.array(c.like)
    share_z = np.array(c.share)
    hide_z = np.array(c.hide)
    alpha = world.pi.copy()
    now = None
    for n in range(len(ticks)):
        if now is not None:
            # Predict: what the state may have become since the last event.
            alpha = alpha @ world.step[ticks[n] - now]
        p = 1 / (1 + np.exp(-(base + x[n])))
        mean = np.array(c.watch[click[n]])
        sd = c.watch_sd[click[n]]
        # Update: by the likelihood of all that was observed of this event.
        alpha = alpha * np.exp(-0.5 * ((log_watch[n] - mean) / sd) ** 2)
        if click[n]:
            alpha = alpha * p * np.where(like[n], like_z, 1 - like_z)
            alpha = alpha * np.where(share[n], share_z, 1 - share_z)
        else:
            alpha = alpha * (1 - p) * np.where(hide[n], hide_z, 1 - hide_z)
        alpha = alpha / alpha.sum()
        now = ticks[n]
    if now is not None:
        alpha = alpha @ world.step[end_tick - now]
    p = 1 / (1 + np.exp(-(base + x_end)))
    either = 1 - (1 - like_z) * (1 - share_z)
    return alpha, np.array([alpha @ p, alpha @ (p * either), alpha @ ((1 - p) * hide_z)])


def _by_user(world: World, requests: Requests, compute) -> NDArray[np.float64]:
    out = np.empty(requests.labels.shape)
    for user in np.unique(requests.user):
        rows = np.flatnonzero(requests.user == user)
        e = requests.extra
        topic = world.catalogue.item_topic[requests.items[rows] - FIRST_ID]
        slate = Slate(
            item=requests.items[rows].astype(np.int64),
            source=e["source"][rows],
            label=requests.labels[rows],
            bayes=requests.truth[rows],
            none=e["p_none"][rows],
            true=e["p_true"][rows],
            x0=e["x0"][rows],
            transition=e["T"][rows],
            fatigue=e["Phi"][rows],
            last=e["last"][rows],
        )
        out[rows] = compute(e["index_in_life"][rows], topic, slate, world.life(user))
    return out


def p_window(world: World, requests: Requests, length: int) -> NDArray[np.float64]:
    """Filter on the last ``length`` events: (R, C, 3).

    Not an upper bound at that length: what the policy chose to show leaks older feedback, which a
    model may read from exposure frequencies. The leak vanishes as the window grows.
    """
    if length < 1:
        raise ValueError(f"length is {length}; at least one event is needed")
    model = world.model
    return _by_user(
        world, requests, lambda at, k, s, life: kernels.windows(at, k, s, life, model, length)
    )


def p_search(world: World, requests: Requests, hits: int) -> NDArray[np.float64]:
    """Filter on the last ``hits`` events of the candidate's topic, from the whole life: (R, C, 3).

    Transition and fatigue are taken as given, as by a short branch beside the search.
    """
    if hits < 1:
        raise ValueError(f"hits is {hits}; at least one event is needed")
    return _by_user(
        world, requests, lambda at, k, s, life: kernels.searches(at, s, life, world.model, hits)
    )


def p_frozen(
    world: World, requests: Requests, day: float, since: float | None = None
) -> NDArray[np.float64]:
    """Filter that stops following the world on a day, as a model nobody retrains: (R, C, 3).

    Args:
        day: topic appeal and item quality, of candidates and past events, keep the values of that
            day from then on; items released later count as brand new. Equals ``truth`` for requests
            before ``day``, and everywhere in a world that stands still.
        since: appeal is one number per topic for all times, its average over ``since`` to ``day``:
            what training on these days can tell a model that can't see the date.

    Raises:
        ValueError: ``since`` is not before ``day``.
    """
    c = world.config
    d = world.catalogue.drift
    topic_of = world.catalogue.item_topic
    if since is not None and not since < day:
        raise ValueError(f"since is {since}; it must lie before day {day}")
    rate = 2 * np.pi / d.period

    def shift(item, t):
        then = np.minimum(t, day)
        topic = topic_of[item]
        if since is None:
            kept = swing(c, d, topic, then)
        else:
            cosines = np.cos(rate * since + d.phase) - np.cos(rate * day + d.phase)
            kept = (c.appeal_swing * cosines / (rate * (day - since)))[topic]
        return kept - swing(c, d, topic, t) + newness(c, d, item, then) - newness(c, d, item, t)

    def compute(at, topic, slate, life):
        x0 = slate.x0 + shift(slate.item - FIRST_ID, life.time[at][:, None])
        life = life._replace(x=life.x + shift(life.item, life.time))
        return kernels.windows(at, topic, slate._replace(x0=x0), life, world.model, len(life.time))

    return _by_user(world, requests, compute)


def topic_history(world: World, requests: Requests, row: int, candidate: int) -> dict[str, Any]:
    """What the exact filter needs for one candidate, for re-running it by hand.

    Returns:
        ``rank`` (n,) how many events ago (1 = the newest event of the life), ``ticks``, ``x``,
        ``click``, ``log_watch``, ``like``, ``share``, ``hide`` (n,) of the topic's events, oldest
        first; ``end_tick``; the candidate's offset ``x_end`` and its parts ``x0``, ``T``, ``Phi``;
        ``topic``; ``p`` (3,), the exact probabilities.
    """
    life = world.life(int(requests.user[row]))
    e = requests.extra
    n = int(e["index_in_life"][row])
    j = int(e["last"][row, candidate])
    chain: list[int] = []
    while j >= 0:
        chain.append(j)
        j = int(life.previous[j])
    rows = np.array(chain[::-1], dtype=np.int64)
    names = ("x", "click", "log_watch", "like", "share", "hide")
    t, phi, x0 = (float(e[k][row, candidate]) for k in ("T", "Phi", "x0"))
    assert requests.truth is not None
    return {
        "rank": n - rows,
        "ticks": life.tick[rows],
        **{name: getattr(life, name)[rows] for name in names},
        "end_tick": int(life.tick[n]),
        "x_end": x0 + world.config.gT * t - world.config.gF * phi,
        "x0": x0,
        "T": t,
        "Phi": phi,
        "topic": int(world.catalogue.item_topic[requests.items[row, candidate] - FIRST_ID]),
        "p": requests.truth[row, candidate],
    }


def offsets_by_length(
    world: World, requests: Requests, row: int, candidate: int
) -> NDArray[np.float64]:
    """(25,): the candidate's offset when only the last 0 … 24 events are known.

    Transition looks back 12 events and fatigue 24, so from 24 on it no longer changes.
    """
    life = world.life(int(requests.user[row]))
    e = requests.extra
    m = world.model
    n = int(e["index_in_life"][row])
    x0 = float(e["x0"][row, candidate])
    k = int(world.catalogue.item_topic[requests.items[row, candidate] - FIRST_ID])
    longest = max(m.lags_transition, m.lags_fatigue)
    out = []
    for length in range(longest + 1):
        t = kernels.transition_effect(
            k, n, min(length, m.lags_transition), life.topic, life.click, m
        )
        f = kernels.fatigue_effect(k, n, min(length, m.lags_fatigue), life.topic, life.click, m)
        out.append(x0 + m.g_transition * t - m.g_fatigue * f)
    return np.array(out)
