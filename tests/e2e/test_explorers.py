"""What an explorer shows in the browser is what Python computes from the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from conftest import ROOT

import seqlib
from seqlib import trace
from seqlib.data.world import make_world, p_window
from seqlib.viz import explorers
from seqlib.viz.explorers import (
    K_STEPS,
    LENGTHS,
    SEARCHES,
    WINDOWS,
    din_logit,
    din_weights,
    life_filter,
    pooled_vector,
    transact_forward,
    twin_view,
)

STATE = "application/vnd.jupyter.widget-state+json"


def stored(chapter: str, key: str) -> dict:
    """State of the chapter's explorer, from the notebook that the site was built of."""
    (path,) = (ROOT / "chapters").glob(f"{chapter}-*.ipynb")
    models = json.loads(path.read_text())["metadata"]["widgets"][STATE]["state"].values()
    (state,) = [m["state"]["state"] for m in models if key in m["state"].get("state", {})]
    return state


def open_explorer(page, site, chapter: str):
    (path,) = (ROOT / "chapters").glob(f"{chapter}-*.ipynb")
    page.goto(f"{site}/chapters/{path.stem}.html")
    page.locator(".seq-explorer[data-ready='1']").wait_for()
    explorer = page.locator(".seq-explorer")
    explorer.scroll_into_view_if_needed()
    return explorer


def slide(control, value: float) -> None:
    control.evaluate("(i, v) => { i.value = v; i.dispatchEvent(new Event('input')); }", value)


def numbers(explorer, name: str):
    return np.array(json.loads(explorer.get_attribute(f"data-{name}")))


@pytest.mark.parametrize("pool", ["sum", "mean", "max", "recency", "recency, normalised"])
def test_pooling(page, site, pool):
    explorer, state = open_explorer(page, site, "01"), stored("01", "axes")
    explorer.locator("select").select_option(label=pool)
    np.testing.assert_allclose(numbers(explorer, "vector"), pooled_vector(state, pool), atol=1e-9)
    sliders = explorer.locator("input[type=range]")
    slide(sliders.nth(0), 3)  # half-life 8 days
    slide(sliders.nth(1), 10)
    explorer.locator("input[type=checkbox]").uncheck()
    slide(sliders.nth(2), 2)
    explorer.locator("button.name").nth(4).click()
    want = pooled_vector(state, pool, half_life=8, pads=10, masked=False, copies=2, off=[4])
    np.testing.assert_allclose(numbers(explorer, "vector"), want, atol=1e-9)
    scores = np.array(state["candidates"]) @ want
    np.testing.assert_allclose(numbers(explorer, "scores"), scores, atol=1e-9)


def test_pooling_of_old_events_with_the_shortest_half_life(page, site):
    """The guitar alone is over 1,074 half-lives old: 2^-a is 0 even in float64."""
    explorer, state = open_explorer(page, site, "01"), stored("01", "axes")
    explorer.locator("select").select_option(label="recency, normalised")
    slide(explorer.locator("input[type=range]").nth(0), -5)
    recent = [j for j, age in enumerate(state["ages"]) if age < 200]
    for j in recent:
        explorer.locator("button.name").nth(j).click()
    want = pooled_vector(state, "recency, normalised", half_life=2**-5, off=recent)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(numbers(explorer, "vector"), want, atol=1e-9)


@pytest.mark.parametrize("candidate", [0, 3])
@pytest.mark.parametrize("softmax", [False, True])
def test_din(page, site, candidate, softmax):
    explorer, state = open_explorer(page, site, "02"), stored("02", "unit")
    explorer.locator("select").select_option(index=candidate)
    if softmax:
        explorer.locator("input[type=checkbox]").check()
    want = din_weights(state, candidate, softmax=softmax)
    np.testing.assert_allclose(numbers(explorer, "weights"), want, atol=1e-9)
    slide(explorer.locator("input[type=range]"), 3)
    explorer.locator("button.name").nth(2).click()
    want = din_weights(state, candidate, softmax=softmax, copies=3, off=[2])
    np.testing.assert_allclose(numbers(explorer, "weights"), want, atol=1e-9)
    np.testing.assert_allclose(
        float(explorer.get_attribute("data-total")), 3 * want.sum(), atol=1e-9
    )


