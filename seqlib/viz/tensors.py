"""Shapes and small vectors: the one picture with real numbers that every chapter begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from .theme import BEHIND, BLUE, INK, RED, SOFT, canvas, looks, numbers, plain, themed

BOX_WIDTH = 1.75
BOX_HEIGHT = 0.78


@themed
def flow(
    boxes: Mapping[str, tuple[float, float, str, str]],
    arrows: Sequence[tuple[str, str, str]],
    *,
    emphasis: Sequence[str] = (),
    size: tuple[float, float] | None = None,
) -> Figure:
    """Boxes with a name and a shape, and labelled arrows between them.

    Args:
        boxes: key -> (x, y, name, shape); x and y of the centre in grid units. A box is 1.75 wide
            and 0.78 high, so neighbours 2.6 apart leave room for a word on the arrow.
        arrows: (from, to, what happens).
        emphasis: keys drawn in red (what this chapter adds).
        size: inches; by default from the extent of the boxes.

    Raises:
        ValueError: an arrow or an emphasis names a box that is not there.
    """
    if unknown := ({a for a, _, _ in arrows} | {b for _, b, _ in arrows} | {*emphasis}) - {*boxes}:
        raise ValueError(f"no box {sorted(unknown)}; there are {list(boxes)}")
    xs = [b[0] for b in boxes.values()]
    ys = [b[1] for b in boxes.values()]
    wide = max(xs) - min(xs) + BOX_WIDTH + 0.3
    high = max(ys) - min(ys) + BOX_HEIGHT + 0.35
    fig, ax = canvas(*(size or (float(np.clip(0.92 * wide, 4, 9.2)), 0.92 * high)))
    for key, (x, y, name, shape) in boxes.items():
        hot = key in emphasis
        corner = (x - BOX_WIDTH / 2 + 0.06, y - BOX_HEIGHT / 2 + 0.06)
        ax.add_patch(
            FancyBboxPatch(
                corner,
                BOX_WIDTH - 0.12,
                BOX_HEIGHT - 0.12,
                boxstyle="round,pad=0.06",
                fc="#fdeee4" if hot else "#edf4f9",
                ec=RED if hot else BLUE,
                lw=1.5,
            )
        )
        ax.text(x, y + 0.15, name, ha="center", va="center", fontsize=9.5, weight="bold")
        ax.text(x, y - 0.17, shape, ha="center", va="center", fontsize=9, family="monospace")
    for a, b, text in arrows:
        x0, y0, *_ = boxes[a]
        x1, y1, *_ = boxes[b]
        start = _edge(x0, y0, x1, y1)
        end = _edge(x1, y1, x0, y0)
        style = {"arrowstyle": "-|>", "color": SOFT, "lw": 1.4, "shrinkA": 1, "shrinkB": 1}
        ax.annotate("", end, start, arrowprops=style)
        if text:
            _on_arrow(ax, start, end, text)
    ax.set(
        xlim=(min(xs) - BOX_WIDTH / 2 - 0.15, max(xs) + BOX_WIDTH / 2 + 0.15),
        ylim=(min(ys) - BOX_HEIGHT / 2 - 0.17, max(ys) + BOX_HEIGHT / 2 + 0.17),
    )
    ax.axis("off")
    return fig


def _on_arrow(ax, start, end, text: str) -> None:
    """A word above a level arrow, at the right of a steep one."""
    x0, y0 = start
    x1, y1 = end
    level = abs(x1 - x0) >= abs(y1 - y0)
    x = (x0 + x1) / 2 + (0 if level else 0.1)
    y = (y0 + y1) / 2 + (0.07 if level else 0)
    ax.text(
        x,
        y,
        text,
        ha="center" if level else "left",
        va="bottom" if level else "center",
        fontsize=8.5,
        style="italic",
        color=INK,
    )


def _edge(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    """Where the line from the centre of box 0 to that of box 1 leaves box 0."""
    dx = x1 - x0
    dy = y1 - y0
    t = min(
        (BOX_WIDTH / 2 + 0.02) / abs(dx) if dx else np.inf,
        (BOX_HEIGHT / 2 + 0.02) / abs(dy) if dy else np.inf,
    )
    return x0 + t * dx, y0 + t * dy


@themed
def bars(
    vectors: Mapping[str, ArrayLike],
    axes: Sequence[str],
    *,
    title: str = "",
    ylabel: str = "",
    reference: float | None = None,
) -> Figure:
    """Small vectors side by side, one group of bars per named axis.

    Args:
        vectors: name -> (D,); names of models keep their fixed colours.
        axes: names of the D axes.
        reference: a dashed line at this height, e.g. 1 for "all of it".
    """
    if not vectors:
        raise ValueError("vectors is empty; there is nothing to draw")
    fig, ax = canvas(7.2, 3.0)
    width = 0.8 / len(vectors)
    for i, ((name, v), style) in enumerate(zip(vectors.items(), looks(vectors), strict=True)):
        v = numbers(v, str(name), 1)
        if len(v) != len(axes):
            raise ValueError(f"{name} has {len(v)} numbers for {len(axes)} axes")
        place = np.arange(len(v)) + (i - (len(vectors) - 1) / 2) * width
        ax.bar(place, v, width * 0.9, label=style.title, color=style.color)
        if len(vectors) * len(v) <= 16:
            for x, y in zip(place, v, strict=True):
                ax.annotate(
                    f"{y:.2f}",
                    (x, y),
                    (0, 2 if y >= 0 else -2),
                    fontsize=8,
                    color=SOFT,
                    textcoords="offset points",
                    ha="center",
                    bbox=BEHIND,
                    va="bottom" if y >= 0 else "top",
                )
    if reference is not None:
        ax.axhline(reference, color=INK, lw=1.2, ls="--")
    ax.set_xticks(range(len(axes)), axes)
    ax.tick_params(axis="x", length=0)
    plain(ax)
    ax.margins(y=0.12)
    ax.axhline(0, color=SOFT, lw=1)
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    if len(vectors) > 1:
        fig.legend(loc="outside lower center", ncols=min(len(vectors), 4))
    return fig


@themed
def lines(
    x: ArrayLike,
    ys: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    logx: bool = False,
) -> Figure:
    """Plain curves in the course's look; a dash pattern repeats what the colour says.

    Args:
        x: (n,).
        ys: name -> (n,).
    """
    x = numbers(x, "x", 1)
    fig, ax = canvas(7.2, 3.4)
    dashes = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
    for i, ((name, y), style) in enumerate(zip(ys.items(), looks(ys), strict=True)):
        y = numbers(y, str(name), 1)
        if len(y) != len(x):
            raise ValueError(f"{name} has {len(y)} values for {len(x)} values of x")
        ax.plot(x, y, color=style.color, ls=dashes[i % len(dashes)], label=style.title)
    if logx:
        ax.set_xscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title)
    if len(ys) > 1:
        ax.legend()
    return fig
