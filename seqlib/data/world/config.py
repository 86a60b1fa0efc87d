"""All parameters of the world, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STATES = ("neutral", "averse", "dormant fan", "active fan")
ACTIONS = ("click", "like", "share", "hide")
TASKS = ("click", "like_or_share", "hide")
SURFACES = ("feed", "detail", "profile", "search")
LOG_SOURCES = ("random", "ever clicked", "exploit", "follow-up", "popular")
CANDIDATE_SOURCES = ("exploit", "ever clicked", "popular", "uniform", "follow-up", "passed over")
CONTENT_DIM = 32
# A request has at least so many events before it.
MIN_HISTORY = 40
_COUNTS = ("n_users", "days", "n_topics", "n_cats", "n_items", "n_authors", "C", "JT", "JF")


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
        for name in _COUNTS:
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
