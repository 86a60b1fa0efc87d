"""The website's extension: a figure's text alternative comes from its own caption, or is missed."""

from __future__ import annotations

import pytest
from docutils import nodes
from docutils.utils import new_document

import seqsite
from seqlib import viz

PLOT = '<div class="seq-plotly" style="min-height:450px"><script>{}</script></div>'


def caption(text, monkeypatch):
    """What viz.show writes below a figure."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *objects, **_: shown.extend(objects))
    viz.show("figure", alt=text, caption="what it shows")
    return nodes.raw(text=shown[-1].data, format="html")


def cell(*outputs):
    return nodes.container("", *outputs, nb_element="cell_code_output")


def describe(*cells):
    document = new_document("page")
    document.extend(cells)
    seqsite.TextAlternatives(document).run()
    return document


@pytest.fixture
def warnings(monkeypatch):
    heard = []
    monkeypatch.setattr(seqsite.LOGGER, "warning", lambda message, **_: heard.append(message))
    return heard


def test_each_figure_gets_the_text_of_the_caption_that_follows_it(monkeypatch, warnings):
    one, two = nodes.image(uri="1.png"), nodes.raw(text=PLOT, format="html")
    words = ["a line & a point", 'bars, "tall" <first>']
    first, second = (caption(text, monkeypatch) for text in words)
    describe(cell(nodes.container("", one), first, two, second))
    assert one["alt"] == words[0]
    label = 'aria-label="bars, &quot;tall&quot; &lt;first&gt;"'
    assert two.astext() == PLOT.replace('plotly"', f'plotly" role="img" {label}', 1)
    assert not warnings


def test_a_figure_without_a_caption_of_its_own_is_warned_of(monkeypatch, warnings):
    bare, shown = nodes.image(uri="1.png"), nodes.image(uri="2.png")
    describe(cell(bare), cell(shown, caption("a line", monkeypatch)), cell(nodes.paragraph()))
    assert "alt" not in bare
    assert shown["alt"] == "a line"
    assert warnings == ["a figure has no text alternative; use viz.show"]
