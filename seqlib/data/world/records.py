"""What the compiled loops read and fill: plain arrays of the model, of one life, of its requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .catalogue import Catalogue
from .config import WorldConfig


class Model(NamedTuple):
    """Parameters and catalogue, as arrays the compiled code can read."""

    base: NDArray  # (4,) click logit by state
    like: NDArray  # (4,) P(like | click)
    share: NDArray  # (4,)
    hide: NDArray  # (4,) P(hide | no click)
    watch: NDArray  # (2, 4) mean log watch ratio by click and state
    watch_sd: NDArray  # (2,)
    surf: NDArray  # (4,) logit by surface
    surf_cum: NDArray  # (4,) cumulative shares
    hour: NDArray  # (n_cats, 24)
    appeal: NDArray  # (K,) topic appeal b_k
    nxt: NDArray  # (K,) successor topic
    cat: NDArray  # (K,)
    popular_cum: NDArray  # (K,) cumulative topic popularity
    quality: NDArray  # (N,) item quality q_i
    duration: NDArray  # (N,) seconds
    topic_items: NDArray  # (N,) items grouped by topic
    topic_start: NDArray  # (K + 1,)
    item_cum: NDArray  # (N,) cumulative popularity within the topic, in the grouped order
    pi: NDArray  # (4,) stationary law
    step: NDArray  # (ticks, 4, 4) P[d]
    policy_cum: NDArray  # (4,) cumulative shares of random, ever clicked, exploit, follow-up
    cand_cum: NDArray  # (6,) cumulative shares of candidate sources
    pos_slope: float
    g_transition: float
    rho_transition: float
    lags_transition: int
    g_fatigue: float
    rho_fatigue: float
    lags_fatigue: int
    cap_fatigue: float
    beta: float
    tau: float


class Moves(NamedTuple):
    """What depends on the date. Apart from ``Model``, whose every array costs each call time."""

    offset: bool  # appeal or quality are functions of time
    catalogue: bool  # items come and go
    swing: float  # logits of the topics' appeal
    rate: NDArray  # (K,) radians per day
    phase: NDArray  # (K,)
    novelty: float  # logits of a new item's quality
    novelty_days: float
    release: NDArray  # (N,) day from which the item is shown
    withdrawal: NDArray  # (N,) day from which it no longer is
    weight: NDArray  # (N,) popularity of items


class Life(NamedTuple):
    """One user's events in order of time, arrays of length n."""

    item: NDArray
    topic: NDArray
    time: NDArray  # days
    tick: NDArray
    surface: NDArray
    position: NDArray
    source: NDArray
    click: NDArray
    log_watch: NDArray
    like: NDArray
    share: NDArray
    hide: NDArray
    x: NDArray  # offset of the click logit
    state: NDArray  # hidden
    previous: NDArray  # index of the last earlier event of the same topic, or −1
    p: NDArray  # (n, 3) filter's probabilities before the event


class Slate(NamedTuple):
    """Candidates of one user's requests, arrays (R, C, …)."""

    item: NDArray
    source: NDArray
    label: NDArray  # (R, C, 3)
    bayes: NDArray  # (R, C, 3)
    none: NDArray
    true: NDArray
    x0: NDArray  # (R, C) offset without transition and fatigue
    transition: NDArray  # (R, C)
    fatigue: NDArray  # (R, C)
    last: NDArray  # (R, C) index of the topic's last event before the request, or −1


def model_of(config: WorldConfig, cat: Catalogue, pi: NDArray, step: NDArray) -> Model:
    """Parameters and catalogue as arrays."""
    c = config
    order = np.argsort(cat.item_topic, kind="stable")
    start = np.searchsorted(cat.item_topic[order], np.arange(c.n_topics + 1))
    cum = np.empty(c.n_items)
    for k in range(c.n_topics):
        w = np.cumsum(cat.item_weight[order[start[k] : start[k + 1]]])
        cum[start[k] : start[k + 1]] = w / w[-1]
    return Model(
        base=np.array(c.base),
        like=np.array(c.like),
        share=np.array(c.share),
        hide=np.array(c.hide),
        watch=np.array(c.watch),
        watch_sd=np.array(c.watch_sd),
        surf=np.array(c.surf),
        surf_cum=np.cumsum(c.surf_p),
        hour=cat.hour,
        appeal=cat.appeal,
        nxt=cat.next_topic,
        cat=cat.category,
        popular_cum=np.cumsum(cat.popularity),
        quality=cat.quality,
        duration=cat.duration,
        topic_items=order,
        topic_start=start,
        item_cum=cum,
        pi=pi,
        step=step,
        policy_cum=np.cumsum(c.pol),
        cand_cum=np.cumsum(c.cand),
        pos_slope=float(c.pos_slope),
        g_transition=float(c.gT),
        rho_transition=float(c.rhoT),
        lags_transition=int(c.JT),
        g_fatigue=float(c.gF),
        rho_fatigue=float(c.rhoF),
        lags_fatigue=int(c.JF),
        cap_fatigue=float(c.capF),
        beta=float(c.beta),
        tau=float(c.tau),
    )


def moves_of(config: WorldConfig, cat: Catalogue) -> Moves:
    """What depends on the date, as arrays."""
    c = config
    d = cat.drift
    return Moves(
        offset=bool(c.appeal_swing or c.novelty),
        catalogue=c.item_days > 0,
        swing=float(c.appeal_swing),
        rate=2 * np.pi / d.period,
        phase=d.phase,
        novelty=float(c.novelty),
        novelty_days=float(c.novelty_days),
        release=d.release,
        withdrawal=d.withdrawal,
        weight=cat.item_weight,
    )


def empty_life(n: int) -> Life:
    """A life of n events that is not lived yet: its ticks are −1."""

    def integers() -> NDArray[np.int64]:
        return np.zeros(n, np.int64)

    def numbers() -> NDArray[np.float64]:
        return np.zeros(n)

    def small() -> NDArray[np.int8]:
        return np.zeros(n, np.int8)

    return Life(
        item=integers(),
        topic=integers(),
        time=numbers(),
        tick=integers() - 1,
        surface=small(),
        position=integers(),
        source=small(),
        click=small(),
        log_watch=numbers(),
        like=small(),
        share=small(),
        hide=small(),
        x=numbers(),
        state=small(),
        previous=integers(),
        p=np.zeros((n, 3)),
    )


def empty_slate(r: int, c: int) -> Slate:
    """Room for the candidates of r requests with c each."""
    return Slate(
        item=np.zeros((r, c), np.int64),
        source=np.zeros((r, c), np.int8),
        label=np.zeros((r, c, 3), np.uint8),
        bayes=np.zeros((r, c, 3)),
        none=np.zeros((r, c, 3)),
        true=np.zeros((r, c, 3)),
        x0=np.zeros((r, c)),
        transition=np.zeros((r, c)),
        fatigue=np.zeros((r, c)),
        last=np.zeros((r, c), np.int64),
    )
