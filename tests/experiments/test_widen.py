"""Stored intervals over users get the spread of their seeds, once, and nothing is lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from experiments import widen
from experiments.widen import intervals, rewritten, widened
from seqlib import results
from seqlib.evaluate import Bootstrap

STORED = sorted(p.stem for p in results.folder().glob("*.json"))


@pytest.mark.parametrize("name", STORED)
def test_every_stored_interval_says_what_it_is_over(name):
    for d in intervals(results.document(name)):
        assert d["over"] in ("users", "users and seeds")


@pytest.mark.parametrize("name", STORED)
def test_nothing_stored_is_left_to_widen(name):
    """Idempotent, and no difference whose rows hold two seeds a side is over users only."""
    document = results.document(name)
    assert rewritten(document) == document
    for d in (*document.get("differences", []), *document.get("heavy", {}).get("differences", [])):
        assert d["over"] == ("users and seeds" if d["seeds"] > 1 else "users")


def test_the_stored_standard_error_over_seeds_is_inside():
    """TransAct − "DIN, all candidates": .0036 over seeds alone; over users it was [.0004, .0054]."""
    stored = results.load("main-transact")
    d = stored.difference("TransAct", "DIN, all candidates")
    each = [stored.metric(d[side], "e_auc", 100)[1] for side in "ab"]
    error = np.sqrt(sum(np.var(x, ddof=1) / len(x) for x in each))
    assert error == pytest.approx(0.0036, abs=5e-5)
    assert d["delta"] == pytest.approx(0.0029, abs=5e-5)
    assert (d["high"] - d["low"]) / 2 > 1.96 * error
    assert not results.is_clear(d)
    assert "not clear of 0" in results.interval(d)


def test_widening_agrees_with_drawing_the_seeds():
    """The same seeds' values, once through the bootstrap and once through its interval over users."""
    rng = np.random.default_rng(0)
    a, b = np.array([0.61, 0.63, 0.65]), np.array([0.60, 0.60, 0.61])
    user = 0.004 * rng.normal(size=20_000)
    user -= user.mean()

    def boot(each, noise):
        return Bootstrap(each, each + noise[:, None], users=100, same={"seed": 0})

    drawn = boot(a, user).minus(boot(b, 0 * user))
    delta = a.mean() - b.mean()
    low, high = np.percentile(delta + user, [2.5, 97.5])
    got = widened({"delta": delta, "low": low, "high": high}, a.tolist(), b.tolist())
    assert got["over"] == drawn.over == "users and seeds"
    assert got["high"] - got["low"] == pytest.approx(drawn.high - drawn.low, rel=0.1)
    assert widened(got, a.tolist(), b.tolist()) is got


def test_the_two_halves_keep_their_ratio():
    d = {"delta": 0.02, "low": 0.01, "high": 0.04}
    got = widened(d, [0.10, 0.12, 0.14], [0.10, 0.10, 0.10])
    assert got["high"] - 0.02 == pytest.approx(2 * (0.02 - got["low"]), abs=2e-5)
    assert got["low"] < d["low"]
    assert got["high"] > d["high"]


def test_seeds_without_spread_change_nothing_and_one_seed_is_marked():
    d = {"delta": 0.02, "low": 0.01, "high": 0.04}
    assert widened(d, [0.12] * 3, [0.1] * 3) == {**d, "over": "users and seeds"}
    assert widened(d, [0.12], [0.1, 0.1]) == {**d, "over": "users"}
    with pytest.raises(
        ValueError, match="seeds' means differ by 0.05000, the stored delta is 0.02"
    ):
        widened(d, [0.15] * 3, [0.1] * 3)
    with pytest.raises(ValueError, match="has no width to be scaled"):
        widened({**d, "low": 0.02, "high": 0.02}, [0.12] * 3, [0.1] * 3)


def test_old_files_are_widened_once_and_claims_follow(monkeypatch):
    """From a file as it was written before: ends move, everything else stays."""
    now = results.document("main-course")
    old = copy.deepcopy(now)
    for d in old["differences"]:
        d["low"], d["high"] = d["delta"] - 0.001, d["delta"] + 0.001
        del d["over"]
    new = rewritten(old)
    assert rewritten(new) == new
    assert new["rows"] == old["rows"]
    kept = [{k: v for k, v in d.items() if k in old["differences"][0] and k not in ("low", "high")}
            for d in new["differences"]]  # fmt: skip
    assert kept == [{k: v for k, v in d.items() if k not in ("low", "high")}
                    for d in old["differences"]]  # fmt: skip
    assert all(d["high"] - d["low"] > 0.002 for d in new["differences"])
    unneeded = lambda *_: pytest.fail("nothing was left to be written")  # noqa: E731
    monkeypatch.setattr(widen.store, "put", unneeded)
    assert widen.widen(STORED) == []
