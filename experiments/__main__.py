"""``python -m experiments run NAME…`` trains what is missing; ``summarise`` writes results.

``widen`` gives intervals that were stored over users only the seeds' spread, without training.
"""

from __future__ import annotations

import argparse
import os
import sys

from .plans import PLANS, STUDIES, summarise
from .pool import train
from .runs import RESULTS, provenance, write
from .widen import widen


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("what", choices=["run", "summarise", "all", "list", "widen"])
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*PLANS, *STUDIES])}")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2)))
    options = parser.parse_args()
    # A git history is only there for who names a clone.
    clone = os.environ.get("SEQLIB_GIT_CLONE")
    names = options.names or [n for n in (*PLANS, *STUDIES) if n != "git-twin" or clone]
    if unknown := set(names) - set(PLANS) - set(STUDIES):
        known = ", ".join([*PLANS, *STUDIES])
        parser.error(f"unknown experiment {sorted(unknown)}; there are {known}")
    if options.what == "widen":
        stored = options.names or sorted(p.stem for p in RESULTS.glob("*.json"))
        print("widened:", ", ".join(widen(stored)) or "nothing")
        return 0
    for name in names:
        if name in STUDIES:
            if options.what in ("summarise", "all"):
                print(write(name, {"experiment": name, **provenance(1), **STUDIES[name]()}))
            continue
        runs = PLANS[name]()
        if options.what == "list":
            print(f"{name}: {len(runs)} runs")
        if options.what in ("run", "all"):
            train(runs, options.workers)
        if options.what in ("summarise", "all"):
            print(write(name, {"experiment": name, **provenance(1), **summarise(runs)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
