"""Copy the browser files that the website needs out of node_modules and the wheels."""

from __future__ import annotations

import shutil
from pathlib import Path

import anywidget

ROOT = Path(__file__).resolve().parent.parent
MODULES, OUT = ROOT / "node_modules", ROOT / "book" / "_vendor"


def copy(source: Path, target: str) -> None:
    """A file or a folder, to a path inside the vendor folder."""
    goal = OUT / target
    goal.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, goal, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, goal)


def main() -> None:
    """Everything anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    copy(MODULES / "mathjax" / "es5" / "tex-chtml.js", "mathjax/tex-chtml.js")
    copy(MODULES / "mathjax" / "es5" / "output", "mathjax/output")
    copy(
        MODULES / "mathjax" / "es5" / "input" / "tex" / "extensions", "mathjax/input/tex/extensions"
    )
    copy(MODULES / "mathjax" / "es5" / "sre", "mathjax/sre")
    copy(MODULES / "requirejs" / "require.js", "requirejs/require.js")
    manager = MODULES / "@jupyter-widgets" / "html-manager" / "dist"
    copy(manager / "embed-amd.js", "widgets/embed-amd.js")
    for font in manager.glob("*.woff2"):  # looked up beside the names of the two AMD modules
        for folder in ("@jupyter-widgets", "@jupyter-widgets/html-manager/dist"):
            copy(font, f"widgets/{folder}/{font.name}")
    copy(Path(anywidget.__file__).parent / "nbextension" / "index.js", "widgets/anywidget.js")
    (OUT / "widgets" / "require-config.js").write_text(
        "// widget modules come from this site\n"
        "require.config({baseUrl: new URL('.', document.currentScript.src).href});\n"
    )


if __name__ == "__main__":
    main()
