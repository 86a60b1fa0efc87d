"""What length buys and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..results import is_clear
from .theme import (
    BEHIND,
    CARD,
    GREY,
    INK,
    SOFT,
    canvas,
    log_ticks,
    look,
    looks,
    numbers,
    plain,
    plotly_line,
    rounded,
    significant,
    themed,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

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
        curves: model -> [(L, mean, values per seed), …]. none, ceiling: horizontal lines.
        filter_line: L -> value of the exact filter on the last L events.
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
    for key, value, above in (("ceiling", ceiling, True), ("none", none, False)):
        if value is not None:
            style = look(key)
            ax.axhline(value, color=style.color, lw=1.4, ls=style.dash)
            ax.annotate(f"{style.title} {value:.3f}", (0.01, value), fontsize=9, color=style.color,
                        xycoords=("axes fraction", "data"), xytext=(0, 3 if above else -3),
                        textcoords="offset points", va="bottom" if above else "top")  # fmt: skip
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
            x=x, y=rounded(y), name=style.title, mode="lines+markers", marker={"size": 4},
            line={"color": GREY, "dash": "dashdot"}, hovertemplate="L = %{x:,}: %{y:.4f}",
        )  # fmt: skip
    for value, text, dash, side in (
        (ceiling, "ceiling", "dash", "top left"),
        (none, "no history", "dot", "bottom left"),
    ):
        if value is not None:
            fig.add_hline(
                y=round(value, 4), line_dash=dash, line_color=GREY, line_width=1.5,
                annotation_text=f"{text} {value:.3f}", annotation_position=side,
            )  # fmt: skip
    every = [v for c in curves.values() for _, mean, seeds in c for v in (mean, *seeds)]
    every += [v for v in (none, ceiling, *(filter_line or {}).values()) if v is not None]
    gap = 0.09 * (max(every) - min(every))
    fig.update_layout(title=title, height=440, hovermode="x unified", legend={"y": 0.97})
    fig.update_xaxes(type="log", title="history length L, events", dtick=1, tickformat=",d")
    fig.update_yaxes(title=metric, tickformat=".3~f")
    fig.update_yaxes(range=rounded([min(every) - gap, max(every) + gap]))
    return fig


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
        x: (n,) > 0, e.g. lengths. lines: name -> (n,) > 0; FLOPs, bytes, milliseconds.
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
    ax.figure.canvas.draw()  # settles the axes, so that data can be turned into points
    points = 72 / ax.figure.dpi
    last = -np.inf
    for y, text, color in sorted(ends):
        at = float(ax.transData.transform((x, y))[1]) * points
        shift = max(last + gap - at, 0.0)
        last = at + shift
        ax.annotate(text, (x, y), xytext=(8, shift), textcoords="offset points", va="center",
                    fontsize=9, color=color, annotation_clip=False)  # fmt: skip


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
        flops: model -> (len(candidates), len(lengths)) FLOPs (or bytes, with ``ylabel``).
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
            x=list(lengths), y=significant(table[0]), name=style.title,
            hovertemplate="L = %{x:,}: %{y:.3s}", **plotly_line(style),
        )  # fmt: skip
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
def forest(
    differences: Sequence[Mapping[str, Any]], *, xlabel: str, title: str = "", base: str = ""
) -> Figure:
    """Paired differences with their 95 % intervals; hollow where the difference is not clear of 0.

    Args:
        differences: each with ``a`` (name), ``delta``, ``low``, ``high`` and what the interval is
            ``over``, see ``results.is_clear``; and ``b`` where there is no common ``base``.

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
        clear = is_clear(d)
        ax.plot([d["low"], d["high"]], [row, row], color=style.color, lw=2.6,
                solid_capstyle="butt")  # fmt: skip
        ax.plot(d["delta"], row, "o", ms=7.5, color=style.color, mew=1.8,
                mfc=style.color if clear else "#ffffff")  # fmt: skip
        names.append(style.title if base else f"{style.title} − {looks([d['b']])[0].title}")
        text = f"{d['delta']:+.4f}  [{d['low']:+.4f}, {d['high']:+.4f}]".replace("-", "−")
        if d.get("over") != "users and seeds":
            text += "  users only"
        ax.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), fontsize=8.5,
                    va="center", color=INK if clear else SOFT)  # fmt: skip
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
        values: name -> (seeds,). references: name -> where a vertical line stands, e.g. no history.

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
        ax.annotate(f"{x.mean():.4f}".replace("-", "−"), (1.01, row), va="center", fontsize=8.5,
                    xycoords=("axes fraction", "data"), color=INK)  # fmt: skip
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
        points: model -> (cost > 0, quality). ceiling: a dashed line.
    """
    if not points:
        raise ValueError("points is empty; there is nothing to draw")
    fig, ax = canvas(7.4, 4.0)
    best, front = -np.inf, []
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
        ax.annotate(f"ceiling {ceiling:.3f}", (0.01, ceiling), (0, 3), fontsize=9, va="bottom",
                    xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel)
    _point_labels(ax, placed, [s.title for s in looks(points)], [s.color for s in looks(points)])
    ax.set_title(title)
    return fig


def _point_labels(ax, points, texts, colors) -> None:
    """A name beside each point: above, below, right or left, where no other name or point is."""
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    spots = [ax.transData.transform(p) for p in points]
    taken: list[Any] = []
    choices = ((9, 0, "left", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
               (-9, 0, "right", "center"))  # fmt: skip
    for spot, point, text, color in zip(spots, points, texts, colors, strict=True):
        fewest = None
        for dx, dy, ha, va in choices:
            note = ax.annotate(text, point, (dx, dy), textcoords="offset points", ha=ha, va=va,
                               fontsize=9, color=color, bbox=BEHIND)  # fmt: skip
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


@themed
def learning_curves(
    losses: Mapping[str, Sequence[float]], *, window: int = 50, title: str = ""
) -> Figure:
    """Training loss against steps, each point the mean of the last ``window`` steps.

    Args:
        losses: model -> loss of every step. A shorter run is averaged over a tenth of its steps.
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
    """
    fig, ax = canvas(5.4, 4.4)
    arrays = {k: numbers(v, k, 2) for k, v in tables.items()}
    top = max(float(t[:, :2].max()) for t in arrays.values()) * 1.06
    ax.plot([0, top], [0, top], color=SOFT, lw=1.2, ls="--")
    ax.annotate("perfect", (top * 0.93, top * 0.93), (-4, 6), textcoords="offset points",
                fontsize=9, color=SOFT, ha="right")  # fmt: skip
    for (_, t), style in zip(arrays.items(), looks(arrays), strict=True):
        ax.plot(t[:, 0], t[:, 1], marker=style.marker or "o", color=style.color, lw=1.4,
                label=style.title)  # fmt: skip
    ax.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    ax.grid(True)
    ax.set(xlabel="mean prediction of the bin", ylabel="mean label of the bin")
    ax.set_title(title)
    ax.legend(loc="lower right")
    return fig