def same_as_python(root, state, candidate, **options) -> dict:
    """Attention, its mean, and every head in the page are those of the Python reference."""
    want = transact_forward(state, candidate, **options)
    np.testing.assert_allclose(numbers(root, "attention"), want["attention"], atol=1e-9)
    np.testing.assert_allclose(numbers(root, "weights"), want["mean"], atol=1e-9)
    np.testing.assert_allclose(numbers(root, "logits"), want["logits"], atol=1e-9)
    np.testing.assert_allclose(numbers(root, "p"), want["probabilities"], atol=1e-9)
    return want


@pytest.mark.parametrize("candidate", [0, 2])
@pytest.mark.parametrize("strict", [True, False])
def test_transact(page, site, candidate, strict):
    explorer, state = open_explorer(page, site, "03"), stored("03", "layer")
    explorer.get_by_label("candidate").select_option(index=candidate)
    same_as_python(explorer, state, candidate)
    if not strict:
        explorer.get_by_label("mask").select_option(index=1)
    slide(explorer.locator("input[type=range]"), 3)
    explorer.locator("button.name").nth(4).click()
    explorer.get_by_label("all actions count as").select_option(label="hide")
    options = {"kind": "hide", "window": WINDOWS[3], "strict": strict, "off": [4]}
    same_as_python(explorer, state, candidate, **options)


def same_as_twin_view(root, state, candidate, **options) -> dict:
    """Events, weights and everything counted in the page are those of the Python reference."""
    want = twin_view(state, candidate, **options)
    assert numbers(root, "index").tolist() == want["index"].tolist()
    np.testing.assert_allclose(numbers(root, "weights"), want["weights"], atol=1e-12)
    assert numbers(root, "top").tolist() == want["top"].tolist()
    for name in ("hits", "kin", "carried", "oldest", "median"):
        shown = json.loads(root.get_attribute(f"data-{name}"))
        assert shown == (want[name] if want[name] is None else pytest.approx(want[name])), name
    depth = None if want["depth"] is None else want["depth"].tolist()
    assert json.loads(root.get_attribute("data-depth")) == depth
    return want


@pytest.mark.parametrize("search", SEARCHES)
def test_twin(page, site, search):
    explorer, state = open_explorer(page, site, "04"), stored("04", "activity")
    explorer.get_by_label("search").select_option(index=SEARCHES.index(search))
    for i in range(len(state["candidates"])):
        explorer.get_by_label("candidate").select_option(index=i)
        explorer.get_by_label("weights of").select_option(index=0)
        same_as_twin_view(explorer, state, i, search=search)
        slide(explorer.locator("input[type=range]"), 2 * i % len(K_STEPS))
        explorer.get_by_label("weights of").select_option(index=2)
        k = K_STEPS[2 * i % len(K_STEPS)]
        same_as_twin_view(explorer, state, i, k=k, search=search, head=1)
        slide(explorer.locator("input[type=range]"), K_STEPS.index(100))


@pytest.fixture(scope="module")
def whole_world():
    return make_world("course", seed=0)


@pytest.mark.parametrize("step", [0, 18, 30, 45, 60])
def test_life(page, site, whole_world, step):
    """The filter in the browser against the world's own, at several lengths and candidates."""
    explorer = open_explorer(page, site, "00")
    test, length = whole_world.test, LENGTHS[step + 1]
    slide(explorer.locator("input[type=range]"), step)
    for i, line in enumerate(stored("00", "candidates")["candidates"]):
        row, column = line["at"]
        want = p_window(whole_world, test[row : row + 1], length)[0, column, 0]
        explorer.locator("select").select_option(index=i)
        assert float(explorer.get_attribute("data-p")) == pytest.approx(want, abs=2e-5)
        whole = float(test.truth[row, column, 0])
        assert float(explorer.get_attribute("data-whole")) == pytest.approx(whole, abs=2e-5)


# --- without a notebook, a kernel or the site: the module alone, on states made here -----------


PAGE = """<!doctype html><html lang="en" data-theme="THEME"><head><meta charset="utf-8">
<title>explorer</title><style>body { background: BACK } CSS</style></head>
<body><main id="root"></main><script type="module">ESM
const state = STATE;
module.render({ model: { get: k => ({ state })[k], on() {}, set() {}, save_changes() {} },
  el: document.getElementById("root") });
</script></body></html>"""


