"""Write the website's generated pages: solutions, data, status, API. Run before the site is built."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CLAIM = re.compile(r"⟨[^⟩]+⟩")
PACKAGES = ("torch", "numpy", "numba", "pyarrow", "jupyterlab", "jupyter-book", "plotly", "nbval")


def solutions() -> str:
    """Every solution in a closed drop-down, taken from the files that the tests run."""
    out = [
        "# Solutions",
        "",
        "Each function below is run against its exercise's check by the tests.",
    ]
    for path in sorted((ROOT / "solutions").glob("ch*.py")):
        source = path.read_text()
        tree = ast.parse(source)
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        used = "\n".join(ast.unparse(n) for n in imports)
        out += ["", f"## Chapter {path.stem[2:]}", "", f"```python\n{used}\n```"]
        for node in tree.body:
            doc = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if doc and (found := re.match(r"(E\d\d\.\d+)", doc)):
                code = ast.get_source_segment(source, node)
                out += ["", f":::{{dropdown}} {found[1]} · `{node.name}`"]
                out += [f"```python\n{code}\n```", ":::"]
    return "\n".join(out) + "\n"


def data() -> str:
    """data/README.md as a page; its links to files beside it become downloads."""
    text = (ROOT / "data" / "README.md").read_text()
    return re.sub(
        r"\[([^\]]+)\]\((?!\w+:|#)([^)]+)\)",
        lambda m: f"{{download}}`{m[1].strip('`')} <../data/{m[2]}>`",
        text,
    )


def status() -> str:
    """Versions, commit, seconds and claims per chapter."""
    runs = json.loads((BOOK / "runs.json").read_text())
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h, %cs"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    out = [
        "# Status",
        "",
        "Every output on this site was stored by executing the chapters; the tests execute",
    ]
    out += ["them again and compare. This page is written when the site is built.", ""]
    out += [f"Commit: {commit or 'not in a repository'}. Python {sys.version.split()[0]}.", ""]
    out += ["| chapter | CPU seconds to run | size, kB | cells run | claims checked | notebook |"]
    out += ["|---|---|---|---|---|---|"]
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        run = runs.get(path.stem, {})
        code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        shown = json.dumps([c["outputs"] for c in code], ensure_ascii=False)
        out.append(
            f"| {path.stem} | {run.get('seconds', '–')} | {path.stat().st_size / 1000:.0f} | "
            f"{len(code)} | {len(CLAIM.findall(shown))} | {{download}}`{path.name} <../chapters/{path.name}>` |"
        )
    out += ["", "| package | version |", "|---|---|"]
    out += [f"| {name} | {version(name).split('+')[0]} |" for name in PACKAGES]
    return "\n".join(out) + "\n"


def packages() -> dict[str, list[str]]:
    """Page of the API reference -> its public modules; what lies in ``seqlib`` itself comes first."""
    found: dict[str, list[str]] = {"seqlib": []}
    for path in sorted((ROOT / "seqlib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if any(part.startswith("_") for part in parts):
            continue
        is_package = (ROOT / "seqlib" / parts[1]).is_dir() if len(parts) > 1 else False
        page = parts[1] if is_package else "seqlib"
        found.setdefault(page, []).append(".".join(parts))
    return found


def api_index() -> str:
    """What there is, with the first sentence of each package."""
    out = ["# API reference", "", "Made from the docstrings of `seqlib`, one page per package.", ""]
    for page in packages():
        folder = ROOT / "seqlib" / ("" if page == "seqlib" else page)
        doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        title = "seqlib" if page == "seqlib" else f"seqlib.{page}"
        out.append(f"- [`{title}`]({page}.md): {doc.split(chr(10) * 2)[0]}")
    return "\n".join(out) + "\n"


def api_page(page: str, modules: list[str]) -> str:
    """Everything public in the modules of one package."""
    out = [f"# {'seqlib' if page == 'seqlib' else f'seqlib.{page}'}"]
    for module in modules:
        is_page = module in ("seqlib", f"seqlib.{page}")
        out += ["", "```{eval-rst}", f".. automodule:: {module}"]
        if not is_page:
            out[-2:-2] = [f"## `{module}`", ""]
            # What a module only hands on is described where it is defined, once.
            out += ["   :members:", "   :ignore-module-all:"]
        out.append("```")
    return "\n".join(out) + "\n"


def write(path: Path, text: str) -> None:
    """Only if it changed, so that a warm build stays quick."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main() -> None:
    """Write every page."""
    for name, make in (("solutions", solutions), ("data", data), ("status", status)):
        write(BOOK / f"{name}.md", make())
    write(BOOK / "api" / "index.md", api_index())
    for page, modules in packages().items():
        write(BOOK / "api" / f"{page}.md", api_page(page, modules))


if __name__ == "__main__":
    main()
