"""Results as JSON: written whole, checked, and traceable to who made every number.

A file holds, beside its numbers::

    runs      key -> recipe, seconds, digest of the maker: of every run and piece behind the numbers
    makers    digest -> commit, clean, machine, digest of the code
    code      digest -> module -> digest of its source
    sections  digest -> a part of recipes that several share; "@digest" stands for it
    summary   maker of what was computed from the runs
    reads     other results it was drawn from -> digest
    digest    of all the rest
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqlib.data.files import whole_file
from seqlib.results import digest_of

from . import code, piece, run
from .recipe import digest

FOLDER = Path(__file__).resolve().parents[1] / "results"


class ResultError(ValueError):
    """A result is refused; the message says why, one reason a line."""


def path(name: str) -> Path:
    """Where a result lies."""
    return FOLDER / f"{name}.json"


def names() -> list[str]:
    """Of all stored results."""
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """A stored result as it stands in its file, checked by nobody."""
    return json.loads(path(name).read_text())


def document(
    name: str,
    body: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    summary: Mapping[str, Any],
    reads: Iterable[str] = (),
) -> dict[str, Any]:
    """A result with its makers.

    Args:
        name: of the experiment.
        body: its numbers.
        records: key -> what ``cache`` keeps of a run or piece.
        summary: the maker of ``body``.
        reads: names of other results that ``body`` was drawn from.
    """
    tables: dict[str, dict[str, Any]] = {"makers": {}, "code": {}, "sections": {}}
    runs = {key: _entry(record, tables) for key, record in sorted(records.items())}
    return {
        "experiment": name,
        "commit": summary["commit"],
        **summary["machine"],
        **body,
        "runs": runs,
        "summary": _maker(summary, tables),
        "reads": {other: digest_of(read(other)) for other in reads},
        **tables,
    }


def write(name: str, result: Mapping[str, Any], draft: bool = False) -> Path:
    """Write ``results/NAME.json`` whole.

    Args:
        draft: write it whatever its makers are, marked: chapters and their tests refuse it.

    Raises:
        ResultError: makers are unclean or do not fit together, and it is no draft.
    """
    problems = faults(result)
    if problems and not draft:
        lines = "\n  ".join(problems)
        raise ResultError(
            f"{name} is not written:\n  {lines}\nCommit what is changed and use --fresh-code, or "
            f"--draft for a file that chapters refuse"
        )
    marked = {**result, "draft": True} if draft else dict(result)
    put(path(name), {**marked, "digest": digest_of(marked)})
    return path(name)


def put(file: Path, value: Mapping[str, Any]) -> None:
    """Any JSON, whole or not at all."""
    with whole_file(file) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def has_makers(result: Mapping[str, Any]) -> bool:
    """Whether the result was written since makers are noted."""
    return "runs" in result


def faults(result: Mapping[str, Any]) -> list[str]:
    """Why a result is not to be believed; empty if it is.

    Held against itself alone, whatever today's code is: unclean or unknown commits, recipes that are
    not those of their keys, code that differs where it should be equal, rows whose runs differ in
    more than the seed.
    """
    if not has_makers(result):
        return ["it names no makers"]
    out = [f"its digest is not that of its contents: {result['experiment']} was altered"
           for stored in (result.get("digest"),) if stored not in (None, digest_of(result))]  # fmt: skip
    out += _unclean(result)
    out += _other_keys(result)
    out += _different_code(result)
    out += [fault for row in result.get("rows", []) for fault in _row_faults(row, result)]
    return out


def stale(result: Mapping[str, Any]) -> list[str]:
    """What of a result today's code would not make: one line a reason, with how many runs."""
    if not has_makers(result):
        return ["no maker noted: made before makers were"]
    reasons: dict[str, int] = {}
    for key in result["runs"]:
        reason = _stale_run(key, result)
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
    out = [f"{n} of {len(result['runs'])} runs: {reason}" for reason, n in reasons.items()]
    summary = result["makers"][result["summary"]]
    changed = _changed(result["code"][summary["code"]])
    out += [f"summary: other code in {', '.join(changed)}"] if changed else []
    for other, was in result["reads"].items():
        if not path(other).exists() or digest_of(read(other)) != was:
            out.append(f"drawn from another {other} than the one that is stored")
    return out + _unclean(result)