def mount(page, explorer, theme: str = "light"):
    """An explorer in an empty page, with a stand-in for the widget's model."""
    html = PAGE.replace("CSS", explorer._css).replace("THEME", theme)
    html = html.replace("BACK", "#14181d" if theme == "dark" else "#ffffff")
    html = html.replace("ESM", explorer._esm.replace("export default", "const module ="))
    page.set_content(html.replace("STATE", json.dumps(explorer.state)))
    page.locator("#root[data-ready='1']").wait_for()
    return page.locator("#root")


@pytest.fixture(scope="module")
def world():
    return make_world("course", seed=0, n_users=30)


@pytest.fixture(scope="module")
def life(world):
    row = int(np.argmax(world.test.extra["index_in_life"]))
    picked = {"first": (row, 0), "second": (row, 5), "another user's": (0, 9)}
    return explorers.LifeExplorer.of(world, world.test, picked)


@pytest.fixture(scope="module")
def din():
    model = tiny.fill(seqlib.build("din_similarity", tiny.spec(), seed=0), 0.3).eval()
    request = tiny.request(lengths=(12,))
    with torch.no_grad():
        held, q = model.encoder.prefill(request), model.items(request.items.id)
        extra = model.encoder.similarities(held, request.items, q)[0].transpose(0, 1)
        features = model.features(request, model.encoder(request))[0]
        state = explorers.din_state(
            model.state_dict(), tokens=held.k[0], candidates=q[0], extra=extra,
            features=features, titles=[f"event {j}" for j in range(12)],
            notes=["click, 2 d"] * 12, candidate_titles=["a", "b", "c"],
        )  # fmt: skip
    return explorers.DINExplorer(state)


@pytest.fixture(scope="module")
def transact():
    return explorers.TransActExplorer(tiny.transact_explorer()[2])


@pytest.fixture(scope="module")
def twin():
    model = tiny.fill(seqlib.build("twin", tiny.spec(), seed=0), 0.3)
    request = tiny.request(lengths=(400,))
    return explorers.TwinExplorer.of(trace.run(model, request), request, tiny.spec())


def make(kind: str, request):
    if kind == "pooling":
        return explorers.PoolingExplorer.mira()
    return request.getfixturevalue(kind)


KINDS = ["pooling", "din", "transact", "life", "twin"]


@pytest.mark.parametrize("pool", explorers.POOLS)
def test_pooling_alone(page, site, pool):
    widget = explorers.PoolingExplorer.mira()
    root = mount(page, widget)
    root.locator("select").select_option(label=pool)
    half_life, pads, copies = root.locator("input[type=range]").all()
    slide(half_life, -1.5)
    slide(copies, 3)
    want = pooled_vector(widget.state, pool, half_life=2**-1.5, copies=3)
    np.testing.assert_allclose(numbers(root, "vector"), want, atol=1e-12)
    slide(pads, 20)  # the mask is on: nothing may change
    np.testing.assert_allclose(numbers(root, "vector"), want, atol=1e-12)
    root.get_by_label("use the mask").uncheck()
    slide(half_life, 9)
    for j in (0, 11):
        root.locator("button.name").nth(j).click()
    want = pooled_vector(
        widget.state, pool, half_life=512, pads=20, masked=False, copies=3, off=[0, 11]
    )
    np.testing.assert_allclose(numbers(root, "vector"), want, atol=1e-12)
    weights = numbers(root, "weights")
    if pool != "max":
        recovered = weights.astype(float) @ np.array(widget.state["tokens"])
        np.testing.assert_allclose(recovered, want, atol=1e-12)
        assert weights[0] == weights[11] == 0
    scores = np.array(widget.state["candidates"]) @ want
    assert numbers(root, "order").tolist() == np.argsort(-scores, kind="stable").tolist()


