"""What a learner writes is never lost: the desk's copies, and edits of the originals."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from seqlib.viz.quiz import Quiz

ROOT = Path(__file__).resolve().parent.parent
TEXT = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

```{{code-cell}}
answer = 41
```

```{{code-cell}}
print(answer)
```
"""
ANSWER = "answer = 42  # mine"


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def count_cells(notebook, timeout):
    """In place of a kernel: every code cell was executed and printed nothing."""
    code = [c for c in notebook.cells if c.cell_type == "code"]
    for at, cell in enumerate(code, start=1):
        cell.execution_count = at
    return 0.0


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A course of two short chapters with the tools of this one, and Jupyter's data elsewhere."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    root = tmp_path / "clone"
    (root / "tools").mkdir(parents=True)
    (root / "chapters" / "src").mkdir(parents=True)
    for name in ("nb.py", "desk.py"):
        shutil.copy(ROOT / "tools" / name, root / "tools")
    made = SimpleNamespace(
        root=root,
        nb=module(root / "tools" / "nb.py"),
        desk=module(root / "tools" / "desk.py"),
        text=lambda stem: root / "chapters" / "src" / f"{stem}.md",
        original=lambda stem: root / "chapters" / f"{stem}.ipynb",
        mine=lambda name: root / "my-course" / f"{name}.ipynb",
    )
    monkeypatch.setattr(made.nb, "execute", count_cells)
    for stem in ("00-first", "01-second"):
        write_chapter(made, stem)
    return made


def write_chapter(clone, stem, title=None):
    clone.text(stem).write_text(TEXT.format(title=title or stem))
    tool(clone, "run")


def tool(clone, *arguments):
    """tools/nb.py in this process; its exit status."""
    before = sys.argv
    sys.argv = ["nb.py", *arguments]
    try:
        return clone.nb.main()
    finally:
        sys.argv = before


def change(path, how):
    notebook = nbformat.read(path, 4)
    how(notebook)
    nbformat.write(notebook, path)
    return path.read_bytes()


def write_answer(notebook):
    notebook.cells[1].source = ANSWER


# --- the desk -------------------------------------------------------------------------------------


def test_the_desk_is_laid_out_once_and_what_is_written_there_stays(clone):
    (news,) = clone.desk.lay_out()
    assert news == "my-course/ is yours: 00-first, 01-second copied, never to be overwritten."
    for stem in ("00-first", "01-second"):
        assert clone.mine(stem).read_bytes() == clone.original(stem).read_bytes()
    written = change(clone.mine("00-first"), write_answer)
    assert clone.desk.lay_out() == []
    assert clone.mine("00-first").read_bytes() == written


def test_a_changed_chapter_is_told_of_until_its_fresh_copy_lies_beside(clone):
    clone.desk.lay_out()
    written = change(clone.mine("00-first"), write_answer)
    write_chapter(clone, "00-first", "A better first chapter")
    (news,) = clone.desk.lay_out()
    assert news.startswith("00-first has changed since your copy was made: `make fresh CHAPTER=00`")
    assert clone.desk.fresh("00") == clone.mine("00-first.2")
    assert "A better first chapter" in clone.mine("00-first.2").read_text()
    assert clone.mine("00-first").read_bytes() == written
    assert clone.desk.lay_out() == []


def test_new_results_of_the_same_chapter_are_no_change(clone):
    clone.desk.lay_out()
    change(clone.original("00-first"), lambda n: n.cells[1].outputs.append(
        nbformat.v4.new_output("stream", text="another machine")))  # fmt: skip
    assert clone.desk.lay_out() == []


def test_a_chapter_that_was_added_is_copied_to_a_desk_in_use(clone):
    clone.desk.lay_out()
    write_chapter(clone, "02-third")
    (news,) = clone.desk.lay_out()
    assert news == "my-course/ is yours: 02-third copied, never to be overwritten."


@pytest.mark.parametrize("name", ["1", "01", "01-second", "01-second.ipynb"])
def test_fresh_copies_are_numbered_and_none_is_overwritten(clone, name):
    made = [clone.desk.fresh(name).name for _ in range(3)]
    assert made == ["01-second.ipynb", "01-second.2.ipynb", "01-second.3.ipynb"]


@pytest.mark.parametrize("name", ["", "7", "second"])
def test_an_unknown_chapter_is_refused_with_those_there_are(clone, name):
    with pytest.raises(SystemExit, match=f"no chapter '{name}'.*: 00-first, 01-second"):
        clone.desk.fresh(name)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"metadata": []}'])
def test_whatever_lies_under_a_chapters_name_is_left_as_it_is(clone, body):
    clone.desk.DESK.mkdir()
    clone.mine("00-first").write_bytes(body)
    clone.mine("01-second").symlink_to(clone.root / "nowhere")
    clone.desk.lay_out()
    assert clone.mine("00-first").read_bytes() == body
    assert not (clone.root / "nowhere").exists()


def test_copies_are_trusted(clone):
    clone.desk.lay_out()
    with NotebookNotary() as notary:
        assert notary.check_signature(nbformat.read(clone.mine("00-first"), 4))


