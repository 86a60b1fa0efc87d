"""Stored intervals that were drawn over users only, widened by the spread of the seeds stored beside.

``python -m experiments widen`` does once, from numbers in ``results/``, what new runs do by drawing
seeds (``seqlib.evaluate``): it trains nothing. Every interval says what it is ``over``. "users and
seeds" is left alone, so doing it again changes nothing; what has no values per seed stays, and is
marked, over "users".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from seqlib import results
from seqlib.evaluate import few_seeds

from .ch03 import claims as transact_claims
from .ch04 import claims as twin_claims
from .engine import store

USERS, BOTH = "users", "users and seeds"
ENDS = ("delta", "low", "high")
# Differences and seeds' values are stored with 5 digits each.
ROUNDING = 3e-5


def widened(difference: dict[str, Any], a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """A difference with its interval over users and seeds, if both sides have two seeds or more.

    The normal law holds both spreads: the users' variance is read off the stored interval, the
    seeds' is s²/n of each side, drawn independently as in ``Bootstrap.minus``, and the two halves keep
    their ratio. ``few_seeds`` turns 1.96 into Student's t.

    Args:
        difference: with ``delta``, ``low``, ``high`` over users.
        a, b: the values per seed whose means differ by ``delta``.

    Raises:
        ValueError: the values are not those of this difference.
    """
    if difference.get("over") == BOTH:
        return difference
    delta, low, high = (difference[k] for k in ("delta", "low", "high"))
    if abs(np.mean(a) - np.mean(b) - delta) > ROUNDING:
        raise ValueError(
            f"the seeds' means differ by {np.mean(a) - np.mean(b):.5f}, the stored delta is {delta}"
        )
    if min(len(a), len(b)) < 2:
        return {**difference, "over": USERS}
    spread = [(float(np.var(x, ddof=1)) / len(x), len(x)) for x in (a, b)]
    users = ((high - low) / 2 / ndtri(0.975)) ** 2
    total = users + sum(variance for variance, _ in spread)
    if not users:
        raise ValueError(f"the interval [{low}, {high}] has no width to be scaled")
    scale = few_seeds(total, spread) * np.sqrt(total / users)
    return {
        **difference,
        "low": round(float(delta - scale * (delta - low)), 5),
        "high": round(float(delta + scale * (high - delta)), 5),
        "over": BOTH,
    }


def rewritten(document: dict[str, Any]) -> dict[str, Any]:
    """An experiment with every interval widened where its rows hold the seeds, marked elsewhere."""
    out = copy.deepcopy(document)
    for table in (out, out.get("heavy", {})):
        rows = [*table.get("rows", []), *table.get("by_hand", [])]
        if "differences" in table:
            task = out["reference"]["task"]
            table["differences"] = [_with_seeds(d, rows, task) for d in table["differences"]]
    for d in intervals(out):
        d.setdefault("over", USERS)
    return out


def _with_seeds(d: dict[str, Any], rows: list[dict[str, Any]], task: str) -> dict[str, Any]:
    """A row of ``differences``, and the other intervals of the same pair that it holds (git)."""
    a, b = (_row(rows, d[side], d["length"])[task] for side in "ab")

    def each(metric: str) -> list[list[float]]:
        return [x[metric]["each"][: d["seeds"]] for x in (a, b)]

    main = each("e_auc" if "e_auc" in a else "auc")
    out = widened(d, *main)
    if "quarters" in d:
        out["quarters"] = widened(d["quarters"], *main)
        out["gauc"] = widened(d["gauc"], *each("gauc"))
    return out


def _row(rows: list[dict[str, Any]], label: str, length: int) -> dict[str, Any]:
    """The row of this length, or the only one: a baseline may stand at a length of its own."""
    same = [r for r in rows if r["label"] == label]
    fit = [r for r in same if r.get("length") == length] or same
    if len(fit) != 1:
        raise KeyError(f"{len(fit)} rows for {label!r} at length {length}")
    return fit[0]


def intervals(part: Any) -> Iterator[dict[str, Any]]:
    """Every interval of a stored document, wherever it stands."""
    if isinstance(part, dict):
        if part.keys() >= set(ENDS):
            yield part
        for inner in part.values():
            yield from intervals(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from intervals(inner)


def transact_rows(document: dict[str, Any]) -> None:
    """In ``transact-claims``: what it shares with other experiments, and which rows leave seeds out."""
    same = {
        "one minute": ("main-transact", "TransAct, no window", "DIN, all candidates"),
        "longer": ("long-transact", "TransAct", "DIN"),
    }
    for budget, (name, a, b) in same.items():
        d = results.load(name).difference(a, b)
        document["subsets"][budget]["overall"] = {k: d[k] for k in (*ENDS, "over")}
    lengths = results.load("length-transact")
    gaps = {n: lengths.difference("concat", "append", n) for n in transact_claims.FUSED}
    rows = {c["id"]: c for c in document["claims"]}
    rows["V1-C3"] |= transact_claims.concat_or_append(gaps)
    hybrid = document["hybrid"]
    rows["V1-C8"]["holds"] = transact_claims.hybrid_holds(hybrid)
    # All lifts of the file are over the same: where one leaves the seeds out, these rows do.
    note = transact_claims.left_out(h["repin"] for h in hybrid.values())
    for id in ("V1-C7", "V1-C8", "V1-C9", "V1-C12"):
        rows[id]["note"] = note


def twin_rows(document: dict[str, Any]) -> None:
    """In ``twin-claims``: all rows that rest on stored results."""
    new = {c["id"]: c for c in twin_claims.from_results()}
    document["claims"] = [new.get(c["id"], c) for c in document["claims"]]


# What reads other experiments' results is rewritten after them.
CLAIMS = {"transact-claims": transact_rows, "twin-claims": twin_rows}


def widen(names: Sequence[str]) -> list[str]:
    """Rewrite stored results; the names of those that changed."""
    changed = []
    for name in sorted(names, key=lambda n: n in CLAIMS):
        before = results.document(name)
        if store.has_makers(before):  # their seeds were drawn
            continue
        after = rewritten(before)
        if name in CLAIMS:
            CLAIMS[name](after)
        if after != before:
            store.put(store.path(name), after)
            changed.append(name)
    return changed