def test_pooling_with_nothing_left_says_so(page, site):
    root = mount(page, explorers.PoolingExplorer.mira())
    for name in root.locator("button.name").all():
        name.click()
    assert numbers(root, "vector").tolist() == [0, 0, 0, 0]
    assert "No event is left" in root.inner_text()
    root.get_by_role("button", name="start again").click()
    assert "No event is left" not in root.inner_text()
    assert numbers(root, "vector").sum() > 0


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("candidate", [0, 2])
def test_din_alone(page, site, din, candidate, softmax):
    root = mount(page, din)
    root.locator("select").select_option(index=candidate)
    if softmax:
        root.get_by_label("softmax").check()
    slide(root.locator("input[type=range]"), 4)
    root.locator("button.name").nth(3).click()
    options = {"softmax": softmax, "copies": 4, "off": [3]}
    want = din_weights(din.state, candidate, **options)
    np.testing.assert_allclose(numbers(root, "weights"), want, atol=1e-12)
    logit = din_logit(din.state, candidate, **options)
    assert float(root.get_attribute("data-logit")) == pytest.approx(logit, abs=1e-9)
    v = 4 * want @ explorers.unpack(din.state["tokens"])
    assert float(root.get_attribute("data-length")) == pytest.approx(float(np.linalg.norm(v)))
    worth = {
        j: logit - din_logit(din.state, candidate, **{**options, "off": [3, j]})
        for j in range(12)
        if j != 3
    }
    most = sorted(worth, key=lambda j: -abs(worth[j]))[:4]
    assert numbers(root, "top").tolist() == most


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("step", [0, 4, len(WINDOWS) - 1])
def test_transact_alone(page, site, transact, step, strict):
    root, state = mount(page, transact), transact.state
    root.get_by_label("mask").select_option(index=0 if strict else 1)
    slide(root.locator("input[type=range]"), step)
    options = {"window": WINDOWS[step], "strict": strict}
    for i in range(3):
        root.get_by_label("candidate").select_option(index=i)
        same_as_python(root, state, i, **options)
    for j in (0, 7):
        root.locator("button.name").nth(j).click()
    root.get_by_label("all actions count as").select_option(label="hide")
    options |= {"kind": "hide", "off": [0, 7]}
    want = same_as_python(root, state, 2, **options)
    worth = {}
    for j in set(range(12)) - {0, 7}:
        less = transact_forward(state, 2, **{**options, "off": [0, 7, j]})
        worth[j] = want["logits"][0] - less["logits"][0]
    most = sorted((j for j in worth if abs(worth[j]) > 1e-9), key=lambda j: -abs(worth[j]))[:4]
    assert numbers(root, "top").tolist() == most


def test_transact_with_everything_hidden_reads_the_learned_vector(page, site, transact):
    root = mount(page, transact)
    for name in root.locator("button.name").all():
        name.click()
    want = same_as_python(root, transact.state, 0, off=range(12))
    assert want["attention"].sum() == 0
    assert "Nothing is visible" in root.inner_text()


def test_the_window_hides_altogether_or_as_keys_only(page, site, transact):
    """Change what was done by a hidden event: strict heads stay, the authors' move."""
    root = mount(page, transact)
    slide(root.locator("input[type=range]"), len(WINDOWS) - 1)  # all twelve events are younger
    before = numbers(root, "logits")
    root.get_by_label("all actions count as").select_option(label="hide")
    assert numbers(root, "logits").tolist() == before.tolist()
    root.get_by_label("mask").select_option(index=1)
    hide = numbers(root, "logits")
    root.get_by_label("all actions count as").select_option(label="click")
    assert np.abs(numbers(root, "logits") - hide).max() > 1e-3


def test_repeating_the_history_moves_the_sum_and_not_the_softmax(page, site, din):
    root = mount(page, din)
    before = float(root.get_attribute("data-total"))
    slide(root.locator("input[type=range]"), 3)
    assert float(root.get_attribute("data-total")) == pytest.approx(3 * before)
    root.get_by_label("softmax").check()
    assert float(root.get_attribute("data-total")) == pytest.approx(1)
    length = root.get_attribute("data-length")
    slide(root.locator("input[type=range]"), 5)
    assert float(root.get_attribute("data-length")) == pytest.approx(float(length))


@pytest.mark.parametrize("step", [-1, 0, 7, 21, 30, 45, 60, 61])
def test_life_alone(page, site, life, step):
    root = mount(page, life)
    slide(root.locator("input[type=range]"), step)
    for i in range(3):
        root.locator("select").select_option(index=i)
        want = life_filter(life.state, i, LENGTHS[step + 1])
        assert float(root.get_attribute("data-p")) == pytest.approx(want["p"], abs=1e-12)
        np.testing.assert_allclose(numbers(root, "alpha"), want["alpha"], atol=1e-12)
        assert int(root.get_attribute("data-used")) == want["used"]
        whole = life_filter(life.state, i, explorers.EVERYTHING)["p"]
        assert float(root.get_attribute("data-whole")) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("search", SEARCHES)
