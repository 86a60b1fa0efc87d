"""Figures draw what they were given, in colours that every reader can tell apart."""

from __future__ import annotations

import ast
import base64
import dataclasses
import inspect
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import tiny
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import seqlib
from seqlib import viz
from seqlib.data import toy
from seqlib.data.world import make_world, p_window
from seqlib.models.din import ActivationUnit
from seqlib.models.pooling import max_pool, pool_weights
from seqlib.viz import attention, clusters, events, explorers, scaling, tensors, theme

DARK_PAGE = "#14181d"
CURVES = {
    "mean_pooling": [(10, 0.61, (0.60, 0.62)), (1000, 0.62, (0.62, 0.63))],
    "din": [(10, 0.63, (0.62, 0.64)), (1000, 0.72, (0.71, 0.73))],
}


# --- colours ----------------------------------------------------------------------------------


def linear(color: str) -> np.ndarray:
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""
    low, high = sorted(float(linear(c) @ (0.2126, 0.7152, 0.0722)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.1521, 1.0526, -0.2047], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [
        [0.3673, 0.8607, -0.2280],
        [0.2801, 0.6727, 0.0472],
        [-0.0118, 0.0429, 0.9689],
    ],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def lab(color: str, vision: str) -> np.ndarray:
    """CIE Lab (D65) of a colour as someone with that vision sees it."""
    rgb = np.clip(np.array(VISION[vision]) @ linear(color), 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ rgb / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", [n for n in theme.LOOKS if n not in ("ceiling", "filter")])
def test_every_model_stands_out_on_the_card_and_on_a_dark_page(name):
    assert contrast(viz.color(name), theme.CARD) >= 3
    assert contrast(viz.color(name), DARK_PAGE) >= 3


def test_text_is_readable_on_the_card():
    assert contrast(theme.INK, theme.CARD) >= 7
    assert contrast(theme.SOFT, theme.CARD) >= 4.5


@pytest.mark.parametrize("vision", VISION)
def test_families_can_be_told_apart_with_every_kind_of_vision(vision):
    family = ("item_only", "mean_pooling", "topic_histogram", "din", "transact", "twin")
    for a, b in itertools.combinations(family, 2):
        far = np.linalg.norm(lab(viz.color(a), vision) - lab(viz.color(b), vision))
        assert far > 8, (a, b, vision)
        if far < 15:  # then the marker has to say it too
            assert theme.look(a).marker != theme.look(b).marker, (a, b, vision)


def test_every_registered_model_has_a_look_of_its_own():
    seen = {}
    for name in seqlib.available():
        style = theme.look(name)
        key = (style.color, style.marker)
        assert key not in seen, f"{name} looks like {seen[key]}"
        seen[key] = name


def test_labels_of_experiments_keep_their_models_colour():
    assert viz.color("din[softmax=True]") == viz.color("din (other user)") == viz.color("din")
    assert viz.label("din[softmax=True]") == "DIN, softmax=True"
    assert viz.label("recency_pooling[half_life=7.0,normalise=True]") == (
        "recency pooling, half_life=7.0, normalise=True"
    )
    assert viz.label("din (other user)") == "DIN, other user's history"
    assert theme.look("din (other user)").dash == ":" != theme.look("din").dash
    assert viz.label("something else") == "something else"
    assert [s.color for s in theme.looks(["DIN", "din"])] == [viz.color("din")] * 2


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match=r"no colour is fixed for 'dinn'.*din_similarity"):
        viz.color("dinn")


# --- theme ------------------------------------------------------------------------------------


def test_the_look_stays_inside_its_context():
    before = mpl.rcParams["axes.facecolor"]
    with theme.context():
        assert mpl.rcParams["axes.facecolor"] == theme.CARD
    assert mpl.rcParams["axes.facecolor"] == before
    fig = tensors.lines([0, 1], {"a": [0, 1]}, xlabel="x", ylabel="y")
    assert mpl.rcParams["axes.facecolor"] == before
    assert fig.axes[0].get_facecolor() == mpl.colors.to_rgba(theme.CARD)


def test_use_sets_a_small_plotly_template():
    import plotly.graph_objects as go
    import plotly.io as pio

    with mpl.rc_context():
        viz.use()
        viz.use()
        assert mpl.rcParams["axes.facecolor"] == theme.CARD
    assert pio.renderers.default == "plotly_mimetype"
    assert len(go.Figure().to_json()) < 2_000


def test_rounded_lists():
    assert viz.rounded(np.array([[1 / 3, -1e-9], [2, 3]])) == [[0.3333, 0.0], [2.0, 3.0]]
    assert str(viz.rounded([-1e-9])) == "[0.0]"
    assert viz.rounded(torch.tensor([1, 2])) == [1, 2]
    assert isinstance(viz.rounded((1, 2.0))[0], int)
    assert theme.significant(np.array([123_456.0, 0.000123456])) == [123_500.0, 0.0001235]


def test_importing_figures_loads_neither_widgets_nor_plotly_nor_pyplot():
    code = (
        "import sys, seqlib.viz; "
        "print([m for m in ('anywidget', 'plotly', 'matplotlib.pyplot', 'IPython') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- showing ----------------------------------------------------------------------------------


@pytest.fixture
def displayed(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda x, **kw: shown.append((x, kw)))
    return shown


def a_figure() -> Figure:
    return tensors.bars({"sum": [1, 2], "mean": [0.5, -1]}, ["cooking", "football"])


def test_show_gives_a_picture_its_text_and_a_caption(displayed):
    alt = 'Bars "sum" & <mean>'
    assert viz.show(a_figure(), alt=alt, caption="Sums grow & means don't.") is None
    (data, options), (caption, _) = displayed
    image = base64.b64decode(data["image/png"])
    assert image[:4] == b"\x89PNG"
    assert data["text/plain"] == alt
    assert options["metadata"]["image/png"]["width"] == 691  # 7.2 inches
    assert 'data-alt="Bars &quot;sum&quot; &amp; &lt;mean&gt;"' in caption.data
    assert "Sums grow &amp; means don&#x27;t." in caption.data


def test_show_needs_a_text_alternative(displayed):
    with pytest.raises(ValueError, match="alt is empty"):
        viz.show(a_figure(), alt="  ")
    assert not displayed


def test_a_pyplot_figure_is_not_shown_a_second_time(displayed):
    import matplotlib.pyplot as plt

    fig, _ = plt.subplots()
    viz.show(fig, alt="An empty pair of axes")
    assert not plt.fignum_exists(fig.number)


def test_pictures_are_small_and_the_same_every_time():
    from PIL import Image

    first, second = theme.png(a_figure()), theme.png(a_figure())
    assert first == second
    assert len(first) < 20_000
    image = Image.open(io.BytesIO(first)).convert("RGB")
    assert image.size[0] == int(7.2 * theme.PNG_DPI)
    assert image.getpixel((1, 1)) == tuple(round(255 * x) for x in to_rgb(theme.CARD))


# --- figures ----------------------------------------------------------------------------------


def texts(fig: Figure) -> str:
    return " | ".join(t.get_text() for t in fig.findobj(mpl.text.Text) if t.get_text())


def test_weight_bars_have_the_weights_as_lengths():
    w = [0.5, -0.25, 0.0]
    fig = attention.weight_bars(w, ["a", "b", "c"], notes=["click", "hide", "shown"])
    bars = fig.axes[0].patches
    np.testing.assert_allclose([b.get_width() for b in bars], w)
    assert to_rgb(bars[0].get_facecolor()[:3]) != to_rgb(bars[1].get_facecolor()[:3])
    assert {"a", "b", "c", "click", "hide", "shown"} <= set(texts(fig).split(" | "))
    assert fig.axes[0].yaxis_inverted()  # newest on top
    with pytest.raises(ValueError, match="2 weights for 1 titles"):
        attention.weight_bars([1, 2], ["a"])
    with pytest.raises(ValueError, match="NaN or infinity"):
        attention.weight_bars([np.nan], ["a"])


def test_weight_strip_names_the_heaviest():
    w = np.zeros(50)
    w[[3, 20, 40]] = 1.0, -2.0, 3.0
    fig = attention.weight_strip(w, names=[f"event {i}" for i in range(50)], top=2)
    assert "event 20" in texts(fig)
    assert "event 40" in texts(fig)
    assert "event 3 " not in texts(fig) + " "


def test_heatmap_holds_the_matrix_and_is_centred_when_signed():
    m = np.array([[0.5, -1.0, 0.0]])
    fig = attention.heatmap(m, ["row"], ["a", "b", "c"])
    image = fig.axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), m)
    assert image.get_clim() == (-1.0, 1.0)
    assert attention.heatmap(abs(m), ["row"], ["a", "b", "c"]).axes[0].images[0].get_clim() == (
        0,
        1,
    )
    with pytest.raises(ValueError, match=r"matrix is \(1, 3\); rows and columns name 1 × 2"):
        attention.heatmap(m, ["row"], ["a", "b"])


