"""Which events get the weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .theme import (
    BLUE,
    CARD,
    DIVERGING,
    INK,
    RED,
    SEQUENTIAL,
    SOFT,
    canvas,
    plain,
    same_length,
    themed,
)
from .theme import (
    numbers as as_numbers,
)

ACTION_SIGNS: Mapping[str, str] = {"click": "●", "like": "♥", "share": "▲", "hide": "✕"}


def action_text(action: int, names: Sequence[str] = ("click", "like", "share", "hide")) -> str:
    """A bit set of actions as words: 3 -> "click + like", 0 -> "shown".

    Args:
        action: bit n set means ``names[n]`` was done.

    Raises:
        ValueError: a bit without a name.
    """
    if action >> len(names):
        raise ValueError(f"action {action} has a bit beyond the {len(names)} names {tuple(names)}")
    done = [n for b, n in enumerate(names) if action >> b & 1]
    return " + ".join(done) if done else "shown"


def age_text(days: float) -> str:
    """An age as a reader would say it: "just now", "14 min", "5 h", "9 d", "8 months"."""
    if days < 1 / 1440:
        return "just now"
    if days < 1 / 24:
        return f"{days * 1440:.0f} min"
    if days < 1:
        return f"{days * 24:.0f} h"
    if days < 60:
        return f"{days:.0f} d"
    return f"{days / 30.44:.0f} months" if days < 700 else f"{days / 365.25:.1f} years"


@themed
def weight_bars(
    weights: ArrayLike,
    titles: Sequence[str],
    *,
    notes: Sequence[str] | None = None,
    title: str = "",
    xlabel: str = "weight",
) -> Figure:
    """One bar per event, newest on top; the name and what was done at the left, the value right.

    Args:
        weights: (L,).
        titles: (L,) names of the events.
        notes: (L,) printed behind the names,
            e.g. "click, 2 d ago".
        title: of the figure.
        xlabel: of the figure.
    """
    w = as_numbers(weights, "weights", 1)
    if len(w) != len(titles):
        raise ValueError(f"{len(w)} weights for {len(titles)} titles; there must be one each")
    same_length(titles=titles, notes=notes)
    fig, ax = canvas(7.2, 0.25 * len(w) + 0.95)
    rows = np.arange(len(w))
    ax.barh(rows, w, height=0.72, color=[BLUE if x >= 0 else RED for x in w])
    ax.set_yticks(rows, titles)
    ax.tick_params(axis="y", length=0)
    span = max(w.max(), 0) - min(w.min(), 0) or 1.0
    for row, x in zip(rows, w, strict=True):
        ax.text(
            x + np.copysign(0.008 * span, x),
            row,
            f"{x:.2f}" if abs(x) >= 0.005 else "0",
            va="center",
            ha="left" if x >= 0 else "right",
            fontsize=8,
            color=SOFT,
        )
    if notes is not None:
        side = ax.secondary_yaxis("right")
        side.set_yticks(rows, notes, color=SOFT, fontsize=8.5)
        side.tick_params(length=0)
        side.spines["right"].set_visible(False)
    ax.set_ylim(len(w) - 0.4, -0.6)
    ax.set_xlim(min(w.min(), 0) - (0.1 * span if w.min() < 0 else 0), max(w.max(), 0) + 0.1 * span)
    plain(ax, "x")
    ax.spines["left"].set_visible(False)
    ax.axvline(0, color=SOFT, lw=1)
    ax.set_xlabel(xlabel)
    ax.set_title(title)
    return fig


@themed
def weight_strip(
    weights: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    top: int = 4,
    title: str = "",
    xlabel: str = "events ago",
    ylabel: str = "weight",
) -> Figure:
    """A long history as a strip, newest left; the ``top`` heaviest events carry their names.

    Args:
        weights: (L,).
        names: (L,) of the events, for the labels.
        top: how many labels.
    """
    w = as_numbers(weights, "weights", 1)
    same_length(weights=w, names=names)
    fig, ax = canvas(7.6, 2.9)
    place = np.arange(1, len(w) + 1)
    colors = np.where(w >= 0, BLUE, RED)
    ax.vlines(place, 0, w, colors=colors, lw=np.clip(360 / len(w), 0.6, 6))
    ax.axhline(0, color=SOFT, lw=1)
    if names is not None:
        _name_heaviest(ax, place, w, names, top)
    plain(ax)
    ax.set_xlim(0.3, len(w) + 0.7)
    ax.margins(y=0.28)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title)
    return fig


def _name_heaviest(ax, place, w, names, top) -> None:
    """Labels in their order from left to right, on alternating heights so that they don't meet."""
    heavy = np.sort(np.argsort(-np.abs(w), kind="stable")[:top])
    for n, j in enumerate(heavy):
        up = 12 + 13 * (n % 2)
        right = place[j] > 0.6 * len(w)
        ax.annotate(
            names[j],
            (place[j], w[j]),
            xytext=(-6 if right else 6, up if w[j] >= 0 else -up),
            textcoords="offset points",
            fontsize=8.5,
            ha="right" if right else "left",
            va="center",
            arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.8},
        )


