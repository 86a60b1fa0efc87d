"""One look for every figure: colours fixed by model, readable on light and dark pages.

Pictures are drawn on a pale card that stands well on a white and on a black page; the website puts
Plotly figures on its own background. The colours are those of Okabe and Ito's palette for
colour-blind readers, moved to a middle lightness that stands out on pale and on dark; markers and
dashes repeat what the colour says.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..models import available

CARD = "#f8f8f5"
INK = "#20242a"
SOFT = "#5d646d"
GRID = "#dcdcd6"
BLUE = "#0072b2"
ORANGE = "#c07c00"
GREEN = "#00875f"
VERMILION = "#d04f00"
SKY = "#2f93d0"
PURPLE = "#9445dd"
OLIVE = "#7d7a00"
BROWN = "#96633a"
GREY = "#767b82"

BLACK = INK
RED = VERMILION
BEHIND = {"facecolor": CARD, "edgecolor": "none", "pad": 1.0, "alpha": 0.85}  # of texts over lines

CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, OLIVE, BROWN, GREY)
SEQUENTIAL = LinearSegmentedColormap.from_list("seq", [CARD, "#9cc7e0", BLUE, "#06334f"])
DIVERGING = LinearSegmentedColormap.from_list(
    "seq_div", [VERMILION, "#efb48e", CARD, "#8fc0de", BLUE]
)


@dataclass(frozen=True)
class Look:
    """How one model is drawn: what a reader calls it, its colour, marker and dash."""

    title: str
    color: str
    marker: str = "o"
    dash: str = "-"


# Lines that have no card: references, and systems whose chapters are still to come.
_NO_CARD = {
    "none": "no history",
    "ceiling": "ceiling",
    "filter": "filter on the last L",
    "longer": "LONGER",
    "transact_v2": "TransAct V2",
    "twin_v2": "TWIN V2",
    "dv365": "DV365",
    "hstu": "HSTU",
}

# One colour, marker and dash per model of the course; the order is that of the chapters.
_STYLES: Mapping[str, tuple[str, ...]] = {
    "none": (GREY, "", ":"),
    "ceiling": (INK, "", "--"),
    "filter": (SOFT, "", "-."),
    "item_only": (GREY, "s"),
    "sum_pooling": (SKY, "P"),
    "mean_pooling": (BLUE, "o"),
    "max_pooling": ("#5a6fd0", "^"),
    "recency_pooling": ("#1a8a98", "v"),
    "topic_histogram": (GREEN, "D"),
    "din": (VERMILION, "o"),
    "din_code": ("#b55a3c", "s"),
    "din_similarity": ("#e0602f", "^"),
    "daily": (OLIVE, "o"),
    "transact": (PURPLE, ">"),
    "transact_paper": ("#8457b5", "s"),
    "transact_code": ("#a07ad0", "o"),
    "transact_hybrid": ("#9060c8", "P"),
    "bst": ("#b07c1a", "s"),
    "bst_positive": ("#a8741c", "^"),
    "cnn": ("#3f8fb5", "X"),
    "rnn": ("#33878f", "P"),
    "lstm": ("#2f7f95", "D"),
    "sim_hard": (BROWN, "<"),
    "sim_cluster": (BROWN, "^"),
    "sim_soft_joint": (BROWN, ">"),
    "sim_soft_pretrained": (BROWN, "v"),
    "eta": ("#7d6a2f", "D"),
    "sdim": ("#94803f", "p"),
    "twin": ("#d83fc4", "s"),
    "twin_evidence": ("#d83fc4", "o"),
    "longer": (OLIVE, "p"),
    "transact_v2": ("#ae63c4", "^"),
    "twin_v2": ("#b2559f", "^"),
    "dv365": ("#4a8a3a", "X"),
    "hstu": ("#6a6fd8", "*"),
}


def _looks() -> dict[str, Look]:
    """A model is called what its card calls it; there is no second title."""
    cards = available()
    return {
        name: Look(cards[name].title if name in cards else _NO_CARD[name], *style)
        for name, style in _STYLES.items()
    }


LOOKS: Mapping[str, Look] = _looks()

MARKERS: Mapping[str, str] = {name: entry.marker for name, entry in LOOKS.items() if entry.marker}

_PLOTLY_DASH = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_PLOTLY_MARKER = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "D": "diamond",
    "P": "cross",
    "X": "x",
    "*": "star",
    "<": "triangle-left",
    ">": "triangle-right",
    "p": "pentagon",
    "": "circle",
}

RC: Mapping[str, Any] = {
    "figure.facecolor": CARD,
    "axes.facecolor": CARD,
    "savefig.facecolor": CARD,
    "figure.figsize": (7.2, 3.8),
    "figure.dpi": 100,
    "savefig.dpi": 130,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "axes.prop_cycle": mpl.cycler(color=CYCLE),
    "image.cmap": "viridis",
    "svg.hashsalt": "seqlib",
    "figure.constrained_layout.use": True,
}


def use() -> None:
    """Give matplotlib and Plotly the course's look, in this process. Call once per notebook."""
    mpl.rcParams.update(RC)
    use_plotly()


