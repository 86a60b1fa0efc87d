"""The API reference names every public module once, and shows docstrings as they were meant."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import yaml

from seqsite.docstrings import as_rst

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("pages", ROOT / "tools" / "pages.py")
assert spec
assert spec.loader
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


def test_every_public_module_is_on_one_page_and_every_page_in_the_contents():
    found = pages.packages()
    listed = [m for modules in found.values() for m in modules]
    assert len(listed) == len(set(listed))
    public = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in (ROOT / "seqlib").rglob("*.py")
        if not any(part.startswith("_") for part in p.relative_to(ROOT).parts)
    }
    assert public <= set(listed)
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    chapters = [c for part in contents["parts"] for c in part["chapters"]]
    (api,) = [c for c in chapters if c["file"] == "book/api/index"]
    assert [c["file"] for c in api["sections"]] == [f"book/api/{page}" for page in found]


def test_a_page_shows_the_members_of_each_of_its_modules():
    text = pages.api_page("search", pages.packages()["search"])
    shown = re.findall(r"automodule:: (\S+)\n   :members:", text)
    assert shown == [m for m in pages.packages()["search"] if m != "seqlib.search"]
    assert "automodule:: seqlib.search\n```" in text
    assert "[`seqlib.search`](search.md): Finding" in pages.api_index()


def test_formulas_and_diagrams_become_literal_blocks():
    got = as_rst("A sum.\n\n    s = a * b_ + |c|\n\n    t = s*\n\nAnd *then* **more** ``a * b``.")
    assert "::\n\n    s = a * b_ + |c|\n\n    t = s*\n" in got
    assert got.endswith("And *then* **more** ``a * b``.")


def test_what_only_looks_like_markup_is_escaped():
    assert as_rst("Mean |p − y| of a * b, p_ and x_1.") == r"Mean \|p − y\| of a \* b, p\_ and x_1."
    assert as_rst("A ``literal *over\ntwo_ lines``.") == "A ``literal *over\ntwo_ lines``."


def test_sections_and_lists_stay_what_they_are():
    section = "Title.\n\nArgs:\n    a: one\n        more\n    b: two\n\nReturns:\n    (n,)"
    assert as_rst(section) == section
    bullets = "Ways:\n\n  * ``one`` way\n    goes on\n  * a * b\n\nEnd."
    assert as_rst(bullets) == bullets.replace("a * b", r"a \* b")