def test_twin_alone(page, site, twin, search):
    root = mount(page, twin)
    root.get_by_label("search").select_option(index=SEARCHES.index(search))
    for i in range(3):
        root.get_by_label("candidate").select_option(index=i)
        for head in (None, 3):
            root.get_by_label("weights of").select_option(index=0 if head is None else head + 1)
            for k in (5, 40, 200):
                slide(root.locator("input[type=range]"), K_STEPS.index(k))
                want = same_as_twin_view(root, twin.state, i, k=k, search=search, head=head)
                assert root.locator("svg .found").count() == len(want["index"])
                assert root.get_by_role("listitem").count() == len(want["top"])
    root.get_by_role("button", name="start again").click()
    same_as_twin_view(root, twin.state, 0)


def test_twin_without_a_find_says_so(page, site, twin):
    state = json.loads(json.dumps(twin.state))
    kin = state["candidates"][0]["kin"]
    state["candidates"][0]["kin"] = {**kin, "text": "A" * len(kin["text"]), "zero": 2}
    root = mount(page, explorers.TwinExplorer(state))
    root.get_by_label("search").select_option(index=SEARCHES.index("hard"))
    assert numbers(root, "index").tolist() == []
    assert "Nothing was found" in root.inner_text()
    root.get_by_label("search").select_option(index=SEARCHES.index("newest"))
    assert "Nothing was found" not in root.inner_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_has_a_name_and_works_from_the_keyboard(page, site, kind, request):
    root = mount(page, make(kind, request))
    nameless = """all => all.filter(e => !(e.getAttribute('aria-label') || e.labels?.length
        || e.textContent.trim())).length"""
    assert root.locator("input, select, button").evaluate_all(nameless) == 0
    slider = root.locator("input[type=range]").last
    slider.focus()
    before = root.inner_html()
    page.keyboard.press("ArrowRight")
    assert root.inner_html() != before
    assert slider.get_attribute("aria-valuetext")
    if kind not in ("life", "twin"):
        name = root.locator("button.name").nth(1)
        name.focus()
        assert name.get_attribute("aria-pressed") == "true"
        page.keyboard.press("Enter")
        assert name.get_attribute("aria-pressed") == "false"
        assert name.evaluate("e => e === document.activeElement")  # the focus stays where it was
        page.keyboard.press("Enter")
        assert name.get_attribute("aria-pressed") == "true"


CONTRASTS = """root => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = c => {
    canvas.fillStyle = c;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => rgb(c).reduce((s, v, i) => s + linear(v / 255) * [.2126, .7152, .0722][i], 0);
  const style = getComputedStyle(root), card = light(style.backgroundColor);
  const ratio = c => (Math.max(light(c), card) + .05) / (Math.min(light(c), card) + .05);
  const of = name => ratio(style.getPropertyValue(name).trim());
  const marks = ["--plus", "--minus", "--accent"].map(of);
  return { text: ratio(style.color), dim: of("--dim"), mark: Math.min(...marks) };
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out_in_both_themes(page, site, theme):
    found = mount(page, explorers.PoolingExplorer.mira(), theme).evaluate(CONTRASTS)
    assert found["text"] >= 7
    assert found["dim"] >= 4.5
    assert found["mark"] >= 3


def test_jupyterlabs_dark_theme_is_followed(page, site):
    root = mount(page, explorers.PoolingExplorer.mira())
    shade = "e => getComputedStyle(e).backgroundColor"
    light = root.evaluate(shade)
    page.evaluate("document.documentElement.removeAttribute('data-theme')")
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert root.evaluate(shade) != light
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    page.emulate_media(color_scheme="dark")  # Lab's own choice wins over the system's
    assert root.evaluate(shade) == light


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_page_needs_no_sideways_scrolling(page, site, kind, request):
    page.set_viewport_size({"width": 390, "height": 800})
    mount(page, make(kind, request))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
