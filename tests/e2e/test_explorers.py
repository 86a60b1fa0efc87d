"""What an explorer shows in the browser is what Python computes from the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ROOT

from seqlib.viz.explorers import din_weights, pooled_vector

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


@pytest.mark.parametrize("step", [0, 18, 30, 45, 60])
def test_life(page, site, step):
    """The filter in the browser against the world's own, at several lengths and candidates."""
    from seqlib.data.world import make_world, p_window

    explorer = open_explorer(page, site, "00")
    state = stored("00", "candidates")
    world = make_world("course", seed=0)
    row, picked = state["request"], state["picked"]
    length = round(10 ** (step / 15))
    want = p_window(world, world.test[row : row + 1], length)[0, picked, 0]
    slide(explorer.locator("input[type=range]"), step)
    for i, p in enumerate(want):
        explorer.locator("select").select_option(index=i)
        assert float(explorer.get_attribute("data-p")) == pytest.approx(p, abs=2e-5)
        whole = float(world.test.truth[row, picked[i], 0])
        assert float(explorer.get_attribute("data-whole")) == pytest.approx(whole, abs=2e-5)