def test_weight_by_group_says_how_many():
    groups = {"same": np.arange(5.0), "other": np.zeros(3), "hidden": []}
    fig = attention.weight_by_group(groups, xlabel="weight")
    assert {"same  (n = 5)", "hidden  (n = 0)"} <= set(texts(fig).split(" | "))
    assert len(fig.axes[0].patches) == 2
    with pytest.raises(ValueError, match="no weight at all"):
        attention.weight_by_group({"none": []}, xlabel="weight")
    with pytest.raises(ValueError, match="group 'same' has NaN"):
        attention.weight_by_group({"same": [np.nan]}, xlabel="weight")


@pytest.mark.parametrize(
    ("bits", "text"),
    [(0, "shown"), (1, "click"), (3, "click + like"), (8, "hide"), (7, "click + like + share")],
)
def test_actions_as_words(bits, text):
    assert attention.action_text(bits) == text


def test_an_action_without_a_name_is_an_error():
    with pytest.raises(ValueError, match="bit beyond the 4 names"):
        attention.action_text(16)


@pytest.mark.parametrize(
    ("days", "text"),
    [(1e-5, "just now"), (0.01, "14 min"), (0.5, "12 h"), (9, "9 d"), (243, "8 months")],
)
def test_ages_as_words(days, text):
    assert attention.age_text(days) == text


