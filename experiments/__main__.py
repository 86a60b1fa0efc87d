"""Train what is missing, summarise it, and say what was made by other code than today's.

``python -m experiments all [NAME…] --workers 2`` can be stopped at any time; the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from seqlib.models import available

from . import bench
from .catalogue import ALL
from .ch04.git_data import CLONE
from .engine import cache, data, maker, pool, recipe, store, timing
from .engine.run import Run
from .engine.summary import Plan, Study
from .widen import widen

WHAT = {
    "plan": "how many runs, and how long they take",
    "run": "train what is missing",
    "summarise": "write results from what is kept",
    "all": "both",
    "stale": "list what was made by other code than today's, or by nobody knows whom",
    "check": "hold stored results against their own makers",
    "neutral": "note new options at their defaults, so that later defaults change keys",
    "bench": "print what every model, or each one named, costs on this machine",
    "widen": "give intervals that were stored over users only the seeds' spread, without training",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 where something is refused, 130 where it was stopped."""
    options = _parser().parse_args(arguments)
    try:
        return _do(options)
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept, and the same command goes on", file=sys.stderr)
        return 130
    except (store.ResultError, cache.StaleError, pool.WorkerError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        epilog="\n".join(f"{name:10} {text}" for name, text in WHAT.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*WHAT, "list"])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}")
    parser.add_argument("--workers", type=int, default=max(1, os.cpu_count() or 2))
    parser.add_argument(
        "--fresh-code",
        action="store_true",
        help="train again what other code than today's, or an unclean tree, made",
    )
    parser.add_argument(
        "--draft",
        action="store_true",
        help="work in a tree with changes, and mark results as drafts, which chapters refuse",
    )
    return parser


def _do(options: argparse.Namespace) -> int:
    if options.what == "bench":
        print(bench.table(bench.study(options.names)))
        return 0
    stored = store.names() if options.what in ("stale", "check", "widen") else ()
    if unknown := set(options.names) - {*ALL, *stored}:
        raise SystemExit(f"unknown experiment {sorted(unknown)}; there are {', '.join(ALL)}")
    # A git history is only there for who names a clone.
    with_git = bool(os.environ.get(CLONE))
    names = options.names or [n for n in ALL if n != "git-twin" or with_git]
    if options.what in ("plan", "list"):
        return _plan(names)
    if options.what == "stale":
        return _stale(options.names or store.names())
    if options.what == "check":
        return _check(options.names or store.names())
    if options.what == "neutral":
        print("noted:", ", ".join(recipe.note(_bare_recipes())) or "nothing is new")
        return 0
    if options.what == "widen":
        print("widened:", ", ".join(widen(options.names or store.names())) or "nothing")
        return 0
    return _make(options, names)


def _make(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Train what is missing, then write each result."""
    if not options.draft:
        _require_clean()
    if options.what in ("run", "all"):
        _train(names, options)
    if options.what == "run":
        return 0
    refused = 0
    for name in names:
        try:
            print(_summarise(name, ALL[name], options.draft))
        except (store.ResultError, cache.StaleError) as error:
            print(error, file=sys.stderr)
            refused += 1
    return 1 if refused else 0


def _train(names: Sequence[str], options: argparse.Namespace) -> None:
    """One bar over all jobs of all experiments."""
    jobs = {job.key: job for name in names for job in ALL[name].jobs()}
    expected = _expected()
    made = pool.train(list(jobs.values()), options.workers, options.fresh_code, expected)
    print(f"{made} of {len(jobs)} jobs were made, the others were kept", flush=True)
    for key, state in ((key, cache.state(job)) for key, job in jobs.items()):
        if state.stale or (state.is_unclean and not options.draft):
            why = state.stale or "an unclean tree"
            print(f"{key}: made by {why}; --fresh-code makes it again", file=sys.stderr)


def _expected() -> dict[str, float | None]:
    """Key -> CPU seconds, from whatever experiment a run was noted in."""
    out: dict[str, float | None] = {}
    for name, experiment in ALL.items():
        jobs = [] if _needs_clone(name) else experiment.jobs()
        for key, seconds in timing.seconds(jobs, name).items():
            out[key] = out.get(key) or seconds
    return out


def _summarise(name: str, experiment: Plan | Study, draft: bool) -> str:
    at_start = maker.state()
    started = time.process_time()
    with cache.reading() as records:
        body = experiment.summarise()
    made = maker.maker(experiment.roots, at_start)
    made["seconds"] = round(time.process_time() - started, 1)
    result = store.document(name, body, records, made, experiment.reads)
    return str(store.write(name, result, draft))


def _require_clean() -> None:
    changed = maker.uncommitted()
    if changed is None or maker.state()["commit"] == maker.UNKNOWN:
        raise store.ResultError(
            "git does not say which commit this is, so no result could name its maker; work in a "
            "clone with git installed, or with --draft"
        )
    if changed:
        some = ", ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
        raise store.ResultError(
            f"the working tree differs from its commit ({some}); commit first, or use --draft"
        )


def _plan(names: Sequence[str]) -> int:
    """Runs and CPU minutes by experiment; what several share is counted once in the sum."""
    expected = _expected()
    seen: dict[str, tuple[float | None, bool]] = {}
    print(f"{'experiment':26}{'jobs':>6}{'CPU min':>9}{'missing':>9}{'CPU min':>9}")
    for name in names:
        jobs = [] if _needs_clone(name) else ALL[name].jobs()
        mine = {job.key: (expected[job.key], cache.state(job).is_there) for job in jobs}
        seen |= mine
        print(_line(name, mine) + (f"  {CLONE} names no clone" if _needs_clone(name) else ""))
    print(_line("all, each job once", seen))
    return 0


def _needs_clone(name: str) -> bool:
    return name == "git-twin" and not os.environ.get(CLONE)


def _line(name: str, jobs: dict[str, tuple[float | None, bool]]) -> str:
    missing = [seconds for seconds, is_there in jobs.values() if not is_there]
    every = [seconds for seconds, _ in jobs.values()]
    untimed = sum(seconds is None for seconds in every)
    note = f"  {untimed} not yet timed" if untimed else ""
    columns = f"{len(every):6}{_minutes(every):9.1f}{len(missing):9}{_minutes(missing):9.1f}"
    return f"{name:26}{columns}{note}"


def _minutes(seconds: Sequence[float | None]) -> float:
    return sum(s or 0.0 for s in seconds) / 60


def _stale(names: Sequence[str]) -> int:
    """1 where anything is listed."""
    listed = 0
    for name in names:
        for reason in store.stale(store.read(name)):
            print(f"{name}: {reason}")
            listed += 1
    if not listed:
        print("all stored results were made by today's code")
    return 1 if listed else 0


def _check(names: Sequence[str]) -> int:
    """1 where a stored result does not hold by its own makers."""
    listed = 0
    for name in names:
        found = store.read(name)
        faults = [*store.faults(found), *(["it is a draft"] if found.get("draft") else [])]
        for fault in faults:
            print(f"{name}: {fault}")
            listed += 1
    return 1 if listed else 0


def _bare_recipes() -> list[dict[str, Any]]:
    """Every data set and every model once, with nothing set."""
    models = [Run("course", model, 100) for model in available()]
    sets = [Run(name, "item_only", 100) for name in data.names()]
    return [run.bare_recipe for run in (*models, *sets)]


if __name__ == "__main__":
    sys.exit(main())
