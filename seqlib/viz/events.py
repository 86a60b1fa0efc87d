"""Lives: when a user did what, how long histories are, and how old each served number may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import ArrayLike

from .theme import BLUE, GREEN, INK, ORANGE, RED, canvas, numbers, plain, themed


@themed
def life_line(
    days: ArrayLike,
    topics: ArrayLike,
    clicks: ArrayLike,
    *,
    request_day: float | None = None,
    window: int | None = None,
    highlight: int | None = None,
    title: str = "",
) -> Figure:
    """One life: time on the x axis, topics in the order of their first event on the y axis.

    Lives of more than 4,000 events show one dot per day and topic, "clicked" if any was.

    Args:
        days: (n,) of the events, oldest first.
        topics: (n,) their topics.
        clicks: (n,) whether they were clicked.
        request_day: a vertical line.
        window: shade the last so many events.
        highlight: a topic drawn in red.
    """
    t = numbers(days, "days", 1)
    k = np.asarray(topics)
    c = np.asarray(clicks, bool)
    if not len(t) == len(k) == len(c):
        raise ValueError(f"{len(t)} days, {len(k)} topics, {len(c)} clicks; must be equally many")
    if (np.diff(t) < 0).any():
        raise ValueError("days falls somewhere; events must come oldest first")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; it counts events and must be at least 1")
    first = {topic: i for i, topic in enumerate(dict.fromkeys(k.tolist()))}
    y = np.array([first[x] for x in k.tolist()])
    fig, ax = canvas(8.4, 3.7)
    end = t[-1] if request_day is None else request_day
    if window is not None:
        ax.axvspan(
            t[max(len(t) - window, 0)],
            end,
            color=ORANGE,
            alpha=0.2,
            lw=0,
            label=f"the last {min(window, len(t)):,} events",
        )
    size = float(np.clip(9_000 / len(t), 2.5, 16))
    dots = np.column_stack([t if len(t) <= 4_000 else np.floor(t) + 0.5, y])
    hit = np.unique(dots[c], axis=0)
    missed = np.array(sorted({*map(tuple, dots[~c])} - {*map(tuple, hit)})).reshape(-1, 2)
    ax.scatter(*missed.T, s=size * 0.7, color="#b4b8bc", lw=0, label="shown")
    ax.scatter(*hit.T, s=size, color=BLUE, lw=0, label="clicked")
    if highlight is not None:
        _mark_topic(ax, t, y, c, k == highlight)
    if request_day is not None:
        ax.axvline(request_day, color=INK, lw=1.6, label="request")
    plain(ax, "x")
    ax.margins(x=0.01)
    ax.set(xlabel="day", ylabel=f"{len(first):,} topics, by first event")
    ax.set_title(title)
    legend = fig.legend(loc="outside right upper")
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([26])
    return fig


def _mark_topic(ax, day: np.ndarray, y: np.ndarray, clicked: np.ndarray, mine: np.ndarray) -> None:
    """Rings around the events of one topic, filled where they were clicked; all arrays are (n,)."""
    for chosen, face, what in (
        (mine & clicked, RED, "clicked"),
        (mine & ~clicked, "none", "not clicked"),
    ):
        if chosen.any():
            ax.scatter(
                day[chosen],
                y[chosen],
                s=30,
                facecolors=face,
                edgecolors=RED,
                lw=1.2,
                label=f"this topic, {what}",
            )


@themed
def length_histogram(
    lengths: ArrayLike,
    *,
    marks: Sequence[int] = (),
    title: str = "",
    xlabel: str = "events of a user",
) -> Figure:
    """How many users have histories of which length, on a log axis.

    Args:
        lengths: (n,) events per user.
        marks: lengths beyond which the share of users is written.
    """
    n = numbers(lengths, "lengths", 1)
    if (n < 0).any():
        raise ValueError(f"lengths holds {n.min():g}; a length is never negative")
    fig, ax = canvas(7.4, 3.6)
    edges = np.geomspace(max(n.min(), 1), max(n.max(), 2) * 1.001, 33)
    ax.hist(n.clip(1), bins=edges, color=BLUE, alpha=0.85, lw=0)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(10))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    top = ax.get_ylim()[1]
    ax.set_ylim(0, top * 1.28)
    for i, m in enumerate(sorted(marks)):
        ax.plot([m, m], [0, top * 1.05], color=RED, lw=1.4)
        text = f" {(n > m).mean():.0%} beyond {m:,}"
        side = "left" if m < 3 * edges[0] else "center"
        ax.text(m, top * (1.18 if i % 2 else 1.08), text, color=RED, ha=side, fontsize=9)
    plain(ax)
    ax.set(xlabel=f"{xlabel}  (median {np.median(n):,.0f})", ylabel="users")
    ax.set_title(title)
    return fig


PLACES = {"online": GREEN, "nearline": ORANGE, "offline": RED}


@themed
def freshness(parts: Sequence[tuple[str, str, float]], *, title: str = "") -> Figure:
    """Computed where, how fresh: parts of a model against the largest age of their result.

    Args:
        parts: (name, "online", "nearline" or "offline", largest age in seconds).

    Raises:
        ValueError: another place, or a negative age.
    """
    if not parts:
        raise ValueError("parts is empty; there is nothing to draw")
    fig, ax = canvas(7.4, 0.48 * len(parts) + 1.25)
    for row, (name, place, age) in enumerate(parts):
        if place not in PLACES:
            raise ValueError(f"{name}: place is {place!r}; one of {', '.join(PLACES)}")
        if not age >= 0:
            raise ValueError(f"{name}: age is {age}; seconds are never negative")
        end = max(age, 0.02)
        ax.barh(row, end - 0.01, left=0.01, height=0.55, color=PLACES[place])
        text = f"{place}, {_duration(age)}"
        ax.annotate(text, (end, row), (6, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(parts)), [p[0] for p in parts])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(parts) - 0.4, -0.6)
    ax.set_xscale("log")
    ticks = {0.1: "0.1 s", 1: "1 s", 60: "1 min", 3600: "1 h", 86400: "1 day", 1.21e6: "2 weeks"}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xticks([], minor=True)
    ax.set_xlim(0.01, 1e8)
    plain(ax, "x")
    ax.set_xlabel("how old the result may be when it is used")
    ax.set_title(title)
    return fig


def _duration(seconds: float) -> str:
    if seconds < 0.02:
        return "always fresh"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"up to {seconds / size:.0f} {unit}"
    return f"up to {seconds:.2g} s"


@themed
def served(
    steps: Sequence[tuple[str, float, float, str]],
    *,
    budget: float | None = None,
    title: str = "",
    unit: str = "ms",
) -> Figure:
    """One request's way through the system: which step runs when, and what is ready before it.

    Args:
        steps: (name, start, end, "online" | "nearline" | "offline") in ``unit``; a step that was
            done before the request has negative times.
        budget: a line at which time is up.
    """
    fig, ax = canvas(7.8, 0.42 * len(steps) + 1.35)
    for row, (name, start, end, place) in enumerate(steps):
        if place not in PLACES:
            raise ValueError(f"{name}: place is {place!r}; one of {', '.join(PLACES)}")
        if not end >= start:
            raise ValueError(f"{name} ends at {end}, before it starts at {start}")
        ax.barh(row, end - start, left=start, height=0.55, color=PLACES[place])
    ax.axvline(0, color=INK, lw=1.4)
    ax.annotate(
        "request arrives",
        (0, 1),
        (3, 2),
        xycoords=("data", "axes fraction"),
        fontsize=9,
        textcoords="offset points",
    )
    if budget is not None:
        ax.axvline(budget, color=RED, lw=1.4, ls="--")
        ax.annotate(
            f"budget {budget:g} {unit}",
            (budget, 1),
            (3, 2),
            fontsize=9,
            color=RED,
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
        )
    ax.set_yticks(range(len(steps)), [s[0] for s in steps])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(steps) - 0.4, -0.6)
    plain(ax, "x")
    ax.set_xlabel(f"time after the request, {unit}")
    used = [p for p in PLACES if any(s[3] == p for s in steps)]
    handles = [_patch(PLACES[p], p) for p in used]
    fig.legend(handles=handles, loc="outside lower right", ncols=3)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold", color=INK)
    return fig


def _patch(color: str, label: str):
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)
