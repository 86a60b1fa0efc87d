"""Topics, authors and items, and how they move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import CONTENT_DIM, WorldConfig

# Every random part has a stream of its own, (seed, stream), so that none depends on another's length.
DICE_OF_CATALOGUE = 0
DICE_OF_DRIFT = 4


@dataclass(frozen=True, eq=False)
class Drift:
    """How the catalogue moves, see ``make_drift``.

    Attributes:
        period: (K,) days of the swing of each topic's appeal.
        phase: (K,) radians at day 0.
        release: (N,) day from which item i is shown.
        withdrawal: (N,) day from which it no longer is.
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
    c = config
    rng = np.random.default_rng([seed, DICE_OF_CATALOGUE])
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
    c = config
    rng = np.random.default_rng([seed, DICE_OF_DRIFT])
    n = len(item_topic)
    shortest, longest = np.log(c.appeal_period)
    period = np.exp(rng.uniform(shortest, longest, c.n_topics))
    phase = rng.uniform(0, 2 * np.pi, c.n_topics)
    if not c.item_days:
        return Drift(period, phase, np.full(n, -np.inf), np.full(n, np.inf))
    # Below 0 are the items that are there from the start.
    release = rng.uniform(-c.item_days, c.days + 1, n)
    release = np.where(release < 0, -rng.exponential(c.item_days, n), release)
    order = np.lexsort((release, item_topic))
    first = np.r_[True, np.diff(item_topic[order]) > 0]
    release[order[first]] = np.minimum(release[order[first]], 0.0)
    withdrawal = np.maximum(release, 0) + rng.exponential(c.item_days, n)
    following = np.where(np.r_[first[1:], True], np.inf, np.roll(release[order], -1))
    withdrawal[order] = np.maximum(withdrawal[order], following)
    return Drift(period, phase, release, withdrawal)


def swing(c: WorldConfig, d: Drift, topic: NDArray, day: NDArray) -> NDArray[np.float64]:
    """What a topic's appeal has on top of b_k; arguments broadcast."""
    return c.appeal_swing * np.sin(2 * np.pi / d.period[topic] * day + d.phase[topic])


def newness(c: WorldConfig, d: Drift, item: NDArray, day: NDArray) -> NDArray[np.float64]:
    """What an item's quality has on top of q_i; before its release, as on that day."""
    return c.novelty * np.exp(-np.maximum(day - d.release[item], 0) / c.novelty_days)