@contextmanager
def context() -> Iterator[None]:
    """The look inside a ``with`` block only; what was set before comes back."""
    with mpl.rc_context(dict(RC)):
        yield


def themed(draw):
    """Decorator: draw a matplotlib figure in the course's look, whatever the process has set."""

    @functools.wraps(draw)
    def inside(*args, **kwargs):
        with context():
            return draw(*args, **kwargs)

    return inside


def use_plotly() -> None:
    """Register the small Plotly template "seq" (the stock one adds 750 lines to each figure)."""
    import plotly.io as pio
    from plotly import graph_objects as go

    faint = "rgba(128,128,128,.28)"  # on pale and on dark
    line = {"gridcolor": faint, "zerolinecolor": faint, "linecolor": GREY}
    knob = {"bgcolor": GREY, "activebgcolor": SKY, "bordercolor": GREY, "tickcolor": GREY}
    layout = go.Layout(
        paper_bgcolor=CARD,
        plot_bgcolor=CARD,
        font={"color": INK, "size": 13},
        colorway=list(CYCLE),
        margin={"t": 56, "l": 64, "r": 24, "b": 56},
        xaxis=line,
        yaxis=line,
        legend={"bgcolor": "rgba(0,0,0,0)"},
        sliderdefaults=knob,
        title={"x": 0.02, "xanchor": "left", "font": {"size": 16}},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": INK}},
    )
    pio.templates["seq"] = go.layout.Template(layout=layout)
    pio.templates.default = "seq"
    pio.renderers.default = "plotly_mimetype"


# --- colours by name --------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str, bool]:
    """ "din[softmax=True] (other user)" -> ("din", "softmax=True", True)."""
    other = name.endswith(" (other user)")
    name = name.removesuffix(" (other user)")
    match = re.fullmatch(r"([\w ]+)(?:\[(.*)\])?", name)
    base, options = match.groups() if match else (name, None)
    return base, options or "", other


def look(name: str) -> Look:
    """The fixed look of a model, baseline or reference line.

    Args:
        name: a key of ``LOOKS``, or a label of an experiment made from one, such as
            "din[softmax=True]" or "din (other user)"; another user's history is drawn dotted.

    Raises:
        ValueError: an unknown name; the message lists what there is.
    """
    base, options, other = _split(name)
    if base not in LOOKS:
        raise ValueError(f"no colour is fixed for {name!r}; there are {', '.join(LOOKS)}")
    found = LOOKS[base]
    title = found.title + (f", {options.replace(',', ', ')}" if options else "")
    title += ", other user's history" if other else ""
    return Look(title, found.color, found.marker, ":" if other else found.dash)


def color(name: str) -> str:
    """The fixed colour of a model, as "#rrggbb". Raises ValueError for an unknown name."""
    return look(name).color


def label(name: str) -> str:
    """What a reader calls the model; a name without a look is returned as it is."""
    return look(name).title if _split(name)[0] in LOOKS else name


def looks(names) -> list[Look]:
    """Looks for several series; names without one get the cycle's colours in turn.

    A model may be named by its key or by what ``label`` makes of it.
    """
    keys = {entry.title: key for key, entry in LOOKS.items()}
    found = []
    free = 0
    for name in names:
        name = keys.get(str(name), str(name))
        if _split(name)[0] in LOOKS:
            found.append(look(name))
        else:
            found.append(Look(name, CYCLE[free % len(CYCLE)], "osD^vPX*"[free % 8]))
            free += 1
    return found


