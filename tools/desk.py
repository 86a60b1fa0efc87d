"""The learner's desk: an own copy of every chapter, made once and never overwritten.

python tools/desk.py lab [OPTIONS]    copy the chapters that are missing there, then open JupyterLab
python tools/desk.py fresh CHAPTER    put a fresh copy of a chapter, e.g. 02, beside the learner's

OPTIONS go to JupyterLab. The desk is the folder ``my-course``, which git ignores; tests, website and
tools/nb.py read the originals in ``chapters`` only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

import nbformat
from nbformat.sign import NotebookNotary

ROOT = Path(__file__).resolve().parent.parent
ORIGINALS, DESK = ROOT / "chapters", ROOT / "my-course"


def chapters() -> list[Path]:
    """The original notebooks, in order."""
    return sorted(ORIGINALS.glob("[0-9][0-9]*.ipynb"))


def copy(original: Path, target: Path) -> bool:
    """Copy a notebook unless something is there; False says that something was."""
    body = original.read_bytes()
    try:
        with target.open("xb") as file:  # x: fails where a file is, whoever made it
            file.write(body)
    except FileExistsError:
        return False
    with NotebookNotary() as notary:  # trusted: explorers and quizzes live before a cell is run
        notary.sign(nbformat.reads(body.decode(), 4))
    return True


def executed_with(notebook: Path) -> str | None:
    """Which inputs of its chapter a notebook comes from; None where that can't be told."""
    try:
        return json.loads(notebook.read_text())["metadata"]["course"]["inputs"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def lay_out() -> list[str]:
    """Copy the chapters that the desk lacks; returns what the learner should know."""
    DESK.mkdir(exist_ok=True)
    news = []
    if made := [path.stem for path in chapters() if copy(path, DESK / path.name)]:
        news.append(f"{DESK.name}/ is yours: {', '.join(made)} copied, never to be overwritten.")
    for original in chapters():
        mine = [DESK / original.name, *DESK.glob(f"{original.stem}.*.ipynb")]
        if executed_with(original) not in map(executed_with, mine):
            news.append(
                f"{original.stem} has changed since your copy was made: "
                f"`make fresh CHAPTER={original.stem[:2]}` puts the new one beside it."
            )
    return news


def fresh(name: str) -> Path:
    """A copy of the chapter under the first free name: 02-din.ipynb, 02-din.2.ipynb, …

    Raises:
        SystemExit: there is no such chapter.
    """
    stem = Path(name).name.removesuffix(".ipynb")
    stem = stem.zfill(2) if stem.isdigit() else stem
    found = [p for p in chapters() if stem in (p.stem, p.stem[:2])]
    if not found:
        there = ", ".join(p.stem for p in chapters())
        raise SystemExit(f"no chapter {name!r}; `make fresh CHAPTER=02` takes one of: {there}")
    DESK.mkdir(exist_ok=True)
    names = itertools.chain([found[0].stem], (f"{found[0].stem}.{n}" for n in itertools.count(2)))
    return next(DESK / f"{n}.ipynb" for n in names if copy(found[0], DESK / f"{n}.ipynb"))


def open_lab(options: list[str]) -> None:
    """Become JupyterLab, at the learner's first chapter."""
    command = [sys.executable, "-m", "jupyterlab", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += [f"--LabApp.default_url=/lab/tree/{DESK.name}/{chapters()[0].name}"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    os.chdir(ROOT)
    os.execv(sys.executable, [*command, *options])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["lab", "fresh"])
    parser.add_argument("chapter", nargs="?", default="")
    options, for_lab = parser.parse_known_args()
    if options.what == "fresh":
        print(f"{fresh(options.chapter).relative_to(ROOT)} is fresh; what you had is as it was.")
        return
    for line in lay_out():
        print(line, flush=True)
    open_lab(for_lab)


if __name__ == "__main__":
    main()
