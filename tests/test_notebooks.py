"""What every chapter owes its reader, checked on the stored notebooks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqlib.checks import exercises
from seqlib.viz.quiz import Quiz

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
HEADINGS = [
    "The problem", "Goals", "Predict first", "Idea and maths", "Build it", "Assemble and verify",
    "Measure", "Look inside", "What breaks", "In production", "Exercises", "Quiz", "Summary card",
    "Further reading", "At scale",
]  # fmt: skip
WITHOUT = {"00": {"Assemble and verify"}}  # chapter 00 has no model to assemble


@pytest.fixture(params=CHAPTERS, ids=lambda p: p.stem)
def chapter(request):
    return request.param


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def text(path: Path) -> str:
    return "\n\n".join("".join(c["source"]) for c in cells(path, "markdown"))


def test_every_chapter_is_there():
    assert [p.stem[:2] for p in CHAPTERS] == [f"{i:02}" for i in range(len(CHAPTERS))]
    assert len(CHAPTERS) >= 3


def test_notebooks_are_in_step_with_their_text():
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "nb.py"), "check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_headings_in_order(chapter):
    want = [h for h in HEADINGS if h not in WITHOUT.get(chapter.stem[:2], set())]
    got = re.findall(r"^## (.+)$", text(chapter), re.M)
    assert got == want


def test_executed_from_top_to_bottom_without_errors(chapter):
    code = cells(chapter, "code")
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c["outputs"]]
    assert outputs, "a stripped notebook passes the comparison vacuously"
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]


def test_size_and_cells(chapter):
    assert chapter.stat().st_size <= 600_000
    assert 60 <= len(json.loads(chapter.read_text())["cells"]) <= 140
    for cell in cells(chapter, "code"):
        tags = cell["metadata"].get("tags", [])
        lines = [x for x in "".join(cell["source"]).splitlines() if x.strip()]
        if not {"long", "hide-input"} & set(tags):
            assert len(lines) <= 15, "".join(cell["source"])[:200]
        assert max((len(x) for x in lines), default=0) <= 140, max(lines, key=len)


def test_words(chapter):
    words = len(re.findall(r"\w+", re.sub(r"```.*?```|\$\$.*?\$\$", "", text(chapter), flags=re.S)))
    assert 2_500 <= words <= 4_500, words


def test_chinese_terms_are_in_the_glossary(chapter):
    """A term's first use gives the Chinese one in brackets; the glossary collects them."""
    terms = re.findall(r"[(,，] ?((?:[A-Z]+ )?[\u4e00-\u9fff]+(?: [A-Z]+)?)[),，]", text(chapter))
    assert terms
    glossary = (ROOT / "book" / "glossary.md").read_text()
    assert not [term for term in terms if term not in glossary]


def test_figures_have_captions_and_alternatives(chapter):
    outputs = [c["outputs"] for c in cells(chapter, "code")]
    images = sum("image/png" in o.get("data", {}) for out in outputs for o in out)
    plots = sum(
        "application/vnd.plotly.v1+json" in o.get("data", {}) for out in outputs for o in out
    )
    captions = [
        m
        for out in outputs
        for o in out
        for m in re.findall(r'data-alt="([^"]+)"', "".join(o.get("data", {}).get("text/html", "")))
    ]
    assert len(captions) == images + plots
    assert 10 <= images + plots <= 20
    for out in outputs:
        for o in out:
            plot = o.get("data", {}).get("application/vnd.plotly.v1+json")
            assert plot is None or len(json.dumps(plot)) < 60_000


def test_every_exercise_has_card_check_and_solution(chapter):
    number = chapter.stem[:2]
    ids = exercises(number)
    assert 5 <= len(ids) <= 7
    source, words = "\n".join("".join(c["source"]) for c in cells(chapter, "code")), text(chapter)
    solutions = (ROOT / "solutions" / f"ch{number}.py").read_text()
    for name in ids:
        assert f'check("{name}"' in source
        assert re.search(rf"\*\*{re.escape(name)} · .+ min", words), f"no card for {name}"
        assert f'"""{name}' in solutions
    shown = json.dumps([c["outputs"] for c in cells(chapter, "code")])
    assert shown.count("not attempted yet") >= len(ids)


def test_goals_name_what_checks_them(chapter):
    goals = re.search(r"^## Goals$(.+?)^## ", text(chapter), re.M | re.S)
    assert goals
    items = re.findall(r"^\d+\..+?(?=^\d+\.|\Z)", goals[1], re.M | re.S)
    assert 4 <= len(items) <= 6
    for item in items:
        assert re.search(r"E\d\d\.\d|[Qq]uiz", item), item


def test_quiz_is_complete(chapter):
    path = ROOT / "chapters" / "quiz" / f"{chapter.stem[:2]}.json"
    assert len(Quiz.read(path).items) == 5


def test_nothing_of_the_workshop_is_named():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    for name in tracked.split():
        path = ROOT / name
        if (
            path.suffix in {".md", ".py", ".js", ".yml", ".toml", ".ipynb", ".json"}
            and path.exists()
        ):
            body = path.read_text(errors="ignore")
            assert not re.search(r"/work/|/root/", body) or name == "tests/test_notebooks.py", name
