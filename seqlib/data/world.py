"""A synthetic world of short-video behaviour whose best reachable prediction is known exactly.

Every (user, topic) pair has its own hidden Markov chain over four states: neutral, averse, dormant
fan, active fan. Feedback depends on the hidden state of the shown item's topic and on *known*
covariates (item quality, hour, position, what was shown and clicked before). What is shown depends
on observed feedback only, never on a hidden state. Therefore the posterior given the whole history
is a product over topics, and a four-state forward filter per topic computes it without
approximation. Its click probability, ``Requests.truth``, is the ceiling for any model.

In the preset ``drift`` the world moves: the appeal of topics swings, new items draw more clicks and
settle, and items are released and withdrawn. All of it is a fixed function of topic, item and time,
so it joins the known covariates and the filter stays exact; a trained model, which can't see the
calendar's future, grows old (``p_frozen``).

The hidden states and the filter's inner quantities live in ``World.truth`` and in
``Requests.extra``, which no batch contains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm

from . import _simulate as sim
from .event_log import EventLog
from .requests import Requests
from .schema import FIRST_ID, SECONDS_PER_DAY, DataSpec, ItemTable

STATES = ("neutral", "averse", "dormant fan", "active fan")
ACTIONS = ("click", "like", "share", "hide")
TASKS = ("click", "like_or_share", "hide")
SURFACES = ("feed", "detail", "profile", "search")
LOG_SOURCES = ("random", "ever clicked", "exploit", "follow-up", "popular")
CANDIDATE_SOURCES = ("exploit", "ever clicked", "popular", "uniform", "follow-up", "passed over")
CONTENT_DIM = 32
MIN_HISTORY = 40  # events before a request
_CATALOGUE, _LOG, _HIDDEN, _REQUESTS, _DRIFT = range(5)  # streams of dice


@dataclass(frozen=True)
class WorldConfig:
    """All parameters of the world; rates are per day, ``sd_*`` are standard deviations in logits.

    Tuples over states follow ``STATES``; ``watch`` is (no click, click).

    What moves, and by default doesn't: topic k's appeal is b_k + ``appeal_swing`` ·
    sin(2π t / P_k + φ_k) at day t, with P_k log-uniform in ``appeal_period`` (days); item i's
    quality is q_i + ``novelty`` · exp(−age / ``novelty_days``), where age is the number of days
    since its release; items stay in the catalogue for ``item_days`` on average (0: all of them
    always). See ``make_drift``.
    """

    n_users: int = 400
    days: int = 730
    n_topics: int = 192
    n_cats: int = 24
    n_items: int = 20_000
    n_authors: int = 2_000
    len_median: float = 2_000
    len_sigma: float = 1.1
    len_min: int = 100
    len_max: int = 20_000
    r_NF: float = 0.00015
    r_NA: float = 0.00018
    r_AN: float = 0.00125
    r_FD: float = 1 / 30
    r_DF: float = 1 / 90
    r_DN: float = 1 / 1_500
    r_FN: float = 0.0
    base: tuple[float, ...] = (-2.5, -4.2, 0.2, 1.1)
    like: tuple[float, ...] = (0.03, 0.005, 0.08, 0.2)
    share: tuple[float, ...] = (0.01, 0.002, 0.03, 0.06)
    hide: tuple[float, ...] = (0.01, 0.25, 0.005, 0.002)
    watch: tuple[tuple[float, ...], ...] = ((-1.35, -1.9, -1.2, -1.0), (-0.1, -0.4, 0.05, 0.2))
    watch_sd: tuple[float, float] = (0.8, 0.55)
    sd_q: float = 0.45
    sd_author: float = 0.2
    sd_topic: float = 0.25
    sd_hour: float = 0.1
    surf: tuple[float, ...] = (0.0, 0.25, -0.3, 0.15)
    surf_p: tuple[float, ...] = (0.74, 0.13, 0.08, 0.05)
    pos_slope: float = -0.3
    gT: float = 1.8
    rhoT: float = 0.85
    JT: int = 12
    gF: float = 0.6
    rhoF: float = 0.93
    JF: int = 24
    capF: float = 3.0
    pol: tuple[float, ...] = (0.03, 0.07, 0.55, 0.1)
    beta: float = 1.2
    tau: float = 7.0
    zipf: float = 0.7
    cand: tuple[float, ...] = (0.08, 0.38, 0.1, 0.12, 0.16, 0.16)
    C: int = 16
    mean_session: float = 15.0
    train_from: float = 400.0
    test_from: float = 690.0
    R_train: int = 48
    R_test: int = 6
    cw: float = 0.5
    tw: float = 0.6
    nw: float = 0.62
    appeal_swing: float = 0.0
    appeal_period: tuple[float, float] = (120.0, 480.0)
    item_days: float = 0.0
    novelty: float = 0.0
    novelty_days: float = 30.0

    def __post_init__(self) -> None:
        for name in (
            "n_users",
            "days",
            "n_topics",
            "n_cats",
            "n_items",
            "n_authors",
            "C",
            "JT",
            "JF",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_topics % self.n_cats:
            raise ValueError(
                f"n_topics is {self.n_topics}; it must be a multiple of n_cats ({self.n_cats})"
            )
        for name in ("n_items", "n_authors"):
            if getattr(self, name) < self.n_topics:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; every one of {self.n_topics} topics needs one"
                )
        if not 0 <= self.train_from < self.test_from <= self.days:
            raise ValueError(
                f"train_from {self.train_from}, test_from {self.test_from}, days {self.days}: "
                f"they must rise"
            )
        if not 0 < self.len_min <= self.len_max:
            raise ValueError(
                f"len_min {self.len_min} must be positive and ≤ len_max {self.len_max}"
            )
        for name, total in (("surf_p", 1.0), ("cand", 1.0)):
            if abs(sum(getattr(self, name)) - total) > 1e-9:
                raise ValueError(f"{name} sums to {sum(getattr(self, name))}; shares must sum to 1")
        if sum(self.pol) > 1 + 1e-9:
            raise ValueError(f"pol sums to {sum(self.pol)}; the shares must not pass 1")
        if not 0 < self.appeal_period[0] <= self.appeal_period[1]:
            raise ValueError(
                f"appeal_period is {self.appeal_period}; it must be (shortest, longest), in days"
            )
        if self.item_days < 0 or self.novelty_days <= 0:
            raise ValueError(
                f"item_days {self.item_days} must not be negative, novelty_days "
                f"{self.novelty_days} must be positive"
            )
        if self.novelty and not self.item_days:
            raise ValueError(
                f"novelty is {self.novelty}, but with item_days 0 no item is ever new; set "
                f"item_days"
            )


_CONTROL: dict[str, Any] = dict(
    r_NF=0.08, r_NA=0.08, r_AN=1.0, r_FD=0.0, r_DF=1.0, r_DN=1.0, r_FN=1.0
)
_REALISTIC: dict[str, Any] = dict(
    n_topics=512,
    n_cats=32,
    n_items=100_000,
    n_authors=10_000,
    len_median=8_300,
    len_sigma=0.95,
    len_max=100_000,
    base=(-1.8, -3.7, -0.8, 0.9),
    like=(0.01, 0.001, 0.028, 0.045),
    share=(0.002, 0.0002, 0.005, 0.01),
    hide=(0.0004, 0.008, 0.0002, 0.0001),
    watch=((-1.1, -1.7, -0.95, -0.8), (0.0, -0.3, 0.1, 0.25)),
    gT=1.2,
    gF=0.4,
    pol=(0.03, 0.07, 0.55, 0.08),
)
# Swings of months: what was learnt weeks ago misleads more each week. Their size (rms .57 logits) is
# that of an item's quality (.49), far below what separates a fan from a neutral user (2.7).
_DRIFTING: dict[str, Any] = dict(
    appeal_swing=0.8,
    item_days=180.0,
    novelty=0.8,
    novelty_days=30.0,
    train_from=300.0,
    test_from=560.0,
    R_test=24,
)
PRESETS: Mapping[str, dict[str, Any]] = {
    "course": {},
    "control": _CONTROL,
    "realistic": _REALISTIC,
    "drift": _DRIFTING,
}


# --- the hidden chain -------------------------------------------------------------------------


def generator_matrix(config: WorldConfig) -> NDArray[np.float64]:
    """Rate matrix Q (4, 4) per day, rows sum to 0, states in the order of ``STATES``."""
    n, a, d, f = range(4)
    q = np.zeros((4, 4))
    q[n, f], q[n, a], q[a, n] = config.r_NF, config.r_NA, config.r_AN
    q[f, d], q[d, f], q[d, n], q[f, n] = config.r_FD, config.r_DF, config.r_DN, config.r_FN
    np.fill_diagonal(q, -q.sum(1))
    return q


def stationary(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The law π with π Q = 0, (4,); states that can't be reached get 0."""
    a = np.vstack([q.T, np.ones(len(q))])
    pi = np.linalg.lstsq(a, np.r_[np.zeros(len(q)), 1.0], rcond=None)[0]
    pi = np.where(np.abs(pi) < 1e-14, 0.0, pi)
    return pi / pi.sum()


