"""Chapters are MyST text in chapters/src; the notebooks readers open carry the outputs.

python tools/nb.py run [NAMES] [--all]   execute what changed (or the named chapters) and store outputs
python tools/nb.py check                 fail if a notebook is missing, stale, unexecuted or has errors
python tools/nb.py pull NAMES            after an edit in JupyterLab: inputs back into the text

A notebook notes which inputs it was executed with. So an edit that stands only in the notebook, or
only in the text, is known, and neither `run` nor `pull` overwrites it unless told to --discard it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCES, NOTEBOOKS = ROOT / "chapters" / "src", ROOT / "chapters"
RUNS = ROOT / "book" / "runs.json"
FORMAT, KERNEL = "md:myst", {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = ("tags", "mystnb")
NOTE = "course"  # in a notebook's metadata: its chapter, and which inputs it was executed with
STATE = "application/vnd.jupyter.widget-state+json"
MAX_SECONDS, MAX_BYTES = 150, 600_000  # seconds of CPU, so that a busy machine is no fault


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


def digest(notebook: Any) -> str:
    """One word for all inputs of a notebook."""
    return hashlib.sha256(json.dumps(inputs(notebook)).encode()).hexdigest()[:16]


def executed_with(notebook: Any) -> str:
    """The digest of the inputs it was executed with, or an empty string where it has no note."""
    return notebook.metadata.get(NOTE, {}).get("inputs", "")


def edit_at_risk(text: Path, notebook: Path) -> str:
    """What executing would lose: an edit that stands in the notebook only; else an empty string."""
    if not notebook.exists():
        return ""
    stored = nbformat.read(notebook, 4)
    in_text, in_notebook = digest(read_text(text)), digest(stored)
    if in_notebook in (in_text, executed_with(stored)):
        return ""
    return (
        f"chapters/{notebook.name} was edited itself: keep that with "
        f"`python tools/nb.py pull {text.stem}`, or drop it with "
        f"`python tools/nb.py run {text.stem} --discard`"
    )


def execute(notebook: Any, timeout: int) -> float:
    """Run all cells in ``chapters``; returns seconds of CPU."""
    from nbclient import NotebookClient

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the kernel has ended and is counted
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def normalise(notebook: Any, name: str) -> str:
    """Same inputs and results, same bytes: no timings, random widget ids or addresses."""
    kept = {k: v for k, v in notebook.metadata.items() if k in ("kernelspec", "widgets")}
    kept["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    kept[NOTE] = {"chapter": name, "inputs": digest(notebook)}
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
    if edit := edit_at_risk(text, notebook):
        return edit
    if inputs(stored) != inputs(read_text(text)):
        return "its inputs differ from the text"
    if executed_with(stored) != digest(stored):
        return "its inputs are not those that it was executed with"
    if write_text(stored) != text.read_text():
        return "the text is not in its one form (python tools/nb.py pull NAME)"
    code = [c for c in stored.cells if c.cell_type == "code" and c.source.strip()]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        return "it was not executed from top to bottom"
    if any(o.output_type == "error" for c in code for o in c.outputs):
        return "an output is an error"
    return ""


def run(pairs: list[tuple[Path, Path]], force: bool, discard: bool, timeout: int) -> int:
    """Execute, store, and note seconds and size.

    Raises:
        SystemExit: a notebook holds an edit that would be lost; nothing was executed.
    """
    if not discard:
        refuse(edit_at_risk(*pair) for pair in pairs)
    facts = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    too_much = 0
    for text, path in pairs:
        if not force and not stale(text, path):
            print(f"fresh  {path.name}")
            continue
        notebook = read_text(text)
        spent = execute(notebook, timeout)
        if not discard:  # it may have been edited while it ran
            refuse([edit_at_risk(text, path)])
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


def pull(pairs: list[tuple[Path, Path]], discard: bool) -> None:
    """Inputs of edited notebooks back into their texts.

    Raises:
        SystemExit: a text holds an edit that would be lost; nothing was written.
    """
    stored = {text: nbformat.read(path, 4) for text, path in pairs}
    edited = {text: nb for text, nb in stored.items() if inputs(nb) != inputs(read_text(text))}
    if not discard:
        refuse(
            f"chapters/src/{text.name} was edited too: `python tools/nb.py run {text.stem}` takes "
            f"the text's inputs, `python tools/nb.py pull {text.stem} --discard` the notebook's"
            for text, notebook in edited.items()
            if digest(read_text(text)) != executed_with(notebook)
        )
    for text, notebook in stored.items():
        text.write_text(write_text(notebook))


def refuse(reasons: Iterable[str]) -> None:
    """End the program if there is a reason to; all of them are said."""
    if said := [reason for reason in reasons if reason]:
        raise SystemExit("\n".join(said))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "check", "pull"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--all", action="store_true", help="run also what is fresh")
    parser.add_argument("--discard", action="store_true", help="overwrite edits of the named ones")
    parser.add_argument("--timeout", type=int, default=3000, help="seconds for one cell")
    options = parser.parse_args()
    if options.discard and not options.names:
        parser.error("--discard needs the names of the chapters whose edits may go")
    pairs = chapters(options.names)
    if options.what == "run":
        force = options.all or bool(options.names)
        return int(run(pairs, force, options.discard, options.timeout) > 0)
    if options.what == "pull":
        pull(pairs, options.discard)
        return 0
    reasons = {notebook.name: stale(text, notebook) for text, notebook in pairs}
    known = {notebook for _, notebook in pairs}
    reasons |= {p.name: "it has no text" for p in NOTEBOOKS.glob("*.ipynb") if p not in known}
    for name, why in reasons.items():
        print(f"{'STALE ' if why else 'fresh '} {name} {why}")
    return int(any(reasons.values()))


if __name__ == "__main__":
    sys.exit(main())