BOXES = {"a": (0, 0, "events", "(B, L)"), "b": (2.6, 0, "tokens", "(B, L, D)")}


def test_flow_shows_names_and_shapes_and_arrows_touch_no_box():
    fig = tensors.flow(BOXES, [("a", "b", "embed")], emphasis=["b"])
    assert {"events", "(B, L)", "tokens", "(B, L, D)", "embed"} <= set(texts(fig).split(" | "))
    (arrow,) = [t for t in fig.axes[0].texts if getattr(t, "arrow_patch", None)]
    assert tensors.BOX_WIDTH / 2 < arrow.xyann[0] < arrow.xy[0] < 2.6 - tensors.BOX_WIDTH / 2
    with pytest.raises(ValueError, match=r"no box \['c'\]; there are \['a', 'b'\]"):
        tensors.flow(BOXES, [("a", "c", "")])


def test_bars_and_lines_check_their_lengths():
    heights = [p.get_height() for p in a_figure().axes[0].patches]
    assert heights == [1, 2, 0.5, -1]
    with pytest.raises(ValueError, match="sum has 1 numbers for 2 axes"):
        tensors.bars({"sum": [1]}, ["a", "b"])
    with pytest.raises(ValueError, match="y has 1 values for 2 values of x"):
        tensors.lines([0, 1], {"y": [0]}, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="vectors is empty"):
        tensors.bars({}, [])


def test_ladder_draws_means_bands_and_reference_lines():
    fig = scaling.ladder(CURVES, none=0.6, ceiling=0.8, filter_line={"10": 0.66, "1000": 0.79})
    ax = fig.axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["DIN"], [0.63, 0.72])
    np.testing.assert_allclose(drawn["filter on the last L"], [0.66, 0.79])
    assert len(ax.collections) == 2  # one band per model
    band = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.62, 0.73)
    assert "ceiling 0.800" in texts(fig)
    assert "no history 0.600" in texts(fig)
    with pytest.raises(ValueError, match="curve of 'din' is empty"):
        scaling.ladder({"din": []})
    with pytest.raises(ValueError, match="needs > 0"):
        scaling.ladder({"din": [(0, 0.6, ())]})


def test_ladder_and_its_plotly_twin_agree():
    flat = scaling.ladder(CURVES, none=0.6, ceiling=0.8)
    hover = json.loads(scaling.ladder_plotly(CURVES, none=0.6, ceiling=0.8).to_json())
    drawn = {line.get_label(): line for line in flat.axes[0].lines}
    for trace in hover["data"]:
        np.testing.assert_allclose(trace["y"], drawn[trace["name"]].get_ydata())
        assert trace["line"]["color"] == drawn[trace["name"]].get_color()
    assert [s["y0"] for s in hover["layout"]["shapes"]] == [0.8, 0.6]