def test_the_tools_leave_the_desk_alone(clone):
    """Answers, and what no tool of ours could read, beside each other."""
    clone.desk.lay_out()
    change(clone.mine("00-first"), write_answer)
    clone.mine("scratch").write_text("not a notebook")
    (clone.root / "my-course" / "helpers.py").write_text("import os, sys\nx = ( 1)")
    shutil.copy(ROOT / "pyproject.toml", clone.root)
    before = {p: p.read_bytes() for p in clone.desk.DESK.iterdir()}
    assert tool(clone, "check") == 0
    assert tool(clone, "run", "--all") == 0
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        shown = subprocess.run(ruff, cwd=clone.root, capture_output=True, text=True)
        assert shown.returncode == 0, shown.stdout
    assert {p: p.read_bytes() for p in clone.desk.DESK.iterdir()} == before


@pytest.mark.parametrize("path", ["my-course", "my-course/02-din.ipynb"])
def test_git_ignores_the_desk(path):
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def test_a_copy_finds_its_quiz_and_whatever_it_links_to(clone, monkeypatch):
    clone.desk.DESK.mkdir()
    monkeypatch.chdir(clone.desk.DESK)
    assert len(Quiz.read("quiz/00.json").items) == 5
    with pytest.raises(FileNotFoundError, match=r"99\.json"):
        Quiz.read("quiz/99.json")
    copied = {p.name for p in (ROOT / "chapters").glob("*.ipynb")}
    for path in (ROOT / "chapters").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for target in re.findall(r"\]\((?!\w+:|#)([^)#]+)", text):
            inside = os.path.normpath(ROOT / "my-course" / target)
            assert target in copied or Path(inside).exists(), f"{path.stem} links to {target}"


# --- edits of the originals -----------------------------------------------------------------------


def add_cell(notebook):
    notebook.cells.append(nbformat.v4.new_code_cell("print('mine')"))


def delete_cell(notebook):
    del notebook.cells[0]


def move_cell(notebook):
    notebook.cells.reverse()


def tag_cell(notebook):
    notebook.cells[1].metadata["tags"] = ["hide-input"]


@pytest.mark.parametrize("how", [write_answer, add_cell, delete_cell, move_cell, tag_cell])
@pytest.mark.parametrize("arguments", [["run"], ["run", "--all"], ["run", "00-first"]])
def test_an_edit_in_an_original_is_not_overwritten(clone, how, arguments):
    """As `make run` and `make course` run it; the text may have moved on as well."""
    edited = change(clone.original("00-first"), how)
    text = clone.text("00-first").read_text()
    for body in (text, text.replace("# 00-first", "# A better first chapter")):
        clone.text("00-first").write_text(body)
        with pytest.raises(SystemExit, match=r"00-first\.ipynb was edited.* pull .* --discard"):
            tool(clone, *arguments)
        assert clone.original("00-first").read_bytes() == edited


def test_an_edit_made_while_the_chapter_runs_is_not_overwritten(clone, monkeypatch):
    def edit_meanwhile(notebook, timeout):
        change(clone.original("00-first"), write_answer)
        return count_cells(notebook, timeout)

    monkeypatch.setattr(clone.nb, "execute", edit_meanwhile)
    with pytest.raises(SystemExit, match="was edited"):
        tool(clone, "run", "00-first")
    assert ANSWER in clone.original("00-first").read_text()


def test_both_ways_out_of_an_edit(clone, capsys):
    change(clone.original("00-first"), write_answer)
    assert tool(clone, "check") == 1
    assert "00-first.ipynb was edited" in capsys.readouterr().out
    assert tool(clone, "pull", "00-first") == 0
    assert ANSWER in clone.text("00-first").read_text()
    assert tool(clone, "check") == 1  # its outputs are those of other inputs
    assert tool(clone, "run") == tool(clone, "check") == 0
    change(clone.original("00-first"), add_cell)
    assert tool(clone, "run", "00-first", "--discard") == 0
    assert "print('mine')" not in clone.original("00-first").read_text()
    assert ANSWER in clone.original("00-first").read_text()


def test_edits_of_the_text_run_as_often_as_one_likes(clone):
    for title in ("One", "Two", "Three"):
        write_chapter(clone, "00-first", title)
        assert tool(clone, "check") == 0
        assert f"# {title}" in clone.original("00-first").read_text()


def test_pull_does_not_overwrite_an_edited_text(clone):
    body = clone.text("00-first").read_text().replace("41", "40")
    for how in (lambda notebook: None, write_answer):
        change(clone.original("00-first"), how)
        clone.text("00-first").write_text(body)
        with pytest.raises(SystemExit, match=r"src/00-first\.md was edited too: .* --discard"):
            tool(clone, "pull", "00-first")
        assert clone.text("00-first").read_text() == body
    assert tool(clone, "pull", "00-first", "--discard") == 0
    assert ANSWER in clone.text("00-first").read_text()


def test_discarding_needs_a_name(clone, capsys):
    with pytest.raises(SystemExit):
        tool(clone, "run", "--all", "--discard")
    assert "--discard needs the names" in capsys.readouterr().err
