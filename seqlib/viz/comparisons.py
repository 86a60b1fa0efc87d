"""Models side by side: differences, seeds, learning curves, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..results import is_clear
from .theme import (
    CARD,
    INK,
    SOFT,
    canvas,
    looks,
    numbers,
    plain,
    themed,
)


@themed
def forest(
    differences: Sequence[Mapping[str, Any]], *, xlabel: str, title: str = "", base: str = ""
) -> Figure:
    """Paired differences with their 95 % intervals; hollow where the difference is not clear of 0.

    Args:
        differences: each with ``a`` (name), ``delta``, ``low``, ``high`` and what the interval is
            ``over``, see ``results.is_clear``; and ``b`` where there is no common ``base``.
        xlabel: name of the horizontal axis.
        title: of the figure.
        base: what all are compared with; "" where each names its own.

    Raises:
        ValueError: no difference, or one outside its own interval.
    """
    if not differences:
        raise ValueError("differences is empty; there is nothing to draw")
    fig, ax = canvas(7.4, 0.38 * len(differences) + 1.25)
    names = []
    for row, (d, style) in enumerate(
        zip(differences, looks(d["a"] for d in differences), strict=True)
    ):
        if not d["low"] <= d["delta"] <= d["high"]:
            raise ValueError(f"{d['a']}: {d['delta']} is outside [{d['low']}, {d['high']}]")
        has_clear_sign = is_clear(d)
        ax.plot(
            [d["low"], d["high"]],
            [row, row],
            color=style.color,
            lw=2.6,
            solid_capstyle="butt",
        )
        ax.plot(
            d["delta"],
            row,
            "o",
            ms=7.5,
            color=style.color,
            mew=1.8,
            mfc=style.color if has_clear_sign else "#ffffff",
        )
        names.append(style.title if base else f"{style.title} − {looks([d['b']])[0].title}")
        text = f"{d['delta']:+.4f}  [{d['low']:+.4f}, {d['high']:+.4f}]".replace("-", "−")
        if d.get("over") != "users and seeds":
            text += "  users only"
        ax.annotate(
            text,
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=INK if has_clear_sign else SOFT,
        )
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.45, -0.55)
    plain(ax, "x")
    ax.spines["left"].set_visible(False)
    against = f", against {looks([base])[0].title}" if base else ""
    ax.set_xlabel(f"{xlabel}{against}  (95 % interval; hollow: not clear of 0)")
    ax.set_title(title)
    return fig


@themed
def dots(
    values: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    references: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """One row per variant: a light dot per seed, a full one for their mean, the mean at the right.

    Args:
        values: name -> (seeds,).
        xlabel: name of the horizontal axis.
        references: name -> where a vertical line stands, e.g. no history.
        title: of the figure.

    Raises:
        ValueError: no variant, or one without a seed.
    """
    if not values:
        raise ValueError("values is empty; there is nothing to draw")
    lines = references or {}
    fig, ax = canvas(7.4, 0.34 * len(values) + (1.45 if lines else 1.15))
    styles = looks(values)
    for row, ((name, each), style) in enumerate(zip(values.items(), styles, strict=True)):
        x = numbers(each, str(name), 1)
        ax.plot([x.min(), x.max()], [row, row], color=style.color, lw=1.4, alpha=0.6)
        ax.plot(x, np.full(len(x), row), "o", ms=4.5, mfc=CARD, mec=style.color, mew=1.1)
        ax.plot(x.mean(), row, "o", ms=7.5, color=style.color)
        ax.annotate(
            f"{x.mean():.4f}".replace("-", "−"),
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=INK,
        )
    for i, (name, at) in enumerate(lines.items()):
        ax.axvline(at, color=SOFT, lw=1.4, ls=("--", ":", "-.")[i % 3], label=f"{name} {at:.3f}")
    ax.set_yticks(range(len(values)), [s.title for s in styles])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(values) - 0.4, -0.6)
    plain(ax, "both")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"{xlabel}  (light: each seed, full: their mean)")
    ax.set_title(title)
    if lines:
        fig.legend(loc="outside lower right", ncols=len(lines))
    return fig


@themed
def learning_curves(
    losses: Mapping[str, Sequence[float]], *, window: int = 50, title: str = ""
) -> Figure:
    """Training loss against steps, each point the mean of the last ``window`` steps.

    Args:
        losses: model -> loss of every step. A shorter run is averaged over a tenth of its steps.
        window: steps that one point averages.
        title: of the figure.
    """
    fig, ax = canvas(7.2, 3.5)
    for (name, loss), style in zip(losses.items(), looks(losses), strict=True):
        loss = numbers(loss, name, 1)
        w = window if len(loss) >= 2 * window else max(len(loss) // 10, 1)
        mean = np.convolve(loss, np.ones(w) / w, mode="valid")
        step = np.arange(len(mean)) + w
        ax.plot(step, mean, color=style.color, lw=1.6, label=style.title)
        marks = np.linspace(0, len(mean) - 1, 7).astype(int)[1:]
        ax.plot(step[marks], mean[marks], style.marker or "o", color=style.color, ms=5)
    ax.set(xlabel="training step", ylabel=f"loss, mean of {window} steps")
    ax.set_title(title)
    ax.legend()
    return fig


@themed
def calibration(tables: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """Mean label against mean prediction by bins of equal mass; the diagonal is perfect.

    Args:
        tables: model -> (bins, 2 or more): mean prediction, mean label, …
        title: of the figure.
    """
    fig, ax = canvas(5.4, 4.4)
    arrays = {k: numbers(v, k, 2) for k, v in tables.items()}
    top = max(float(t[:, :2].max()) for t in arrays.values()) * 1.06
    ax.plot([0, top], [0, top], color=SOFT, lw=1.2, ls="--")
    ax.annotate(
        "perfect",
        (top * 0.93, top * 0.93),
        (-4, 6),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=SOFT,
    )
    for (_, t), style in zip(arrays.items(), looks(arrays), strict=True):
        ax.plot(
            t[:, 0],
            t[:, 1],
            marker=style.marker or "o",
            color=style.color,
            lw=1.4,
            label=style.title,
        )
    ax.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    ax.grid(True)
    ax.set(xlabel="mean prediction of the bin", ylabel="mean label of the bin")
    ax.set_title(title)
    ax.legend(loc="lower right")
    return fig