def test_plotly_numbers_are_short_and_the_figure_is_small():
    thirds = {
        n: [(10**k, 0.6 + k / 30, (0.6 + k / 31, 0.6 + k / 29)) for k in range(1, 6)]
        for n in ("mean_pooling", "recency_pooling", "topic_histogram", "din", "din_similarity")
    }
    text = scaling.ladder_plotly(thirds, none=1 / 3, ceiling=2 / 3).to_json()
    assert len(text) < 40_000
    digits = [len(str(y).partition(".")[2]) for t in json.loads(text)["data"] for y in t["y"]]
    assert max(digits) <= 4
    assert text == scaling.ladder_plotly(thirds, none=1 / 3, ceiling=2 / 3).to_json()


def test_the_slider_of_the_cost_figure_holds_every_table_row():
    lengths, candidates = [10, 100, 1000], [1, 500]
    table = {
        n: [[float(c * L * f) for L in lengths] for c in candidates]
        for n, f in (("mean_pooling", 1), ("din", 2048))
    }
    fig = json.loads(scaling.cost_plotly(lengths, candidates, table).to_json())
    steps = fig["layout"]["sliders"][0]["steps"]
    assert [s["label"] for s in steps] == ["1", "500"]
    for i, step in enumerate(steps):
        np.testing.assert_allclose(
            step["args"][0]["y"], [table["mean_pooling"][i], table["din"][i]], rtol=5e-4
        )
    assert [t["y"] for t in fig["data"]] == steps[0]["args"][0]["y"]
    with pytest.raises(ValueError, match=r"din has shape \(1, 3\)"):
        scaling.cost_plotly(lengths, candidates, {"din": [[1, 2, 3]]})


def test_cost_lines_write_the_slope():
    x = [10, 100, 1000]
    fig = scaling.cost_lines(
        x, {"mean_pooling": x, "transact": [n**2 for n in x]}, xlabel="L", ylabel="FLOPs"
    )
    assert {"slope 1.0", "slope 2.0"} <= set(texts(fig).split(" | "))
    with pytest.raises(ValueError, match="not positive"):
        scaling.cost_lines(x, {"din": [0, 1, 2]}, xlabel="L", ylabel="FLOPs")


def test_forest_fills_what_is_clear_of_zero():
    rows = [
        {"a": "din", "b": "mean_pooling", "delta": 0.04, "low": 0.03, "high": 0.05},
        {"a": "max_pooling", "b": "mean_pooling", "delta": 0.0, "low": -0.01, "high": 0.01},
    ]
    rows = [{**r, "over": "users and seeds"} for r in rows]
    fig = scaling.forest(rows, xlabel="difference in AUC", base="mean_pooling")
    points = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert [p.get_markerfacecolor() for p in points] == [viz.color("din"), "#ffffff"]
    assert "against mean pooling" in texts(fig)
    assert "max pooling − mean pooling" in texts(scaling.forest(rows, xlabel="difference"))
    # What leaves the seeds out is never filled, and says so.
    alone = scaling.forest([{**rows[0], "over": "users"}], xlabel="difference", base="mean_pooling")
    points = [line for line in alone.axes[0].lines if line.get_marker() == "o"]
    assert [p.get_markerfacecolor() for p in points] == ["#ffffff"]
    assert "users only" in texts(alone)
    assert "users only" not in texts(fig)
    with pytest.raises(ValueError, match=r"din: 0.04 is outside \[0.05, 0.06\]"):
        scaling.forest([{**rows[0], "low": 0.05, "high": 0.06}], xlabel="difference", base="din")


def test_pareto_joins_what_nothing_else_beats():
    fig = scaling.pareto(
        {"mean_pooling": (10, 0.6), "sum_pooling": (20, 0.59), "din": (100, 0.7)},
        xlabel="FLOPs",
        ylabel="AUC",
    )
    front = fig.axes[0].lines[0]
    np.testing.assert_allclose(front.get_xydata(), [[10, 0.6], [100, 0.7]])
    labels = [t.get_text() for t in fig.axes[0].texts]
    assert sorted(labels) == ["DIN", "mean pooling", "sum pooling"]
    with pytest.raises(ValueError, match="needs > 0"):
        scaling.pareto({"din": (0, 0.6)}, xlabel="FLOPs", ylabel="AUC")


