"""The website's side of the course: Plotly figures and widgets without a kernel and without a CDN.

Imports neither torch nor seqlib; autodoc imports them for the API reference.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes

from . import docstrings

PLOTLY = "application/vnd.plotly.v1+json"


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
        html = (
            f'<div class="seq-plotly" style="min-height:{height}px">'
            f'<script type="application/json">{body}</script></div>'
        )
        return [nodes.raw(text=html, format="html")]


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
    if "sphinx.ext.autodoc" in app.extensions:
        # Before napoleon, whose priority is the usual 500: it turns sections into fields.
        app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.add_js_file("seqsite.js")
    app.add_css_file("seqsite.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
