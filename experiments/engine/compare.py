"""Paired differences of models, and how results hold them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from seqlib.evaluate import Bootstrap, Interval, Predictions, bootstrap

Group = list[Predictions]
Point = tuple[str, int]  # a label at a length


def cell(interval: Interval) -> dict[str, Any]:
    """A difference as results hold it, with what its interval is over."""
    ends = {k: round(float(getattr(interval, k)), 5) for k in ("delta", "low", "high")}
    return {**ends, "over": interval.over}


def differences(
    groups: Mapping[Point, Sequence[Predictions]],
    baselines: Collection[str],
    across: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Every label against the baselines, paired by user.

    A side with more seeds than the other is cut to as many, so that means are over equal numbers.

    Args:
        groups: (label, length) -> predictions of its seeds.
        baselines: labels that others of the same length are held against.
        across: labels that all others are held against, whatever the length.
    """
    made: dict[tuple[Point, int], Bootstrap] = {}

    def of(point: Point, n: int) -> Bootstrap:
        if (point, n) not in made:
            made[point, n] = bootstrap(list(groups[point][:n]))
        return made[point, n]

    out = []
    for a in groups:
        for b in groups:
            is_rival = b[0] in across or (b[0] in baselines and a[1] == b[1])
            if a[0] == b[0] or not is_rival:
                continue
            n = min(len(groups[a]), len(groups[b]))
            i = of(a, n).minus(of(b, n))
            pair = {"a": a[0], "b": b[0], "length": a[1], "seeds": n, "users": i.users}
            out.append({**pair, **cell(i)})
    return sorted(out, key=lambda d: (d["length"], d["a"], d["b"]))
