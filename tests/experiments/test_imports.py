"""Imports run one way, in ``experiments`` and in ``seqlib``, without a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("seqlib", "experiments")
# Each level may import those above it in this list, and its own; the longest name decides.
LEVELS = (
    ("seqlib.trace", "seqlib.runtime"),
    ("seqlib.data",),
    ("seqlib.search",),
    ("seqlib.nn",),
    ("seqlib.objectives", "seqlib.metrics", "seqlib.multitask"),
    ("seqlib.models", "seqlib"),
    ("seqlib.recipe", "seqlib.processes", "seqlib.checkpoint"),
    ("seqlib.train", "seqlib.evaluate", "seqlib.cost"),
    ("seqlib.jobs", "seqlib.serving"),
    ("seqlib.claims", "seqlib.results"),
    ("seqlib.checks", "seqlib.viz"),
    ("experiments", "experiments.engine.recipe", "experiments.engine.code"),
    ("experiments.engine.data", "experiments.engine.maker"),
    ("experiments.engine.run",),
    ("experiments.engine.piece", "experiments.engine.compare"),
    ("experiments.engine.cache", "experiments.engine.store"),
    ("experiments.engine",),
    ("experiments.ch01_02", "experiments.ch03", "experiments.ch04"),
    ("experiments.catalogue", "experiments.widen"),
    ("experiments.__main__",),
)
# Rooms on one level that may not look into each other.
APART = (
    {"experiments.ch01_02", "experiments.ch03", "experiments.ch04"},
    {"seqlib.checks", "seqlib.viz"},
)
# Wrong ways that are still there. The test fails where one has gone, so that this shrinks.
STILL_WRONG: set[tuple[str, str]] = set()
STILL_CIRCLES: list[set[str]] = []
# It takes the titles of models from there; they belong to the cards.
STILL_DRAWING = {("experiments.ch04.claims", "seqlib.viz")}


def modules() -> dict[str, Path]:
    """Name -> file."""
    out = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            out[name] = file
    return out


def imports(name: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a module imports, inside of functions too; names in a package are its modules,
    where there are such."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    out = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{target}.{alias.name}"
                out.add(inner if inner in known else target)
    return (out & known.keys()) - {name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, file, known) for name, file in known.items()}


def level(name: str) -> int:
    """Of the longest name in the list that this module is, or lies in."""
    fits = [
        (len(room), i)
        for i, rooms in enumerate(LEVELS)
        for room in rooms
        if name == room or name.startswith(room + ".")
    ]
    return max(fits)[1]


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that all reach each other: Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(part) > 1:
                out.append(part)

    for node in graph:
        if node not in index:
            visit(node)
    return out


def wrong_ways(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """(importer, imported) against the levels, or into a room beside."""
    out = set()
    for name, targets in graph.items():
        for target in targets:
            beside = any({room(name), room(target)} <= rooms for rooms in APART)
            if level(target) > level(name) or (beside and room(name) != room(target)):
                out.add((name, target))
    return out


def test_there_is_no_circle(graph):
    found = circles(graph)
    assert [c for c in found if c not in STILL_CIRCLES] == []
    assert [c for c in STILL_CIRCLES if c not in found] == [], "gone: take it off the list"


def test_imports_run_one_way(graph):
    found = wrong_ways(graph)
    assert sorted(found - STILL_WRONG) == []
    assert sorted(STILL_WRONG - found) == [], "gone: take it off the list"


def test_checks_and_viz_are_used_by_chapters_only(graph):
    rooms = ("seqlib.checks", "seqlib.viz")
    found = {
        (name, target)
        for name, targets in graph.items()
        for target in targets
        if target.startswith(rooms) and not name.startswith(rooms)
    }
    assert sorted(found - STILL_DRAWING) == []
    assert sorted(STILL_DRAWING - found) == [], "gone: take it off the list"


def test_the_engine_knows_no_chapter(graph):
    for name, targets in graph.items():
        if name.startswith("experiments.engine"):
            assert not [t for t in targets if t.startswith(("experiments.ch", "experiments.cat"))]


def test_a_circle_and_a_wrong_way_are_seen():
    wrong = {
        "seqlib.data.log": {"seqlib.models.din"},
        "seqlib.models.din": {"seqlib.nn.heads"},
        "seqlib.nn.heads": {"seqlib.data.log"},
        "experiments.ch03.plans": {"experiments.ch04.plans"},
        "experiments.ch04.plans": set(),
        "experiments.engine.pool": {"experiments.catalogue"},
        "experiments.catalogue": set(),
    }
    assert circles(wrong) == [{"seqlib.data.log", "seqlib.models.din", "seqlib.nn.heads"}]
    assert wrong_ways(wrong) == {
        ("seqlib.data.log", "seqlib.models.din"),
        ("experiments.ch03.plans", "experiments.ch04.plans"),
        ("experiments.engine.pool", "experiments.catalogue"),
    }
