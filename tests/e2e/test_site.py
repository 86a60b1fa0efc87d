"""The website as a reader meets it: every page, maths, figures, themes, quizzes, solutions."""

from __future__ import annotations

import html
import inspect
import itertools
import json
import re

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, SITE

from seqlib.metrics import concordance

CHAPTERS = sorted(p.stem for p in (ROOT / "chapters").glob("*.ipynb"))
FIGURES = {"img": "image/png", "plotly": "application/vnd.plotly.v1+json"}
PAGES = [f"chapters/{c}" for c in CHAPTERS]
PAGES += [f"book/{p.stem}" for p in sorted((ROOT / "book").glob("*.md"))] + ["search", "genindex"]
PAGES += [f"book/api/{p.stem}" for p in sorted((ROOT / "book" / "api").glob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_page_loads(page, site, name):
    """No script error, no missing file, nothing from another host (see the page fixture)."""
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    assert page.locator("h1").count() >= 1 or name in ("search", "genindex")


def test_no_page_is_left_out():
    built = {str(p.relative_to(SITE))[:-5] for p in SITE.rglob("*.html")}
    assert set(PAGES) <= built


def test_the_api_reference_shows_each_parameter_on_its_own(page, site):
    page.goto(f"{site}/book/api/seqlib.html")
    entry = page.locator("dl.function:has(> dt[id='seqlib.metrics.concordance'])")
    parameters = entry.locator("dd > dl.field-list > dd").first.locator("li strong")
    assert parameters.all_inner_texts() == list(inspect.signature(concordance).parameters)
    page.goto(f"{site}/book/api/index.html")
    page.locator("article a", has_text="seqlib.search").first.click()
    assert page.locator("article h1").inner_text().startswith("seqlib.search")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_maths_is_set(page, site, chapter):
    page.goto(f"{site}/chapters/{chapter}.html")
    page.locator("mjx-container").first.wait_for(state="attached")
    assert page.locator("mjx-merror").count() == 0


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_plotly_figures_draw_and_follow_the_theme(page, site, chapter):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site}/chapters/{chapter}.html")
    figures = page.locator(".seq-plotly")
    for i in range(figures.count()):
        figures.nth(i).scroll_into_view_if_needed()
        page.wait_for_function(
            "i => document.querySelectorAll('.seq-plotly')[i].dataset.ready === '1'", arg=i
        )
        assert figures.nth(i).locator(".js-plotly-plot .main-svg").count() > 0
        colour = "i => document.querySelectorAll('.js-plotly-plot')[i].layout.font.color"
        assert page.evaluate(colour, i) == "#ddd"


def written_alternatives(chapter: str) -> list[tuple[str, str]]:
    """(kind, alternative text) of every figure in the notebook, in order."""
    notebook = json.loads((ROOT / "chapters" / f"{chapter}.ipynb").read_text())
    outputs = [o.get("data", {}) for c in notebook["cells"] for o in c.get("outputs", [])]
    found = []
    for data, following in itertools.pairwise([*outputs, {}]):
        kind = next((name for name, mime in FIGURES.items() if mime in data), None)
        if kind is None:
            continue
        caption = "".join(following.get("text/html", ""))
        written = re.search(r'class="seq-caption" data-alt="([^"]*)"', caption)
        assert written, f"a figure of {chapter} has no caption"
        found.append((kind, html.unescape(written[1])))
        if kind == "img":  # a picture carries its alternative itself as well
            assert "".join(data["text/plain"]) == found[-1][1]
    return found


def built_alternatives(chapter: str) -> list[tuple[str, str]]:
    """(kind, alternative text) of every figure in the page's HTML, before any script has run."""
    page = BeautifulSoup((SITE / "chapters" / f"{chapter}.html").read_text(), "html.parser")
    figures = page.select(".cell_output img, .cell_output .seq-plotly")
    return [
        ("img", f.get("alt"))
        if f.name == "img"
        else ("plotly", f.get("role") == "img" and f.get("aria-label"))
        for f in figures
    ]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_figures_carry_the_alternative_text_that_was_written(chapter):
    written = written_alternatives(chapter)
    assert len(written) >= 10
    assert built_alternatives(chapter) == written


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_browser_names_each_figure_by_its_alternative(page, site, chapter):
    """Asked of the accessibility tree, after every Plotly figure was drawn over its holder."""
    page.goto(f"{site}/chapters/{chapter}.html")
    for kind, text in written_alternatives(chapter):
        figure = page.get_by_role("img", name=text, exact=True).first
        figure.scroll_into_view_if_needed()
        if kind == "plotly":
            figure.locator(".main-svg").first.wait_for()
            assert figure.get_attribute("aria-label") == text


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_explorer_mounts_and_reacts_to_every_control(page, site, chapter):
    page.goto(f"{site}/chapters/{chapter}.html")
    explorer = page.locator(".seq-explorer").first
    explorer.wait_for()
    explorer.scroll_into_view_if_needed()
    before = explorer.inner_html()
    for control in explorer.locator("input[type=range]").all():
        control.focus()
        page.keyboard.press("ArrowRight")
    for control in explorer.locator("select").all():
        control.select_option(index=1)
    assert explorer.inner_html() != before


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_quiz_answers_back_at_every_choice(page, site, chapter):
    page.goto(f"{site}/chapters/{chapter}.html")
    quiz = page.locator(".seq-quiz")
    quiz.wait_for()
    choices = quiz.locator("button.choice")
    assert quiz.locator(".why:visible").count() == 0
    for i in range(choices.count()):
        choices.nth(i).click()
    assert quiz.locator(".why:visible").count() == choices.count() >= 15
    assert quiz.locator("button.choice[data-ok='1']").count() == 5


def test_a_solution_opens(page, site):
    page.goto(f"{site}/book/solutions.html")
    solution = page.locator("article details").first  # the contents have some of their own
    assert not solution.locator("pre").is_visible()
    solution.locator("summary").click()
    solution.locator("pre").wait_for(state="visible")


def test_search_finds_a_term(page, site):
    page.goto(f"{site}/search.html?q=fatigue")
    page.locator("#search-results li").first.wait_for()


def test_dark_and_light_differ(page, site):
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{site}/book/index.html", wait_until="networkidle")
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_captions_are_dark_in_the_dark(page, site, chapter):
    """The theme's light card under outputs would glare, with the text of the dark page on it."""
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site}/chapters/{chapter}.html", wait_until="networkidle")
    cards = page.locator(".cell_output .text_html, .cell_output .widget-subarea").evaluate_all(
        "all => all.map(e => getComputedStyle(e).backgroundColor)"
    )
    assert cards
    assert set(cards) == {"rgba(0, 0, 0, 0)"}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_code_fits_its_column(page, site, chapter):
    """At a laptop's width no visible line of code or output is cut."""
    page.goto(f"{site}/chapters/{chapter}.html", wait_until="networkidle")
    cut = page.locator("div.highlight pre:visible").evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    )
    assert not cut