def recipe_of(key: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The whole recipe of a run of a result."""
    sections = result["sections"]
    stored = result["runs"][key]["recipe"]
    return {k: sections[v[1:]] if _is_reference(v) else v for k, v in stored.items()}


def maker_of(key: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Who made a run of a result: commit, clean, machine, and code as module -> digest."""
    maker = result["makers"][result["runs"][key]["maker"]]
    return {**maker, "code": result["code"][maker["code"]]}


def _entry(record: Mapping[str, Any], tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    recipe = {}
    for name, part in record["recipe"].items():
        recipe[name] = part
        if isinstance(part, Mapping) and part:
            tables["sections"][digest(part)] = part
            recipe[name] = f"@{digest(part)}"
    maker = _maker(record["maker"], tables)
    return {"maker": maker, "seconds": record["seconds"], "recipe": recipe}


def _maker(maker: Mapping[str, Any], tables: dict[str, dict[str, Any]]) -> str:
    tables["code"][maker["code"]["digest"]] = maker["code"]["modules"]
    slim = {**maker, "code": maker["code"]["digest"]}
    tables["makers"][digest(slim)] = slim
    return digest(slim)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


def _unclean(result: Mapping[str, Any]) -> list[str]:
    of = {key: run["maker"] for key, run in result["runs"].items()}
    of["summary"] = result["summary"]
    unclean: dict[str, list[str]] = {}
    for what, maker in of.items():
        if not result["makers"][maker]["clean"]:
            unclean.setdefault(result["makers"][maker]["commit"], []).append(what)
    return [f"made at commit {commit}, which is {'unknown' if commit == 'unknown' else 'not clean'}: "
            f"{_some(what)}" for commit, what in unclean.items()]  # fmt: skip


def _other_keys(result: Mapping[str, Any]) -> list[str]:
    out = []
    for key in result["runs"]:
        recipe = recipe_of(key, result)
        if _key_of(recipe) != key:
            out.append(f"{key}: its recipe is that of {_key_of(recipe)}")
    return out


def _different_code(result: Mapping[str, Any]) -> list[str]:
    """Modules that two makers share must be the same; each may have some of its own."""
    seen: dict[str, set[str]] = {}
    for modules in result["code"].values():
        for module, source in modules.items():
            seen.setdefault(module, set()).add(source)
    several = sorted(module for module, sources in seen.items() if len(sources) > 1)
    return [f"its makers have different code in {', '.join(several)}"] if several else []


def _row_faults(row: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    keys = row.get("runs", [])
    missing = [key for key in keys if key not in result["runs"]]
    if not keys or missing:
        yield f"row {row['label']!r}: no runs of {_some(missing) if missing else 'it'} are noted"
        return
    if len(keys) != row["seeds"]:
        yield f"row {row['label']!r}: {len(keys)} runs for {row['seeds']} seeds"
    recipes = [{**recipe_of(key, result), "seed": None} for key in keys]
    if any(r != recipes[0] for r in recipes):
        yield f"row {row['label']!r}: its runs' recipes differ in more than the seed"


def _stale_run(key: str, result: Mapping[str, Any]) -> str:
    recipe = recipe_of(key, result)
    try:
        today = code.modules(_roots_of(recipe))
    except (ValueError, FileNotFoundError) as error:
        return f"can't be made today: {error}"
    changed = code.differing(maker_of(key, result)["code"], today)
    return f"other code in {', '.join(changed)}" if changed else ""


def _changed(modules: Mapping[str, str]) -> list[str]:
    """Of these modules, those whose source is another one today."""
    out = []
    for module, was in modules.items():
        try:
            now = code.digest_of(module)
        except FileNotFoundError:
            now = ""
        out += [module] if now != was else []
    return out


def _key_of(recipe: dict[str, Any]) -> str:
    return piece.key_of(recipe) if "piece" in recipe else run.key_of(recipe)


def _roots_of(recipe: dict[str, Any]) -> list[code.Root]:
    return piece.roots_of(recipe) if "piece" in recipe else run.roots_of(recipe)


def _some(what: list[str]) -> str:
    return ", ".join(what[:3]) + (f" and {len(what) - 3} more" if len(what) > 3 else "")