@themed
def heatmap(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    label: str = "weight",
    numbers: bool | None = None,
) -> Figure:
    """A labelled matrix, e.g. candidates × events; diverging colours where values have both signs.

    Args:
        matrix: (R, K).
        rows: their names.
        columns: their names.
        label: of the colour bar.
        numbers: write the values into the cells (by default up to 80 cells).
    """
    m = as_numbers(matrix, "matrix", 2)
    if m.shape != (len(rows), len(columns)):
        raise ValueError(f"matrix is {m.shape}; rows and columns name {len(rows)} × {len(columns)}")
    signed = bool(m.min() < 0)
    top = float(np.abs(m).max()) or 1.0
    fig, ax = canvas(float(np.clip(2.6 + 0.45 * len(columns), 5.2, 8.6)), 1.7 + 0.34 * len(rows))
    image = ax.imshow(
        m,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else 0,
        vmax=top,
        aspect="auto",
    )
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.grid(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    if m.shape[1] <= 30:  # hairlines between cells
        ax.set_xticks(np.arange(1, m.shape[1]) - 0.5, minor=True)
        ax.set_yticks(np.arange(1, m.shape[0]) - 0.5, minor=True)
        ax.grid(True, which="minor", color=CARD, lw=1.5)
        ax.tick_params(which="minor", length=0)
    if numbers or (numbers is None and m.size <= 80):
        for (i, j), value in np.ndenumerate(m):
            ax.text(
                j,
                i,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if abs(value) > 0.55 * top else INK,
            )
    bar = fig.colorbar(image, ax=ax, label=label, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    ax.set_title(title)
    return fig


@themed
def weight_by_group(groups: Mapping[str, ArrayLike], *, xlabel: str, title: str = "") -> Figure:
    """Distribution of weights per group of events: the box holds half, the line 90 %, dot: mean.

    Args:
        groups: name -> (n,) weights.

    Raises:
        ValueError: all groups are empty, or a weight is not finite. One empty group shows n = 0.
    """
    values = [np.asarray(v, np.float64) for v in groups.values()]
    if not any(len(v) for v in values):
        raise ValueError("groups holds no weight at all; there is nothing to draw")
    fig, ax = canvas(7.2, 0.46 * len(groups) + 1.15)
    for row, (name, v) in enumerate(zip(groups, values, strict=True)):
        if not len(v):
            continue  # its row says n = 0
        v = as_numbers(v, f"group {name!r}", 1)
        low, q1, mid, q3, high = np.quantile(v, (0.05, 0.25, 0.5, 0.75, 0.95))
        ax.plot([low, high], [row, row], color=BLUE, lw=1.4)
        ax.barh(row, q3 - q1, left=q1, height=0.5, color="#c6dfee", edgecolor=BLUE, lw=1.2)
        ax.plot([mid, mid], [row - 0.25, row + 0.25], color=RED, lw=2.2)
        ax.plot(v.mean(), row, "o", color=INK, ms=4.5)
    names = [f"{k}  (n = {len(v):,})" for k, v in zip(groups, values, strict=True)]
    ax.set_yticks(range(len(groups)), names)
    ax.set_ylim(len(groups) - 0.45, -0.55)
    ax.axvline(0, color=SOFT, lw=1)
    plain(ax, "x")
    ax.set_xlabel(xlabel + "    box: middle half, red: median, dot: mean, line: 5 % – 95 %")
    ax.xaxis.label.set_size(9)
    ax.set_title(title)
    return fig