def transition_table(q: NDArray[np.float64], n_ticks: int) -> NDArray[np.float64]:
    """P[d] = expm(Q d / 64) for d = 0 … n_ticks − 1: (n_ticks, 4, 4).

    By binary splitting: P[i + 2^b] = P[i] P[2^b], each power from a fresh matrix exponential, so
    that errors don't pile up over 46,000 steps.
    """
    table = np.empty((n_ticks, 4, 4))
    table[0] = np.eye(4)
    done = 1
    while done < n_ticks:
        more = min(done, n_ticks - done)
        table[done : done + more] = table[:more] @ expm(q * done / sim.TICKS_PER_DAY)
        done += more
    return table


def bayes_filter(
    world: World, ticks, x, click, log_watch, like, share, hide, end_tick: int, x_end: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact filter of one topic, as plain as it can be written.

    Args:
        world: for the parameters.
        ticks: (n,) integer times of the topic's events, oldest first, 64 to the day.
        x: (n,) known offsets of their click logits. click, like, share, hide: (n,) 0 or 1.
        log_watch: (n,) logarithm of watch seconds over duration.
        end_tick: when the candidate is shown. x_end: its offset.

    Returns:
        Belief (4,) at ``end_tick`` and the probabilities (3,) of the tasks. The compiled filter
        that made ``Requests.truth`` is tested against this one.

    Built in chapter 00.
    """
    c = world.config
    base, like_z, share_z, hide_z = (np.array(v) for v in (c.base, c.like, c.share, c.hide))
    alpha, now = world.pi.copy(), None
    for n in range(len(ticks)):
        if now is not None:
            alpha = alpha @ world.step[ticks[n] - now]  # predict
        p = 1 / (1 + np.exp(-(base + x[n])))
        mean, sd = np.array(c.watch[click[n]]), c.watch_sd[click[n]]
        alpha = alpha * np.exp(-0.5 * ((log_watch[n] - mean) / sd) ** 2)  # update
        if click[n]:
            alpha = alpha * p * np.where(like[n], like_z, 1 - like_z)
            alpha = alpha * np.where(share[n], share_z, 1 - share_z)
        else:
            alpha = alpha * (1 - p) * np.where(hide[n], hide_z, 1 - hide_z)
        alpha, now = alpha / alpha.sum(), ticks[n]
    if now is not None:
        alpha = alpha @ world.step[end_tick - now]
    p = 1 / (1 + np.exp(-(base + x_end)))
    either = 1 - (1 - like_z) * (1 - share_z)
    return alpha, np.array([alpha @ p, alpha @ (p * either), alpha @ ((1 - p) * hide_z)])


# --- catalogue --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Drift:
    """How the catalogue moves, see ``make_drift``.

    Attributes:
        period: (K,) days of the swing of each topic's appeal. phase: (K,) radians at day 0.
        release, withdrawal: (N,) days; item i is shown while release <= t < withdrawal.
    """

    period: NDArray[np.float64]
    phase: NDArray[np.float64]
    release: NDArray[np.float64]
    withdrawal: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Topics, authors and items; ids here count from 0 (tables and logs add ``FIRST_ID``)."""

    next_topic: NDArray[np.int64]
    category: NDArray[np.int64]
    popularity: NDArray[np.float64]
    appeal: NDArray[np.float64]
    hour: NDArray[np.float64]
    author_topic: NDArray[np.int64]
    item_topic: NDArray[np.int64]
    item_author: NDArray[np.int64]
    quality: NDArray[np.float64]
    item_weight: NDArray[np.float64]
    duration: NDArray[np.float64]
    content: NDArray[np.float32]
    drift: Drift


def _covering(rng, n: int, share: NDArray, n_topics: int) -> NDArray[np.int64]:
    """n topics drawn by ``share``, every topic at least once."""
    topics = rng.choice(n_topics, size=n, p=share)
    topics[rng.permutation(n)[:n_topics]] = np.arange(n_topics)
    return topics


def _unit(v: NDArray) -> NDArray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def make_catalogue(config: WorldConfig, seed: int) -> Catalogue:
    """Draw the catalogue; it depends on the configuration and the seed only."""
    c, rng = config, np.random.default_rng([seed, _CATALOGUE])
    per_cat = c.n_topics // c.n_cats
    next_topic = np.empty(c.n_topics, np.int64)
    for g in range(c.n_cats):
        ring = g * per_cat + rng.permutation(per_cat)
        next_topic[ring] = np.roll(ring, -1)
    popularity = rng.permutation((1.0 + np.arange(c.n_topics)) ** -c.zipf)
    popularity /= popularity.sum()
    share = 0.5 * popularity + 0.5 / c.n_topics
    author_topic = _covering(rng, c.n_authors, share, c.n_topics)
    item_topic = _covering(rng, c.n_items, share, c.n_topics)
    order = np.argsort(author_topic, kind="stable")
    begin = np.searchsorted(author_topic[order], np.arange(c.n_topics + 1))
    count = begin[item_topic + 1] - begin[item_topic]
    item_author = order[begin[item_topic] + (rng.random(c.n_items) * count).astype(np.int64)]
    author_effect = rng.normal(0, c.sd_author, c.n_authors)
    quality = author_effect[item_author] + rng.normal(0, c.sd_q, c.n_items)
    short = rng.random(c.n_items) < 0.85
    duration = np.where(
        short,
        rng.lognormal(np.log(10.5), 0.45, c.n_items),
        rng.lognormal(np.log(45), 0.8, c.n_items),
    )
    category = np.arange(c.n_topics) // per_cat
    g = _unit(rng.normal(size=(c.n_cats, CONTENT_DIM)))
    v = _unit(rng.normal(size=(c.n_topics, CONTENT_DIM)))
    noise = _unit(rng.normal(size=(c.n_items, CONTENT_DIM)))
    content = _unit(c.cw * g[category[item_topic]] + c.tw * v[item_topic] + c.nw * noise)
    return Catalogue(
        next_topic=next_topic,
        category=category,
        popularity=popularity,
        appeal=rng.normal(0, c.sd_topic, c.n_topics),
        hour=rng.normal(0, c.sd_hour, (c.n_cats, 24)),
        author_topic=author_topic,
        item_topic=item_topic,
        item_author=item_author,
        quality=quality,
        item_weight=rng.pareto(1.1, c.n_items) + 0.05,
        duration=duration.clip(3, 600),
        content=content.astype(np.float32),
        drift=make_drift(config, item_topic, seed),
    )


def make_drift(config: WorldConfig, item_topic: NDArray[np.int64], seed: int) -> Drift:
    """Draw periods, phases and the items' dates, from dice of their own.

    Releases and withdrawals are in balance from day 0 on: items come at a constant rate and stay
    for Exp(``item_days``), and those there at the start have an age of Exp(``item_days``). So that
    no topic is ever empty, the newest item of a topic is not withdrawn before the next is released.
    """
    c, rng = config, np.random.default_rng([seed, _DRIFT])
    n = len(item_topic)
    shortest, longest = np.log(c.appeal_period)
    period = np.exp(rng.uniform(shortest, longest, c.n_topics))
    phase = rng.uniform(0, 2 * np.pi, c.n_topics)
    if not c.item_days:
        return Drift(period, phase, np.full(n, -np.inf), np.full(n, np.inf))
    release = rng.uniform(-c.item_days, c.days + 1, n)  # below 0: there from the start
    release = np.where(release < 0, -rng.exponential(c.item_days, n), release)
    order = np.lexsort((release, item_topic))
    first = np.r_[True, np.diff(item_topic[order]) > 0]
    release[order[first]] = np.minimum(release[order[first]], 0.0)
    withdrawal = np.maximum(release, 0) + rng.exponential(c.item_days, n)
    following = np.where(np.r_[first[1:], True], np.inf, np.roll(release[order], -1))
    withdrawal[order] = np.maximum(withdrawal[order], following)
    return Drift(period, phase, release, withdrawal)


def _swing(c: WorldConfig, d: Drift, topic: NDArray, day: NDArray) -> NDArray[np.float64]:
    """What a topic's appeal has on top of b_k; arguments broadcast."""
    return c.appeal_swing * np.sin(2 * np.pi / d.period[topic] * day + d.phase[topic])


def _newness(c: WorldConfig, d: Drift, item: NDArray, day: NDArray) -> NDArray[np.float64]:
    """What an item's quality has on top of q_i; before its release, as on that day."""
    return c.novelty * np.exp(-np.maximum(day - d.release[item], 0) / c.novelty_days)


def _model(config: WorldConfig, cat: Catalogue, pi: NDArray, step: NDArray) -> sim.Model:
    c = config
    order = np.argsort(cat.item_topic, kind="stable")
    start = np.searchsorted(cat.item_topic[order], np.arange(c.n_topics + 1))
    cum = np.empty(c.n_items)
    for k in range(c.n_topics):
        w = np.cumsum(cat.item_weight[order[start[k] : start[k + 1]]])
        cum[start[k] : start[k + 1]] = w / w[-1]
    f = np.array
    return sim.Model(
        base=f(c.base), like=f(c.like), share=f(c.share), hide=f(c.hide), watch=f(c.watch),
        watch_sd=f(c.watch_sd), surf=f(c.surf), surf_cum=np.cumsum(c.surf_p), hour=cat.hour,
        appeal=cat.appeal, nxt=cat.next_topic, cat=cat.category,
        popular_cum=np.cumsum(cat.popularity), quality=cat.quality, duration=cat.duration,
        topic_items=order, topic_start=start, item_cum=cum, pi=pi, step=step,
        policy_cum=np.cumsum(c.pol), cand_cum=np.cumsum(c.cand), pos_slope=float(c.pos_slope),
        g_transition=float(c.gT), rho_transition=float(c.rhoT), lags_transition=int(c.JT),
        g_fatigue=float(c.gF), rho_fatigue=float(c.rhoF), lags_fatigue=int(c.JF),
        cap_fatigue=float(c.capF), beta=float(c.beta), tau=float(c.tau),
    )  # fmt: skip


def _moves(config: WorldConfig, cat: Catalogue) -> sim.Moves:
    c, d = config, cat.drift
    return sim.Moves(
        offset=bool(c.appeal_swing or c.novelty), catalogue=c.item_days > 0,
        swing=float(c.appeal_swing), rate=2 * np.pi / d.period, phase=d.phase,
        novelty=float(c.novelty), novelty_days=float(c.novelty_days), release=d.release,
        withdrawal=d.withdrawal, weight=cat.item_weight,
    )  # fmt: skip


# --- users ------------------------------------------------------------------------------------


def sessions(config: WorldConfig, rng) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sizes and planned starts (days, rising) of one user's sessions."""
    c = config
    n = int(np.clip(rng.lognormal(np.log(c.len_median), c.len_sigma), c.len_min, c.len_max))
    mean = float(np.clip(rng.lognormal(np.log(c.mean_session), 0.4), 6, 50))
    size = rng.geometric(1 / mean, size=n)  # more than enough
    size = size[: int(np.searchsorted(np.cumsum(size), n)) + 1].astype(np.int64)
    size[-1] -= size.sum() - n
    begin, end, t = [], [], 0.0
    while t < c.days:
        stop = min(t + rng.exponential(90), c.days)
        begin.append(t)
        end.append(stop)
        t = stop + rng.exponential(12) + (rng.exponential(60) if rng.random() < 0.15 else 0.0)
    a, b = np.array(begin), np.array(end)
    spell = rng.choice(len(a), size=len(size), p=(b - a) / (b - a).sum())
    day = np.floor(a[spell] + rng.random(len(size)) * (b - a)[spell])
    peak = rng.choice(4, size=len(size), p=(0.15, 0.20, 0.20, 0.45))
    hour = np.array((8, 12.5, 18, 21.5))[peak] + 1.6 * rng.normal(size=len(size))
    start = np.sort(day + np.mod(hour, 24) / 24)
    for s in range(1, len(start)):
        start[s] = max(start[s], start[s - 1] + 40 * size[s - 1] / SECONDS_PER_DAY)
    return size, np.minimum(start, c.days - 1e-6)


def _empty_life(n: int) -> sim.Life:
    i, f, b = (lambda: np.zeros(n, np.int64)), (lambda: np.zeros(n)), (lambda: np.zeros(n, np.int8))
    tick = i() - 1  # −1 says "not lived yet"
    return sim.Life(
        item=i(), topic=i(), time=f(), tick=tick, surface=b(), position=i(), source=b(), click=b(),
        log_watch=f(), like=b(), share=b(), hide=b(), x=f(), state=b(), previous=i(),
        p=np.zeros((n, 3)),
    )  # fmt: skip


def _empty_slate(r: int, c: int) -> sim.Slate:
    return sim.Slate(
        item=np.zeros((r, c), np.int64), source=np.zeros((r, c), np.int8),
        label=np.zeros((r, c, 3), np.uint8), bayes=np.zeros((r, c, 3)), none=np.zeros((r, c, 3)),
        true=np.zeros((r, c, 3)), x0=np.zeros((r, c)), transition=np.zeros((r, c)),
        fatigue=np.zeros((r, c)), last=np.zeros((r, c), np.int64),
    )  # fmt: skip


def _positions(config: WorldConfig, days: NDArray, rng) -> tuple[NDArray, int]:
    """Where requests stand: positions (ascending), and how many of them are for training."""
    c, index = config, np.arange(len(days))
    old = index >= MIN_HISTORY
    train = index[old & (days >= c.train_from) & (days < c.test_from)]
    test = index[old & (days >= c.test_from) & (days < c.days)]
    a = np.sort(rng.choice(train, min(c.R_train, len(train)), replace=False))
    b = np.sort(rng.choice(test, min(c.R_test, len(test)), replace=False))
    return np.r_[a, b].astype(np.int64), len(a)


@dataclass(frozen=True, eq=False)
class World:
    """One drawn world: what models may see, and what only lessons and tests may.

    Attributes:
        config, seed: what it was drawn from.
        log: the event log. train, test: requests; ``truth`` holds the exact probabilities, and
            ``extra`` the arrays ``p_none`` and ``p_true`` (R, C, 3), ``source``, ``T``, ``Phi``,
            ``x0`` and ``last`` (R, C), and ``index_in_life`` (R,).
        spec: for building models.
        catalogue: topics, authors, items. truth: hidden states and filter quantities per event.
        pi: (4,) stationary law. step: (ticks, 4, 4) transition table P[d].
    """

    config: WorldConfig
    seed: int
    log: EventLog
    train: Requests
    test: Requests
    spec: DataSpec
    catalogue: Catalogue
    pi: NDArray[np.float64]
    step: NDArray[np.float64]
    truth: Mapping[str, NDArray] = field(repr=False)

    @cached_property
    def model(self) -> sim.Model:
        """Parameters for the compiled functions."""
        return _model(self.config, self.catalogue, self.pi, self.step)

    def appeal_at(self, day: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Appeal of every topic in logits, (K,) at one day or (T, K) at T days."""
        c, day = self.catalogue, np.asarray(day)[..., None]
        return c.appeal + _swing(self.config, c.drift, np.arange(len(c.appeal)), day)

    def quality_at(self, day: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Quality of every item in logits, (N,) at one day or (T, N) at T days.

        The item table holds the part that stays; an item not yet released counts as brand new.
        """
        c, day = self.catalogue, np.asarray(day)[..., None]
        return c.quality + _newness(self.config, c.drift, np.arange(len(c.quality)), day)

    def alive_at(self, day: float | NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which items may be shown, (N,) at one day or (T, N) at T days."""
        d, day = self.catalogue.drift, np.asarray(day)[..., None]
        return (d.release <= day) & (day < d.withdrawal)

    def life(self, user: int) -> sim.Life:
        """All arrays of one user's life, oldest event first; times in days."""
        rows = self.log.of(user)
        t = self.truth
        action = self.log.action[rows]
        bits = {name: ((action >> b) & 1).astype(np.int8) for b, name in enumerate(ACTIONS)}
        item = self.log.item[rows].astype(np.int64) - FIRST_ID
        return sim.Life(
            item=item, topic=self.catalogue.item_topic[item], time=t["day"][rows],
            tick=t["tick"][rows], surface=self.log.surface[rows].astype(np.int8),
            position=t["position"][rows], source=t["source"][rows], log_watch=t["log_watch"][rows],
            x=t["x"][rows], state=t["state"][rows], previous=t["previous"][rows],
            p=t["p"][rows], **bits,
        )  # fmt: skip


def make_world(
    preset: str = "course", seed: int = 0, n_users: int | None = None, **overrides: Any
) -> World:
    """Draw a world; the same arguments give the same arrays, byte for byte.

    Args:
        preset: "course" (what chapters train on), "control" (nothing older than 100 events
            helps), "realistic" (marginals near public short-video logs) or "drift" (appeal,
            qualities and catalogue move; training in days 300–560, tests in days 560–730).
        seed: user u's life depends on (seed, u) only, not on the number of users.
        n_users: fewer or more users than the preset's 400.
        **overrides: any field of ``WorldConfig``.

    Raises:
        ValueError: an unknown preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    known = {f.name for f in dataclasses.fields(WorldConfig)}
    if unknown := set(overrides) - known:
        raise ValueError(f"WorldConfig has no {sorted(unknown)}; it has {sorted(known)}")
    if n_users is not None:
        overrides["n_users"] = n_users
    config = WorldConfig(**{**PRESETS[preset], **overrides})
    q = generator_matrix(config)
    n_ticks = (config.days + 1) * sim.TICKS_PER_DAY + 1
    pi, step = stationary(q), transition_table(q, n_ticks)
    catalogue = make_catalogue(config, seed)
    model, moves = _model(config, catalogue, pi, step), _moves(config, catalogue)
    lives, slates, requests = [], [], []
    for user in range(config.n_users):
        rng = {s: np.random.default_rng([seed, s, user]) for s in (_LOG, _HIDDEN, _REQUESTS)}
        path = sim.hidden_paths(rng[_HIDDEN], config.n_topics, n_ticks, pi, step[1])
        size, start = sessions(config, rng[_LOG])
        life = _empty_life(int(size.sum()))
        given = (rng[_LOG], rng[_REQUESTS], size, start, *path, model, moves, life)
        sim.live(*given, np.empty(0, np.int64), _empty_slate(0, 1))
        at, n_train = _positions(config, life.time, rng[_REQUESTS])
        slate = _empty_slate(len(at), config.C)
        if len(at):
            sim.live(*given, at, slate)
        lives.append(life)
        slates.append(slate)
        requests.append((at, n_train))
    return _assemble(preset, config, seed, catalogue, pi, step, lives, slates, requests)


def _assemble(preset, config, seed, catalogue, pi, step, lives, slates, requests) -> World:
    def all_of(name):
        return np.concatenate([getattr(life, name) for life in lives])

    bits = sum(all_of(name).astype(np.uint8) << b for b, name in enumerate(ACTIONS))
    item, day = all_of("item"), all_of("time")
    log = EventLog(
        user=np.repeat(np.arange(len(lives), dtype=np.int32), [len(life.time) for life in lives]),
        item=(item + FIRST_ID).astype(np.int32),
        time=day * SECONDS_PER_DAY,
        action=bits.astype(np.uint8),
        surface=all_of("surface").astype(np.uint8),
        watch=(np.exp(all_of("log_watch")) * catalogue.duration[item]).astype(np.float32),
        duration=catalogue.duration[item].astype(np.float32),
        n_users=config.n_users,
    )
    names = ("tick", "position", "source", "log_watch", "x", "state", "previous", "p")
    truth = {"day": day} | {name: all_of(name) for name in names}
    parts: dict[str, list[tuple[int, NDArray]]] = {"train": [], "test": []}
    for user, (at, n_train) in enumerate(requests):
        parts["train"].append((user, np.arange(n_train)))
        parts["test"].append((user, np.arange(n_train, len(at))))
    train, test = (_requests(parts[k], lives, slates, requests) for k in ("train", "test"))
    spec = DataSpec(
        name=preset,
        items=_item_table(config, catalogue),
        actions=ACTIONS,
        surfaces=SURFACES,
        tasks=TASKS,
        base_rates=tuple(float(r) for r in train.labels.mean((0, 1)).clip(1e-4, 1 - 1e-4)),
        key_field="topic",
        watch=True,
        notes=_notes(config),
    )
    return World(config, seed, log, train, test, spec, catalogue, pi, step, truth)


def _notes(c: WorldConfig) -> dict[str, Any]:
    """What moves, in words; empty where nothing does."""
    notes: dict[str, Any] = {}
    if c.appeal_swing:
        notes["appeal"] = (
            f"b_k + {c.appeal_swing:g} sin(2 pi t / P_k + phi_k), P_k from "
            f"{c.appeal_period[0]:g} to {c.appeal_period[1]:g} days"
        )
    if c.novelty:
        notes["quality"] = (
            f"q_i + {c.novelty:g} exp(-age / {c.novelty_days:g} days); q_i is observed"
        )
    if c.item_days:
        notes["catalogue"] = f"items are shown for {c.item_days:g} days on average"
    return notes


def _requests(parts, lives, slates, requests) -> Requests:
    def of_slate(name):
        return np.concatenate([getattr(slates[u], name)[rows] for u, rows in parts])

    at = [requests[u][0][rows] for u, rows in parts]

    def of_event(name):
        return np.concatenate(
            [getattr(lives[u], name)[a] for (u, _), a in zip(parts, at, strict=True)]
        )

    extra = {"p_none": of_slate("none"), "p_true": of_slate("true"), "source": of_slate("source")}
    extra |= {"T": of_slate("transition"), "Phi": of_slate("fatigue"), "x0": of_slate("x0")}
    extra |= {"last": of_slate("last"), "index_in_life": np.concatenate(at)}
    return Requests(
        user=np.concatenate(
            [np.full(len(a), u, np.int32) for (u, _), a in zip(parts, at, strict=True)]
        ),
        time=of_event("time") * SECONDS_PER_DAY,
        surface=of_event("surface").astype(np.uint8),
        position=of_event("position").astype(np.int32),
        items=(of_slate("item") + FIRST_ID).astype(np.int32),
        labels=of_slate("label"),
        truth=of_slate("bayes"),
        extra=extra,
    )


def _item_table(config: WorldConfig, cat: Catalogue) -> ItemTable:
    def ids(values: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.r_[0, 1, values + FIRST_ID].astype(np.int64))

    def rows(values: NDArray) -> torch.Tensor:
        zeros = np.zeros((FIRST_ID, *values.shape[1:]))
        return torch.from_numpy(np.concatenate([zeros, values]).astype(np.float32))

    return ItemTable(
        fields={
            "topic": ids(cat.item_topic),
            "category": ids(cat.category[cat.item_topic]),
            "author": ids(cat.item_author),
        },
        sizes={
            "topic": config.n_topics + FIRST_ID,
            "category": config.n_cats + FIRST_ID,
            "author": config.n_authors + FIRST_ID,
        },
        content=rows(cat.content),
        dense=rows(cat.quality[:, None]),
        duration=rows(cat.duration),
    ).validate()


# --- reference lines --------------------------------------------------------------------------


def _by_user(world: World, requests: Requests, compute) -> NDArray[np.float64]:
    out = np.empty(requests.labels.shape)
    for user in np.unique(requests.user):
        rows = np.flatnonzero(requests.user == user)
        e, topic = requests.extra, world.catalogue.item_topic[requests.items[rows] - FIRST_ID]
        slate = sim.Slate(
            item=requests.items[rows].astype(np.int64), source=e["source"][rows],
            label=requests.labels[rows], bayes=requests.truth[rows], none=e["p_none"][rows],
            true=e["p_true"][rows], x0=e["x0"][rows], transition=e["T"][rows],
            fatigue=e["Phi"][rows], last=e["last"][rows],
        )  # fmt: skip
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
        world, requests, lambda at, k, s, life: sim.windows(at, k, s, life, model, length)
    )


def p_search(world: World, requests: Requests, hits: int) -> NDArray[np.float64]:
    """Filter on the last ``hits`` events of the candidate's topic, from the whole life: (R, C, 3).

    Transition and fatigue are taken as given, as by a short branch beside the search.
    """
    if hits < 1:
        raise ValueError(f"hits is {hits}; at least one event is needed")
    return _by_user(
        world, requests, lambda at, k, s, life: sim.searches(at, s, life, world.model, hits)
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
    c, d, topic_of = world.config, world.catalogue.drift, world.catalogue.item_topic
    if since is not None and not since < day:
        raise ValueError(f"since is {since}; it must lie before day {day}")
    rate = 2 * np.pi / d.period

    def shift(item, t):
        then, topic = np.minimum(t, day), topic_of[item]
        if since is None:
            kept = _swing(c, d, topic, then)
        else:
            cosines = np.cos(rate * since + d.phase) - np.cos(rate * day + d.phase)
            kept = (c.appeal_swing * cosines / (rate * (day - since)))[topic]
        return kept - _swing(c, d, topic, t) + _newness(c, d, item, then) - _newness(c, d, item, t)

    def compute(at, topic, slate, life):
        x0 = slate.x0 + shift(slate.item - FIRST_ID, life.time[at][:, None])
        life = life._replace(x=life.x + shift(life.item, life.time))
        return sim.windows(at, topic, slate._replace(x0=x0), life, world.model, len(life.time))

    return _by_user(world, requests, compute)


def topic_history(world: World, requests: Requests, row: int, candidate: int) -> dict[str, Any]:
    """What the exact filter needs for one candidate, for re-running it by hand.

    Returns:
        ``rank`` (n,) how many events ago (1 = the newest event of the life), ``ticks``, ``x``,
        ``click``, ``log_watch``, ``like``, ``share``, ``hide`` (n,) of the topic's events, oldest
        first; ``end_tick``; the candidate's offset ``x_end`` and its parts ``x0``, ``T``, ``Phi``;
        ``topic``; ``p`` (3,), the exact probabilities.
    """
    life, e = world.life(int(requests.user[row])), requests.extra
    n, j = int(e["index_in_life"][row]), int(e["last"][row, candidate])
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
    life, e, m = world.life(int(requests.user[row])), requests.extra, world.model
    n, x0 = int(e["index_in_life"][row]), float(e["x0"][row, candidate])
    k = int(world.catalogue.item_topic[requests.items[row, candidate] - FIRST_ID])
    longest = max(m.lags_transition, m.lags_fatigue)
    out = []
    for length in range(longest + 1):
        t = sim.transition_effect(k, n, min(length, m.lags_transition), life.topic, life.click, m)
        f = sim.fatigue_effect(k, n, min(length, m.lags_fatigue), life.topic, life.click, m)
        out.append(x0 + m.g_transition * t - m.g_fatigue * f)
    return np.array(out)