def plotly_line(style: Look) -> dict[str, Any]:
    """Line and marker of a Plotly scatter trace in a model's look."""
    return {
        "mode": "lines+markers" if style.marker else "lines",
        "line": {"color": style.color, "width": 2, "dash": _PLOTLY_DASH[style.dash]},
        "marker": {"symbol": _PLOTLY_MARKER[style.marker], "size": 7},
    }


# --- figures ----------------------------------------------------------------------------------


def canvas(width: float, height: float, columns: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure that no notebook shows by itself, and its axes. Sizes in inches."""
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    fig.get_layout_engine().set(w_pad=0.09, h_pad=0.08)
    return fig, fig.subplots(1, columns, **kwargs)


def plain(ax: Axes, grid: str = "y") -> None:
    """Leave grid lines on one axis only: "x", "y", "both" or "" for none."""
    ax.grid(False)
    if grid:
        ax.grid(True, axis=grid)  # type: ignore[arg-type]


def log_ticks(axis, values) -> None:
    """Label a logarithmic axis with plain numbers: 10, 100, 1,000."""
    axis.set_major_locator(mpl.ticker.FixedLocator(list(values)))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axis.set_minor_locator(mpl.ticker.NullLocator())


def numbers(values, name: str, ndim: int | None = None) -> np.ndarray:
    """Values as float64.

    Raises:
        ValueError: the wrong number of axes, no values, or NaN or infinity among them.
    """
    out = np.asarray(values, dtype=np.float64)
    if ndim is not None and out.ndim != ndim:
        raise ValueError(f"{name} has shape {out.shape}; it must have {ndim} axes")
    if not out.size:
        raise ValueError(f"{name} is empty; there is nothing to draw")
    if not np.isfinite(out).all():
        raise ValueError(f"{name} has NaN or infinity; every value must be finite")
    return out


def same_length(**sequences) -> None:
    """Raise ValueError unless all given sequences (None is skipped) have one length."""
    sizes = {k: len(v) for k, v in sequences.items() if v is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"lengths differ: {sizes}; they must be equal")


def rounded(values, digits: int = 4) -> Any:
    """Nested lists of floats with few digits: small in a notebook, equal from machine to machine.

    Integers stay integers, −0.0 becomes 0.0; arrays of any shape and nested lists are accepted.
    """
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [rounded(v, digits) for v in values]
    if isinstance(values, float):
        return round(values, digits) + 0.0
    return values


def significant(values, digits: int = 4) -> Any:
    """As ``rounded``, with that many significant digits; for numbers over many magnitudes."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [significant(v, digits) for v in values]
    return float(f"{values:.{digits}g}") if isinstance(values, float) else values


# --- showing ----------------------------------------------------------------------------------

PNG_DPI = 112
CSS_DPI = 96


def png(fig: Figure, dpi: int = PNG_DPI) -> bytes:
    """The picture as PNG with a palette of 256 colours: a third of the bytes, no visible loss."""
    from PIL import Image

    raw = io.BytesIO()
    small = io.BytesIO()
    with context():
        fig.savefig(raw, format="png", dpi=dpi, facecolor=CARD)
    image = Image.open(raw).convert("RGB")
    image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def show(fig: Any, *, alt: str, caption: str = "") -> None:
    """Show a figure in a notebook, with the text that says what is in it and what it means.

    The caption follows as an output of its own and carries the alternative text in ``data-alt``;
    the website puts it on the figure when it is built, and refuses a figure without one. Where
    there is no picture, the alternative text is shown.

    Args:
        fig: a matplotlib or Plotly figure.
        alt: what is to be seen, for readers who can't see it.
        caption: the conclusion, in a sentence.

    Raises:
        ValueError: ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("alt is empty; say what the figure shows, for readers who can't see it")
    from IPython.display import HTML, display

    if isinstance(fig, Figure):
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(fig)  # else the notebook shows it once more
        image = base64.b64encode(png(fig)).decode()
        width = round(fig.get_figwidth() * CSS_DPI)
        display(
            {"image/png": image, "text/plain": alt},
            raw=True,
            metadata={"image/png": {"width": width}},
        )
    else:
        display(fig)
    text = html.escape(caption) if caption else ""
    display(HTML(f'<p class="seq-caption" data-alt="{html.escape(alt)}"><em>{text}</em></p>'))
