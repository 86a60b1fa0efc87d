"""Chapters are MyST text in chapters/src; the notebooks readers open carry the outputs.

python tools/nb.py run [NAMES] [--all]   execute what changed (or the named chapters) and store outputs
python tools/nb.py check                 fail if a notebook is missing, stale, unexecuted or has errors
python tools/nb.py pull NAMES            after an edit in JupyterLab: inputs back into the text
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCES, NOTEBOOKS = ROOT / "chapters" / "src", ROOT / "chapters"
RUNS = ROOT / "book" / "runs.json"
FORMAT, KERNEL = "md:myst", {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = ("tags", "mystnb")
STATE = "application/vnd.jupyter.widget-state+json"
MAX_SECONDS, MAX_BYTES = 150, 600_000


def chapters(names: list[str]) -> list[tuple[Path, Path]]:
    """(text, notebook) of the named chapters, or of all."""
    texts = sorted(SOURCES.glob("*.md"))
    if names:
        stems = {Path(n).stem for n in names}
        if missing := stems - {t.stem for t in texts}:
            raise SystemExit(f"no chapter {sorted(missing)}; there are {[t.stem for t in texts]}")
        texts = [t for t in texts if t.stem in stems]
    return [(t, NOTEBOOKS / f"{t.stem}.ipynb") for t in texts]


def read_text(path: Path) -> Any:
    """The notebook without outputs; a cell's id comes from its text, so ids survive insertions."""
    notebook = jupytext.read(path, fmt=FORMAT)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}:{cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = f"{digest}-{seen[digest]}"
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def write_text(notebook: Any) -> str:
    """The one text form of a notebook's inputs."""
    notebook = nbformat.from_dict(dict(notebook))
    header = {"extension": ".md", "format_name": "myst"}
    notebook["metadata"] = {"kernelspec": KERNEL, "jupytext": {"text_representation": header}}
    for cell in notebook.cells:
        cell["metadata"] = {k: v for k, v in cell.metadata.items() if k in KEPT}
    text = jupytext.writes(nbformat.from_dict(notebook), fmt=FORMAT)
    return re.sub(r"^    (jupytext|format)_version:.*\n", "", text, flags=re.M)


def inputs(notebook: Any) -> list[tuple[str, str, str]]:
    """What an author writes: kind, source, kept metadata of every cell."""
    return [
        (c.cell_type, c.source, json.dumps({k: c.metadata[k] for k in KEPT if k in c.metadata}))
        for c in notebook.cells
    ]


def execute(notebook: Any, timeout: int) -> float:
    """Run all cells in ``chapters``; returns seconds."""
    from nbclient import NotebookClient

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    started = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    return time.perf_counter() - started


def normalise(notebook: Any, name: str) -> str:
    """Same inputs and results, same bytes: no timings, random widget ids or addresses."""
    kept = {k: v for k, v in notebook.metadata.items() if k in ("kernelspec", "widgets")}
    kept["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    notebook["metadata"] = nbformat.from_dict(kept)
    for cell in notebook.cells:
        kept = {k: v for k, v in cell.metadata.items() if k in KEPT}
        if "hide-input" in kept.get("tags", ()):  # the site reads the tag, JupyterLab this
            kept["jupyter"] = {"source_hidden": True}
        cell["metadata"] = nbformat.from_dict(kept)
    widgets = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    shown = nbformat.writes(nbformat.from_dict({**notebook, "metadata": {}}))
    order, todo = [], re.findall(r'"model_id": "([0-9a-f]{32})"', shown)
    while todo:  # what an output shows, and what that refers to, in order of first mention
        model = todo.pop(0)
        if model in widgets and model not in order:
            order.append(model)
            todo += re.findall(r"IPY_MODEL_([0-9a-f]{32})", json.dumps(widgets[model]))
    order += [m for m, s in widgets.items() if m not in order and "Link" in s["model_name"]]
    if widgets:
        notebook.metadata["widgets"][STATE]["state"] = {m: widgets[m] for m in order}
    text = nbformat.writes(notebook)
    for at, model in enumerate(order):
        text = text.replace(model, hashlib.md5(f"{name}:{at}".encode()).hexdigest())
    text = re.sub(r"(?<= at )0x[0-9a-f]{6,}", "0x0", text)
    return nbformat.writes(nbformat.reads(text, 4)).rstrip("\n") + "\n"


def stale(text: Path, notebook: Path) -> str:
    """Why a notebook has to be executed again, or an empty string."""
    if not notebook.exists():
        return "there is no notebook"
    stored = nbformat.read(notebook, 4)
    if inputs(stored) != inputs(read_text(text)):
        return "its inputs differ from the text"
    if write_text(stored) != text.read_text():
        return "the text is not in its one form (python tools/nb.py pull NAME)"
    code = [c for c in stored.cells if c.cell_type == "code" and c.source.strip()]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        return "it was not executed from top to bottom"
    if any(o.output_type == "error" for c in code for o in c.outputs):
        return "an output is an error"
    return ""


def run(pairs: list[tuple[Path, Path]], force: bool, timeout: int) -> int:
    """Execute, store, and note seconds and size."""
    facts = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    too_much = 0
    for text, path in pairs:
        if not force and not stale(text, path):
            print(f"fresh  {path.name}")
            continue
        notebook = read_text(text)
        spent = execute(notebook, timeout)
        body = normalise(notebook, text.stem)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(body)
        partial.replace(path)
        if text.read_text() != write_text(notebook):
            text.write_text(write_text(notebook))
        size = len(body.encode())
        facts[text.stem] = {"seconds": round(spent, 1), "bytes": size}
        over = spent > MAX_SECONDS or size > MAX_BYTES
        too_much += over
        print(f"ran    {path.name} in {spent:.0f} s, {size / 1000:.0f} kB{'  TOO MUCH' * over}")
    RUNS.parent.mkdir(exist_ok=True)
    RUNS.write_text(json.dumps(dict(sorted(facts.items())), indent=1) + "\n")
    return too_much


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "check", "pull"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--all", action="store_true", help="run also what is fresh")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one cell")
    options = parser.parse_args()
    pairs = chapters(options.names)
    if options.what == "run":
        return int(run(pairs, options.all or bool(options.names), options.timeout) > 0)
    if options.what == "pull":
        for text, notebook in pairs:
            text.write_text(write_text(nbformat.read(notebook, 4)))
        return 0
    reasons = {notebook.name: stale(text, notebook) for text, notebook in pairs}
    known = {notebook for _, notebook in pairs}
    reasons |= {p.name: "it has no text" for p in NOTEBOOKS.glob("*.ipynb") if p not in known}
    for name, why in reasons.items():
        print(f"{'STALE ' if why else 'fresh '} {name} {why}")
    return int(any(reasons.values()))


if __name__ == "__main__":
    sys.exit(main())
