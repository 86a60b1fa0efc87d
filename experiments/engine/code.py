"""Which modules made a number: a digest each, of what they do and not of how they are written.

The modules are found by following imports from where a run begins: the training itself, the model,
the data set. An imported name is followed to the module that defines it, so a package that only hands
names on (``seqlib.nn``) adds nothing, and a new model leaves the digests of all others as they are.

Comments, docstrings, formatting and the text of model cards do not matter. What draws, checks
exercises or keeps stores has no part in a training and is left out.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .recipe import digest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("seqlib", "experiments")
# These make no number.
APART = ("seqlib.viz", "seqlib.checks", "seqlib.claims", "seqlib.results", "experiments.engine")
# Of the engine, these do; data sets name their own code.
INSIDE = tuple(f"experiments.engine.{name}" for name in ("run", "summary", "compare"))
Root = tuple[str, str | None]  # a module, and the name in it that is used; None for all of it


def modules(roots: Iterable[Root]) -> dict[str, str]:
    """Module -> digest of its source, for all that the roots lead to.

    Raises:
        FileNotFoundError: a root is no module of this repository.
    """
    found: dict[str, str] = {}
    open_ = [m for module, name in roots for m in _defining(module, name)]
    while open_:
        module = open_.pop()
        if module in found or not _counts(module):
            continue
        found[module] = digest_of(module)
        open_ += imported(module)
    return dict(sorted(found.items()))


def of(roots: Iterable[Root]) -> dict[str, Any]:
    """The modules with the digest of them all."""
    found = modules(roots)
    return {"digest": digest(found), "modules": found}


def differing(there: dict[str, str], here: dict[str, str]) -> list[str]:
    """Modules that are not the same on both sides, or on one side only."""
    return sorted(m for m in there.keys() | here.keys() if there.get(m) != here.get(m))


def digest_of(module: str) -> str:
    """Digest of a module as its file is now, see ``source_digest``."""
    file = source(module)
    return _digest_of(file, file.stat().st_mtime_ns)


@cache
def _digest_of(file: Path, _changed: int) -> str:
    return source_digest(file.read_text())


def source_digest(text: str) -> str:
    """Digest of a module's syntax tree, without docstrings and without the text of model cards."""
    return hashlib.sha256(repr(_bare(ast.parse(text))).encode()).hexdigest()[:12]


def source(module: str) -> Path:
    """The file of a module of this repository."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise FileNotFoundError(f"{module} is no module of this repository; looked for {path}.py")


def imported(module: str) -> list[str]:
    """Modules of this repository that define what a module imports, also inside of functions."""
    found = []
    for target, name in _imports(module):
        found += _defining(target, name)
    return list(dict.fromkeys(found))


def _counts(module: str) -> bool:
    apart = any(module == a or module.startswith(a + ".") for a in APART)
    return module.split(".")[0] in PACKAGES and (not apart or module in INSIDE)


def _defining(module: str, name: str | None) -> list[str]:
    """Where a name of a module is defined: a submodule, or through what a package hands on."""
    if name is None:
        return [module]
    if _is_module(f"{module}.{name}"):
        return [f"{module}.{name}"]
    if _is_package(module):
        for target, what in _imports(module):
            if what == name:
                return _defining(target, what)
    return [module]


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _is_package(name: str) -> bool:
    return ROOT.joinpath(*name.split("."), "__init__.py").is_file()


def _imports(module: str) -> list[Root]:
    file = source(module)
    return list(_parsed(module, file, file.stat().st_mtime_ns))


@cache
def _parsed(module: str, file: Path, _changed: int) -> tuple[Root, ...]:
    """(module, name) of every import of this repository; ``seqlib.build(…)`` imports ``build``."""
    tree = ast.parse(file.read_text())
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    out: list[Root] = []
    for node in _run(tree):
        if isinstance(node, ast.ImportFrom):
            target = _absolute(node, package)
            out += [(target, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            out += [(a.name, None) for a in node.names if not _is_package(a.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            out += [(node.value.id, node.attr)] if node.value.id in PACKAGES else []
    return tuple(r for r in out if r[0].split(".")[0] in PACKAGES and _is_module(r[0]))


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types:
            yield from _run(child)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module an import names, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _bare(node: Any) -> Any:
    """The tree as nested lists: names of nodes and their fields, empty ones left out."""
    if isinstance(node, list):
        return [_bare(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "ModelCard"
    ):
        return ["ModelCard"]
    fields = [[name, _bare(value)] for name, value in _fields(node) if value not in (None, [])]
    return [type(node).__name__, *fields]


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """A node's fields; a body without its docstring."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    has_docstring = isinstance(node, documented) and ast.get_docstring(node) is not None
    for name, value in ast.iter_fields(node):
        if name == "body" and has_docstring:
            value = value[1:]
        if name not in ("type_comment", "kind", "ctx"):
            yield name, value
