"""What length buys: a metric against the history's length. ``costs`` and ``comparisons`` stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .comparisons import calibration, dots, forest, learning_curves
from .costs import cost_lines, cost_plotly, pareto
from .theme import (
    GREY,
    canvas,
    log_ticks,
    look,
    looks,
    numbers,
    plotly_line,
    rounded,
    themed,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "calibration",
    "cost_lines",
    "cost_plotly",
    "dots",
    "forest",
    "ladder",
    "ladder_plotly",
    "learning_curves",
    "pareto",
]

Curve = Sequence[tuple[int, float, Sequence[float]]]
DECADES = (1, 10, 100, 1_000, 10_000, 100_000)


def _columns(name: str, curve: Curve) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Length, mean, lowest and highest seed of a curve, each (n,)."""
    if not len(curve):
        raise ValueError(f"the curve of {name!r} is empty; there is nothing to draw")
    x = numbers([c[0] for c in curve], f"lengths of {name!r}", 1)
    if (x <= 0).any():
        raise ValueError(f"lengths of {name!r} hold {x.min():g}; a logarithmic axis needs > 0")
    y = numbers([c[1] for c in curve], name, 1)
    low = numbers([min(c[2], default=c[1]) for c in curve], name, 1)
    high = numbers([max(c[2], default=c[1]) for c in curve], name, 1)
    return x, y, low, high


def _filter_points(filter_line: Mapping[Any, float]) -> tuple[list[int], list[float]]:
    points = sorted((int(k), float(v)) for k, v in filter_line.items())
    return [p[0] for p in points], [p[1] for p in points]


@themed
def ladder(
    curves: Mapping[str, Curve],
    *,
    none: float | None = None,
    ceiling: float | None = None,
    filter_line: Mapping[str, float] | None = None,
    metric: str = "expected AUC, click",
    title: str = "",
) -> Figure:
    """A metric against history length, with a band over seeds and the known reference lines.

    Args:
        curves: model -> [(L, mean, values per seed), …].
        none: a horizontal line, without any history.
        ceiling: a horizontal line, the best that can be reached.
        filter_line: L -> value of the exact filter on the last L events.
        metric: name of the vertical axis.
        title: of the figure.

    Raises:
        ValueError: nothing to draw, or a length that is not positive.
    """
    if not curves and not filter_line:
        raise ValueError("curves is empty; there is nothing to draw")
    fig, ax = canvas(7.6, 4.2)
    lengths: set[float] = set()
    for (name, curve), style in zip(curves.items(), looks(curves), strict=True):
        x, y, low, high = _columns(name, curve)
        lengths |= {*x.tolist()}
        ax.fill_between(x, low, high, color=style.color, alpha=0.22, lw=0)
        ax.plot(x, y, marker=style.marker, color=style.color, ls=style.dash, label=style.title)
    if filter_line:
        x, y = _filter_points(filter_line)
        lengths |= {*map(float, x)}
        style = look("filter")
        ax.plot(x, y, color=style.color, ls=style.dash, lw=1.6, marker=".", label=style.title)
    ax.set_xscale("log")
    log_ticks(ax.xaxis, [d for d in DECADES if min(lengths) / 1.5 <= d <= max(lengths) * 1.5])
    for key, value, is_above in (("ceiling", ceiling, True), ("none", none, False)):
        if value is not None:
            style = look(key)
            ax.axhline(value, color=style.color, lw=1.4, ls=style.dash)
            ax.annotate(
                f"{style.title} {value:.3f}",
                (0.01, value),
                xytext=(0, 3 if is_above else -3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="bottom" if is_above else "top",
                fontsize=9,
                color=style.color,
            )
    ax.margins(y=0.09)
    ax.set(xlabel="history length L, events", ylabel=metric)
    ax.set_title(title)
    fig.legend(loc="outside right upper")
    return fig


def ladder_plotly(
    curves: Mapping[str, Curve],
    *,
    none: float | None = None,
    ceiling: float | None = None,
    filter_line: Mapping[str, float] | None = None,
    metric: str = "expected AUC, click",
    title: str = "",
) -> go.Figure:
    """``ladder`` to hover over; only for numbers that are stored or exact.

    A notebook test compares the figure's JSON digit by digit, so all numbers are rounded to four.

    Args:
        curves: as in ``ladder``.
        none: as in ``ladder``.
        ceiling: as in ``ladder``.
        filter_line: as in ``ladder``.
        metric: name of the vertical axis.
        title: of the figure.
    """
    import plotly.graph_objects as go

    fig = go.Figure()
    for (name, curve), style in zip(curves.items(), looks(curves), strict=True):
        x, y, low, high = _columns(name, curve)
        fig.add_scatter(
            x=x.astype(int).tolist(),
            y=rounded(y),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": rounded(high - y),
                "arrayminus": rounded(y - low),
                "thickness": 1.5,
            },
            name=style.title,
            hovertemplate="L = %{x:,}: %{y:.4f}",
            **plotly_line(style),
        )
    if filter_line:
        x, y = _filter_points(filter_line)
        style = look("filter")
        fig.add_scatter(
            x=x,
            y=rounded(y),
            name=style.title,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": GREY, "dash": "dashdot"},
            hovertemplate="L = %{x:,}: %{y:.4f}",
        )
    _plotly_line_at(fig, ceiling, "ceiling", "dash", "top left")
    _plotly_line_at(fig, none, "no history", "dot", "bottom left")
    every = [v for c in curves.values() for _, mean, seeds in c for v in (mean, *seeds)]
    every += [v for v in (none, ceiling, *(filter_line or {}).values()) if v is not None]
    gap = 0.09 * (max(every) - min(every))
    fig.update_layout(title=title, height=440, hovermode="x unified", legend={"y": 0.97})
    fig.update_xaxes(type="log", title="history length L, events", dtick=1, tickformat=",d")
    fig.update_yaxes(title=metric, tickformat=".3~f")
    fig.update_yaxes(range=rounded([min(every) - gap, max(every) + gap]))
    return fig


def _plotly_line_at(fig: go.Figure, value: float | None, text: str, dash: str, side: str) -> None:
    """A horizontal line with its name and value; nothing where there is no value."""
    if value is not None:
        fig.add_hline(
            y=round(value, 4),
            line_dash=dash,
            line_color=GREY,
            line_width=1.5,
            annotation_text=f"{text} {value:.3f}",
            annotation_position=side,
        )
