"""Stored results: complete, with provenance, and the smallest point comes out again."""

from __future__ import annotations

import json

import pytest

from experiments import runs
from experiments.plans import PLANS, label
from experiments.runs import Run, execute
from seqlib import results
from seqlib.metrics import expected_auc

STORED = sorted(p.stem for p in results.folder().glob("*.json"))


@pytest.mark.parametrize("name", STORED)
def test_stored_results_are_what_the_plan_says(name):
    """Every (label, length) of the plan has a row with as many seeds, and nothing else is there."""
    stored, plan = results.load(name), PLANS[name]()
    want: dict[tuple[str, int], int] = {}
    for run in plan:
        want[label(run), run.length] = want.get((label(run), run.length), 0) + 1
    assert {(r["label"], r["length"]): r["seeds"] for r in stored.rows} == want
    assert {"commit", "torch", "cores", "device"} <= set(stored.provenance)
    for d in stored.differences:
        assert d["low"] <= d["delta"] <= d["high"]


def test_main_experiments_have_three_seeds_and_all_controls():
    for name in ("main-course", "main-complete-journey"):
        assert all(r["seeds"] >= 3 for r in results.load(name).rows)
        labels = set(results.load(name).labels())
        assert {"item_only", "mean_pooling", "topic_histogram", "din", "din (other user)"} <= labels


@pytest.mark.slow
def test_the_smallest_point_comes_out_again(tmp_path, monkeypatch):
    """Item-only, seed 0, trained anew: same recipe, same number to the third decimal."""
    monkeypatch.setattr(runs, "CACHE", tmp_path)
    p = execute(Run(data="course", model="item_only", length=100))
    got = expected_auc(p.score[..., 0], p.truth[..., 0])
    stored = results.load("main-course").metric("item_only", "e_auc")[1][0]
    assert got == pytest.approx(stored, abs=0.001)
    again = execute(Run(data="course", model="item_only", length=100))  # from the cache
    assert (again.score == p.score).all()


def test_a_run_is_named_by_all_its_settings():
    base = Run(data="course", model="din", length=100)
    others = [
        Run(data="control", model="din", length=100),
        Run(data="course", model="din", length=100, seed=1),
        Run(data="course", model="din", length=100, history="other"),
        Run(data="course", model="din", length=100, model_options=(("softmax", True),)),
    ]
    assert len({r.key for r in [base, *others]}) == 5
    assert json.loads(json.dumps(base.key)) == base.key