def test_learning_curves_are_running_means():
    loss = np.arange(200.0)
    fig = scaling.learning_curves({"din": loss}, window=50)
    x, y = fig.axes[0].lines[0].get_data()
    assert x[0] == 50
    assert y[0] == pytest.approx(loss[:50].mean(), rel=1e-12)
    assert (x[-1], y[-1]) == (200, loss[-50:].mean())
    assert len(scaling.learning_curves({"din": loss[:7]}).axes[0].lines[0].get_xdata()) == 7


def test_calibration_is_square_with_the_diagonal():
    fig = scaling.calibration({"din": np.array([[0.1, 0.2], [0.5, 0.4]])})
    ax = fig.axes[0]
    assert ax.get_xlim() == ax.get_ylim()
    np.testing.assert_allclose(ax.lines[1].get_xydata(), [[0.1, 0.2], [0.5, 0.4]])


def test_principal_axes_against_the_covariance():
    x = tiny.ramp(40, 6, dtype=torch.float64).numpy() * (5, 3, 2, 1, 1, 1)
    xy, share = clusters.principal_axes(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    for k in (0, 1):
        want = (x - x.mean(0)) @ vectors[:, -1 - k]
        np.testing.assert_allclose(abs(xy[:, k]), abs(want), atol=1e-9)
        assert share[k] == pytest.approx(values[-1 - k] / values.sum())
    flipped, _ = clusters.principal_axes(x * -1)  # the sign is fixed by the axes, not the data
    np.testing.assert_allclose(flipped, -xy, atol=1e-9)
    with pytest.raises(ValueError, match="allow 1 … 6"):
        clusters.principal_axes(x, k=7)


def test_item_map_colours_the_largest_groups_and_keeps_every_item():
    x = tiny.ramp(60, 4, dtype=torch.float64).numpy()
    groups = np.repeat([0, 1, 2], [30, 20, 10])
    fig = clusters.item_map(x, groups, names=["big", "middle", "small"], highlight=2)
    assert sum(len(c.get_offsets()) for c in fig.axes[0].collections) == 60
    shown = [t.get_text() for t in fig.legends[0].get_texts()]
    assert shown == ["other", "big", "middle"]
    with pytest.raises(ValueError, match=r"groups has shape \(59,\)"):
        clusters.item_map(x, groups[1:])


def test_neighbours_of_separate_groups_stay_inside():
    x = np.r_[np.eye(8)[[0] * 6], np.eye(8)[[3] * 6]] + 0.01 * tiny.ramp(12, 8).numpy()
    share, values = clusters.neighbour_shares(x, np.repeat([5, 9], 6), k=3)
    np.testing.assert_array_equal(values, [5, 9])
    np.testing.assert_allclose(share, np.eye(2))
    mixed, _ = clusters.neighbour_shares(x, np.tile([0, 1], 6), k=5)
    np.testing.assert_allclose(mixed.sum(1), 1)
    assert mixed[0, 0] < 0.6
    assert clusters.nearest(x, np.repeat([5, 9], 6), k=3).axes[0].images[0].get_array().max() == 1
    with pytest.raises(ValueError, match="k is 12"):
        clusters.neighbour_shares(x, np.zeros(12), k=12)


def test_similarity_is_the_cosine():
    x = tiny.ramp(5, 3, dtype=torch.float64)
    drawn = clusters.similarity(x.numpy()).axes[0].images[0].get_array()
    want = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    np.testing.assert_allclose(drawn, want, atol=1e-12)


def test_life_line_shades_the_window_and_marks_the_topic():
    days, topics = np.arange(10.0), np.array([3, 1, 3, 1, 2, 3, 1, 1, 3, 2])
    fig = events.life_line(
        days, topics, np.arange(10) % 2 == 0, request_day=10.0, window=4, highlight=3
    )
    ax = fig.axes[0]
    (span,) = ax.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (6.0, 10.0)
    labels = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    assert labels["shown"] + labels["clicked"] == 10
    assert labels["this topic, clicked"] + labels["this topic, not clicked"] == 4
    with pytest.raises(ValueError, match="oldest first"):
        events.life_line(days[::-1], topics, topics > 1)


def test_a_long_life_shows_one_dot_per_day_and_topic():
    days = np.repeat(np.arange(50.0), 100) + np.tile(np.linspace(0, 0.9, 100), 50)
    clicks = np.tile([True, False], 2500)
    fig = events.life_line(days, np.zeros(5000, int), clicks)
    labels = {c.get_label(): len(c.get_offsets()) for c in fig.axes[0].collections}
    assert labels == {"shown": 0, "clicked": 50}


def test_length_histogram_counts_everyone():
    n = [1, 50, 150, 2000]
    fig = events.length_histogram(n, marks=(100,))
    assert sum(p.get_height() for p in fig.axes[0].patches) == 4
    assert "50% beyond 100" in texts(fig)
    with pytest.raises(ValueError, match="never negative"):
        events.length_histogram([-1, 2])


def test_freshness_and_served_know_three_places():
    fig = events.freshness([("state", "nearline", 60), ("tokens", "online", 0)])
    assert "nearline, up to 60 s" in texts(fig)
    assert "online, always fresh" in texts(fig)
    with pytest.raises(ValueError, match="place is 'cloud'"):
        events.freshness([("x", "cloud", 1)])
    fig = events.served([("embed", 0, 3, "online"), ("table", -5, -1, "offline")], budget=10)
    assert [p.get_x() for p in fig.axes[0].patches] == [0, -5]
    with pytest.raises(ValueError, match="before it starts"):
        events.served([("embed", 3, 0, "online")])


# --- explorers --------------------------------------------------------------------------------


def test_packed_numbers_come_back_within_their_step():
    a = tiny.ramp(7, 5, dtype=torch.float64).numpy() * 3
    for bits in (9, 12, 18, 24):
        packed = explorers.pack(a, bits)
        assert abs(explorers.unpack(packed) - a).max() <= 0.501 * packed["scale"]
        assert packed["scale"] <= 1.001 * abs(a).max() / (2 ** (bits - 1) - 1)
        assert len(packed["text"]) == -(-35 * bits // 6)
        json.dumps(packed)
    np.testing.assert_array_equal(
        explorers.unpack(explorers.pack(np.zeros((2, 3)))), np.zeros((2, 3))
    )
    np.testing.assert_array_equal(explorers.unpack([[1.0, 2.0]]), [[1.0, 2.0]])
    with pytest.raises(ValueError, match="NaN"):
        explorers.pack([np.inf])
    with pytest.raises(ValueError, match="bits is 30"):
        explorers.pack([1.0], 30)


def test_explorers_say_what_is_missing_or_too_much():
    with pytest.raises(ValueError, match=r"state lacks \['unit'\]"):
        explorers.DINExplorer({k: [] for k in explorers.DINExplorer._needs if k != "unit"})
    state = explorers.PoolingExplorer.mira().state
    with pytest.raises(ValueError, match=r"over 60,000; give fewer events"):
        explorers.PoolingExplorer({**state, "notes": ["x" * 60_000]})


def test_explorers_print_no_address():
    assert repr(explorers.PoolingExplorer.mira()) == "PoolingExplorer()"


@pytest.mark.parametrize("pool", explorers.POOLS)
@pytest.mark.parametrize(("pads", "masked"), [(0, True), (5, True), (5, False)])
@pytest.mark.parametrize("half_life", [0.5, 30.0])
def test_pooling_explorer_is_seqlibs_pool(pool, pads, masked, half_life):
    state = explorers.PoolingExplorer.mira().state
    got = explorers.pooled_vector(state, pool, pads=pads, masked=masked, half_life=half_life)
    history, _, now = toy.batch()
    padded = history.pad(pads)
    mask = padded.mask if masked else torch.ones_like(padded.mask)
    tokens = torch.cat([toy.vectors(), torch.zeros(pads, 4, dtype=torch.float64)])[None]
    age = (now[:, None] - padded.time) / 86_400
    if pool == "max":
        want = max_pool(tokens, mask)[0]
    else:
        kind, norm = pool.partition(",")[0], pool.endswith("normalised")
        want = (pool_weights(kind, mask, age, half_life, norm)[:, None] @ tokens)[0, 0]
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_pooling_explorer_keeps_old_events_at_any_half_life():
    """The guitar is 240 days old, 7,680 of the shortest half-lives: 2^-a is 0 even in float64."""
    state = explorers.PoolingExplorer.mira().state
    young = [j for j, age in enumerate(state["ages"]) if age < 200]
    got = explorers.pooled_vector(state, "recency, normalised", half_life=2**-5, off=young)
    np.testing.assert_allclose(got, toy.vectors()[len(young)], atol=1e-9)  # a day is 32 half-lives


def test_pooling_explorer_repeats_and_leaves_out():
    state = explorers.PoolingExplorer.mira().state
    one = explorers.pooled_vector(state, "sum", off=[0, 3])
    keep = [j for j in range(12) if j not in (0, 3)]
    np.testing.assert_allclose(one, toy.vectors()[keep].sum(0))
    np.testing.assert_allclose(explorers.pooled_vector(state, "sum", copies=3, off=[0, 3]), 3 * one)
    for pool in ("mean", "max", "recency, normalised"):
        np.testing.assert_allclose(
            explorers.pooled_vector(state, pool, copies=3), explorers.pooled_vector(state, pool)
        )
    with pytest.raises(ValueError, match="pool is 'median'"):
        explorers.pooled_vector(state, "median")


@pytest.mark.parametrize("kind", ["dice", "prelu", "sigmoid"])
@pytest.mark.parametrize("bits", [0, 24])
def test_unit_state_is_the_activation_unit(kind, bits):
    unit = tiny.fill(ActivationUnit(8, (6, 4), kind, n_extra=2), 0.7).double().eval()
    if kind == "dice":
        unit.act1.mean.copy_(tiny.ramp(6)), unit.act2.var.copy_(1.5 + tiny.ramp(4))
    q, k, extra = (tiny.ramp(*s, dtype=torch.float64) for s in ((3, 8), (5, 8), (3, 5, 2)))
    state = {
        "unit": explorers.unit_state(unit.state_dict(), kind=kind, bits=bits),
        "tokens": k.tolist(),
        "candidates": q.tolist(),
        "extra": extra.tolist(),
    }
    with torch.no_grad():
        mask = torch.ones(1, 5, dtype=torch.bool)
        want = unit(q[None], k[None], mask, extra.transpose(0, 1)[None])[0].T
    for c in range(3):
        np.testing.assert_allclose(explorers.din_weights(state, c), want[c], atol=1e-4)
        soft = explorers.din_weights(state, c, softmax=True, off=[1], copies=2)
        keep = [0, 2, 3, 4]
        np.testing.assert_allclose(2 * soft[keep], want[c, keep].softmax(0), atol=1e-4)
        assert soft[1] == 0
    with pytest.raises(ValueError, match="not the state dict of an activation unit"):
        explorers.unit_state({"weight": [1.0]})


def din_explorer(name: str) -> tuple[torch.nn.Module, object, dict]:
    """A ranker with known weights, one request, and the explorer's state for it."""
    model = tiny.fill(seqlib.build(name, tiny.spec(), seed=0), 0.3).eval()
    batch = tiny.request(lengths=(12,))
    with torch.no_grad():
        held, q, extra = model.encoder.prefill(batch), model.items(batch.items.id), None
        if name == "din_similarity":
            extra = model.encoder.similarities(held, batch.items, q)[0].transpose(0, 1)
        features = model.features(batch, model.encoder(batch))[0]
        state = explorers.din_state(
            model.state_dict(), tokens=held.k[0], candidates=q[0], extra=extra,
            features=features, titles=[f"e{j}" for j in range(12)],
            notes=[""] * 12, candidate_titles=["a", "b", "c"],
        )  # fmt: skip
    return model, batch, state


@pytest.mark.parametrize("name", ["din", "din_similarity"])
def test_din_explorers_logit_is_the_rankers(name):
    model, batch, state = din_explorer(name)
    with torch.no_grad():
        whole = model(batch)[0, :, 0]
        mask = batch.events.mask.clone()
        mask[0, [2, 5]] = False  # an event left out keeps its place: the others' ranks stay
        holes = dataclasses.replace(batch, events=dataclasses.replace(batch.events, mask=mask))
        fewer = model(holes)[0, :, 0]
    effect = float((whole - fewer).abs().max())
    for c in range(3):
        assert explorers.din_logit(state, c) == pytest.approx(float(whole[c]), abs=effect / 5)
        got = explorers.din_logit(state, c, off=[2, 5])
        assert got == pytest.approx(float(fewer[c]), abs=effect / 5)


def test_din_state_names_what_does_not_fit():
    _, _, state = din_explorer("din")
    with pytest.raises(ValueError, match="state has no head"):
        explorers.din_logit({k: v for k, v in state.items() if k != "head"}, 0)
    with pytest.raises(ValueError, match="lengths differ"):
        explorers.din_state({}, tokens=np.zeros((2, 4)), candidates=np.zeros((1, 4)), titles=["a"],
                            notes=[""], candidate_titles=["c"])  # fmt: skip
    low_rank = seqlib.build(
        "din", tiny.spec(), ranker=seqlib.models.ranker.RankerConfig(cross_rank=2)
    )
    with pytest.raises(ValueError, match="one full-rank cross layer"):
        explorers.head_state(low_rank.state_dict(), np.zeros((1, 90)), 64, product=True)


@pytest.fixture(scope="module")
def world():
    return make_world("course", seed=0, n_users=30)


def test_life_explorer_is_the_worlds_filter(world):
    row = int(np.argmax(world.test.extra["index_in_life"]))
    picked = [0, 5, 9]
    state = explorers.LifeExplorer.of(world, world.test, {f"c{j}": (row, j) for j in picked}).state
    assert [c["at"] for c in state["candidates"]] == [[row, j] for j in picked]
    for length in (1, 2, 7, 24, 100, 1000, 10_000):
        want = p_window(world, world.test[row : row + 1], length)[0, picked, 0]
        got = [explorers.life_filter(state, i, length)["p"] for i in range(3)]
        np.testing.assert_allclose(got, want, atol=2e-5)
    whole = [explorers.life_filter(state, i, explorers.EVERYTHING)["p"] for i in range(3)]
    np.testing.assert_allclose(whole, world.test.truth[row, picked, 0], atol=2e-5)
    none = [explorers.life_filter(state, i, 0) for i in range(3)]
    np.testing.assert_allclose(
        [n["p"] for n in none], world.test.extra["p_none"][row, picked, 0], atol=2e-6
    )
    assert all(n["used"] == 0 for n in none)
    np.testing.assert_allclose(none[0]["alpha"], world.pi)


def test_life_state_counts_weeks_and_knows_where_windows_begin(world):
    row = int(np.argmax(world.test.extra["index_in_life"]))
    (state,) = explorers.LifeExplorer.of(world, world.test, {"c": (row, 0)}).state["candidates"]
    n = int(world.test.extra["index_in_life"][row])
    days = world.life(int(world.test.user[row])).time[:n]
    assert sum(state["activity"]) == n
    assert len(state["windowDays"]) == len(explorers.LENGTHS) == 63
    at = explorers.LENGTHS.index(100)
    assert state["windowDays"][at] == pytest.approx(days[-100], abs=0.005)
    assert explorers.LENGTHS[1] == 1
    assert explorers.LENGTHS[61] == 10_000


def test_figures_and_explorers_take_arrays_and_know_no_model():
    """An import that only a type checker sees is no dependence."""
    above = {"models", "nn", "train", "evaluate", "serving", "checkpoint"}
    for path in Path(viz.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        typed = [
            n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
        ]
        hidden = {id(n) for block in typed for n in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in hidden:
                names = [*(node.module or "").split("."), *(a.name for a in node.names)]
                if "available" in names:  # titles of models stand on their cards
                    continue
                assert not above & set(names), f"{path.name}: {ast.unparse(node)}"
            if isinstance(node, ast.FunctionDef):
                taken = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
                assert not {"ranker", "encoder", "network"} & set(taken), (
                    f"{path.name}: {node.name}"
                )


def test_an_explorer_has_one_module_beside_its_javascript():
    folder = Path(explorers.__file__).parent
    for name in explorers.__all__:
        if name.endswith("Explorer"):
            source = Path(inspect.getfile(getattr(explorers, name)))
            assert source.parent == folder
            assert source.with_suffix(".js").exists()
    assert not [p for p in folder.glob("*.py") if len(p.read_text().splitlines()) > 450]
