"""The website's side of the course: Plotly figures and widgets without a kernel and without a CDN.

Every figure gets the text alternative that its chapter wrote, when the site is built: it needs no
script. Imports neither torch nor seqlib; autodoc imports them for the API reference.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from . import docstrings

PLOTLY = "application/vnd.plotly.v1+json"
PLOTLY_DIV = '<div class="seq-plotly"'
CAPTION = re.compile(r'class="seq-caption" data-alt="([^"]*)"')  # as seqlib.viz.show writes it
LOGGER = logging.getLogger(__name__)


class PlotlyRenderer:
    """myst-nb plug-in: a stored Plotly figure becomes a ``div`` with its JSON, drawn by seqsite.js."""

    mime_priority_overrides = (("html", PLOTLY, 5),)

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """Take Plotly output, leave everything else to the other renderers."""
        if inline or data.mime_type != PLOTLY:
            return None
        figure = data.content if isinstance(data.content, dict) else json.loads(data.content)
        kept = {k: figure[k] for k in ("data", "layout", "frames") if k in figure}
        body = json.dumps(kept, separators=(",", ":")).replace("</", "<\\/")
        height = int(figure.get("layout", {}).get("height", 450))
        text = (
            f'{PLOTLY_DIV} style="min-height:{height}px">'
            f'<script type="application/json">{body}</script></div>'
        )
        return [nodes.raw(text=text, format="html")]


class TextAlternatives(SphinxPostTransform):
    """Gives each figure the alternative text that stands on its caption.

    A caption is the output that follows its figure in the same cell. A figure without one is
    warned of, and the build takes warnings as errors.
    """

    default_priority = 10  # myst-nb has chosen between the forms of an output before, at 4
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Cell by cell, so that no caption reaches into another cell."""
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code_output":
                self._describe(cell)

    def _describe(self, cell: nodes.container) -> None:
        waiting: list[nodes.Element] = []
        for node in list(cell.findall(nodes.Element)):
            raw = node.astext() if isinstance(node, nodes.raw) else ""
            if isinstance(node, nodes.image) or raw.startswith(PLOTLY_DIV):
                waiting.append(node)
            elif waiting and (caption := CAPTION.search(raw)):
                _set_alternative(waiting.pop(), html.unescape(caption[1]))
        for figure in waiting:
            LOGGER.warning("a figure has no text alternative; use viz.show", location=figure)


def _set_alternative(figure: nodes.Element, text: str) -> None:
    if isinstance(figure, nodes.image):
        figure["alt"] = text
        return
    label = f'{PLOTLY_DIV} role="img" aria-label="{html.escape(text)}"'
    figure[:] = [nodes.Text(figure.astext().replace(PLOTLY_DIV, label, 1))]


def _copy_plotly(app: Any, error: Exception | None) -> None:
    """plotly.min.js from the installed wheel into the site."""
    if error is None and app.builder.format == "html":
        import plotly

        source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
        shutil.copyfile(source, Path(app.outdir) / "_static" / "plotly.min.js")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's entry."""
    static = str(Path(__file__).parent / "static")
    app.connect("builder-inited", lambda a: a.config.html_static_path.append(static))
    app.connect("build-finished", _copy_plotly)
    app.add_post_transform(TextAlternatives)
    if "sphinx.ext.autodoc" in app.extensions:
        # Before napoleon, whose priority is the usual 500: it turns sections into fields.
        app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.add_js_file("seqsite.js")
    app.add_css_file("seqsite.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
