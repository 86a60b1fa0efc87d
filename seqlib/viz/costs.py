"""What length costs: FLOPs, bytes and milliseconds, and quality against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .theme import (
    BEHIND,
    SOFT,
    canvas,
    look,
    looks,
    numbers,
    plotly_line,
    rounded,
    significant,
    themed,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


@themed
def cost_lines(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> Figure:
    """Costs on log-log axes; each line's slope at its end stands beside it (1 = proportional).

    Args:
        x: (n,) > 0, e.g. lengths.
        lines: name -> (n,) > 0; FLOPs, bytes, milliseconds.
        xlabel: name of the horizontal axis.
        ylabel: name of the vertical axis.
        title: of the figure.

    Raises:
        ValueError: lines of another length, or values that are not positive.
    """
    x = numbers(x, "x", 1)
    fig, ax = canvas(7.4, 3.9)
    ends: list[tuple[float, str, str]] = []
    for (name, y), style in zip(lines.items(), looks(lines), strict=True):
        y = numbers(y, name, 1)
        if len(y) != len(x):
            raise ValueError(f"{name} has {len(y)} values for {len(x)} values of x")
        if (y <= 0).any() or (x <= 0).any():
            raise ValueError(f"{name} has values that are not positive; both axes are logarithmic")
        ax.plot(x, y, marker=style.marker, ms=4.5, color=style.color, label=style.title)
        if len(x) > 1:
            slope = np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2])
            ends.append((float(y[-1]), f"slope {slope:.1f}", style.color))
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.grid(True, which="major")
    _side_labels(ax, float(x[-1]), ends)
    ax.set_title(title)
    if len(lines) > 1:
        ax.legend(loc="upper left")
    return fig


def _side_labels(ax, x: float, ends: list[tuple[float, str, str]], gap: float = 12) -> None:
    """Texts right of the lines' ends, pushed apart so that none covers another (gap in points)."""
    # Drawing settles the axes, so that data can be turned into points.
    ax.figure.canvas.draw()
    points = 72 / ax.figure.dpi
    last = -np.inf
    for y, text, color in sorted(ends):
        at = float(ax.transData.transform((x, y))[1]) * points
        shift = max(last + gap - at, 0.0)
        last = at + shift
        ax.annotate(
            text,
            (x, y),
            xytext=(8, shift),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=color,
            annotation_clip=False,
        )


def cost_plotly(
    lengths: Sequence[int],
    candidates: Sequence[int],
    flops: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str = "",
    ylabel: str = "FLOPs per request",
) -> go.Figure:
    """A cost per request against length, with a slider over the number of candidates.

    Args:
        lengths: of the history, the horizontal axis.
        candidates: the slider's steps.
        flops: model -> (len(candidates), len(lengths)) FLOPs (or bytes, with ``ylabel``).
        title: of the figure.
        ylabel: name of the vertical axis.

    Raises:
        ValueError: a table of another shape.
    """
    import plotly.graph_objects as go

    tables = {k: numbers(v, k, 2) for k, v in flops.items()}
    for name, table in tables.items():
        if table.shape != (len(candidates), len(lengths)):
            raise ValueError(
                f"{name} has shape {table.shape}; it must be (candidates, lengths) = "
                f"({len(candidates)}, {len(lengths)})"
            )
    fig = go.Figure()
    for (_, table), style in zip(tables.items(), looks(tables), strict=True):
        fig.add_scatter(
            x=list(lengths),
            y=significant(table[0]),
            name=style.title,
            hovertemplate="L = %{x:,}: %{y:.3s}",
            **plotly_line(style),
        )
    steps = []
    for i, c in enumerate(candidates):
        y = [significant(t[i]) for t in tables.values()]
        steps.append({"method": "restyle", "label": f"{c:,}", "args": [{"y": y}]})
    every = np.concatenate([t.ravel() for t in tables.values()])
    every = every[every > 0]
    fig.update_layout(
        title=title,
        height=480,
        sliders=[{"steps": steps, "currentvalue": {"prefix": "candidates: "}, "pad": {"t": 60}}],
        legend={"x": 0.02, "y": 0.98},
        hovermode="x unified",
    )
    fig.update_xaxes(type="log", title="history length L, events", dtick=1, tickformat=",d")
    edges = [np.log10(every.min()) - 0.2, np.log10(every.max()) + 0.2]
    fig.update_yaxes(
        type="log", title=ylabel, dtick=1, exponentformat="SI", range=rounded(edges, 2)
    )
    return fig


@themed
def pareto(
    points: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    ceiling: float | None = None,
) -> Figure:
    """Quality against cost, one point per model; the step line joins what nothing else beats.

    Args:
        points: model -> (cost > 0, quality).
        xlabel: name of the horizontal axis.
        ylabel: name of the vertical axis.
        title: of the figure.
        ceiling: a dashed line.

    Raises:
        ValueError: no point, or a cost that is not positive.
    """
    if not points:
        raise ValueError("points is empty; there is nothing to draw")
    fig, ax = canvas(7.4, 4.0)
    best = -np.inf
    front = []
    for x, y in sorted(points.values(), key=lambda p: (p[0], -p[1])):
        if not x > 0:
            raise ValueError(f"a cost is {x}; the axis is logarithmic and needs > 0")
        if y > best:
            front.append((x, y))
            best = y
    ax.step(*zip(*front, strict=True), where="post", color=SOFT, lw=1.2, ls=":")
    placed: list[tuple[float, float]] = []
    for (_, (x, y)), style in zip(points.items(), looks(points), strict=True):
        ax.plot(x, y, style.marker or "o", ms=9, color=style.color)
        placed.append((x, y))
    ax.set_xscale("log")
    ax.margins(x=0.16, y=0.14)
    if ceiling is not None:
        ax.axhline(ceiling, color=look("ceiling").color, lw=1.4, ls="--")
        ax.annotate(
            f"ceiling {ceiling:.3f}",
            (0.01, ceiling),
            (0, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="bottom",
            fontsize=9,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    _point_labels(ax, placed, [s.title for s in looks(points)], [s.color for s in looks(points)])
    ax.set_title(title)
    return fig


# Offsets in points, and how a text is aligned there: right of its point, above, below, left.
_SIDES = (
    (9, 0, "left", "center"),
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (-9, 0, "right", "center"),
)


def _point_labels(ax, points, texts, colors) -> None:
    """A name beside each point: above, below, right or left, where no other name or point is."""
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    spots = [ax.transData.transform(p) for p in points]
    taken: list[Any] = []
    for spot, point, text, color in zip(spots, points, texts, colors, strict=True):
        fewest = None
        for dx, dy, ha, va in _SIDES:
            note = ax.annotate(
                text,
                point,
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=9,
                color=color,
                bbox=BEHIND,
            )
            box = note.get_window_extent(renderer)
            others = [s for s in spots if s is not spot]
            hits = sum(box.overlaps(b) for b in taken) + sum(box.contains(*s) for s in others)
            hits += not (ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1)
            if fewest is None or hits < fewest[0]:
                if fewest:
                    fewest[1].remove()
                fewest = (hits, note, box)
            else:
                note.remove()
        taken.append(fewest[2])
