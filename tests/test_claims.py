"""Claims assert, print in brackets, and refuse intervals that could not fail. And costs, traces."""

from __future__ import annotations

import math
import time

import pytest
import tiny
import torch

import seqlib
from seqlib import cost, results, trace
from seqlib.claims import CLAIM_PATTERN, ClaimError, claim, table


def test_a_claim_prints_the_value_in_brackets_and_the_interval_outside(capsys):
    claim("AUC", 0.70123, 0.68, 0.72)
    claim("time", 12.5, 1, 20, digits=1, unit="ms")
    out = capsys.readouterr().out
    assert out == "AUC: ⟨0.701⟩ in [0.68, 0.72]\ntime: ⟨12.5⟩ ms in [1, 20]\n"
    assert len(CLAIM_PATTERN.findall(out)) == 2


@pytest.mark.parametrize("value", [0.67, 0.73, float("nan"), float("inf")])
def test_outside_fails(value):
    with pytest.raises(ClaimError, match=r"AUC is .+, outside \[0.68, 0.72\]"):
        claim("AUC", value, 0.68, 0.72)


@pytest.mark.parametrize(("low", "high"), [(-math.inf, 1), (0, math.inf), (math.nan, 1)])
def test_an_open_interval_is_refused(low, high):
    with pytest.raises(ValueError, match="both ends must be finite"):
        claim("AUC", 0.5, low, high)


def test_an_empty_interval_is_refused():
    with pytest.raises(ValueError, match="low must lie below high"):
        claim("AUC", 0.5, 0.5, 0.5)


def test_nothing_outside_the_brackets_moves_with_a_value(capsys):
    def shown(value):
        table(["AUC", "L"], [("DIN", [(value, 0, 20), 100]), ("pool", [(0.1, 0, 1), 10])])
        return CLAIM_PATTERN.sub("⟨⟩", capsys.readouterr().out)

    assert shown(0.5) == shown(12.345)
    with pytest.raises(ClaimError, match="DIN, AUC is 21"):
        shown(21)
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        table(["a", "b"], [("x", [1])])


# --- cost -----------------------------------------------------------------------------------------


def test_flops_of_a_matrix_product_are_two_per_multiply_add():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert cost.counted_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert cost.counted_flops(lambda: a * 2) == 0


def test_flops_refuse_nonsense():
    model = seqlib.build("din", tiny.spec())
    with pytest.raises(ValueError, match="length is 0; it must be at least 1"):
        cost.flops(model, 1, 1, 0)
    with pytest.raises(ValueError, match="length is -1; it must not be negative"):
        cost.history_bytes(-1)


def test_din_grows_with_candidates_times_events_and_the_pool_does_not():
    din, pool = (seqlib.build(n, tiny.spec()).encoder for n in ("din", "mean_pooling"))
    pairs = din.flops(1, 100, 1000) - din.flops(1, 0, 1000) - din.flops(1, 100, 0)
    assert din.flops(1, 200, 1000) - din.flops(1, 100, 1000) == pytest.approx(pairs, rel=0.01)
    assert pool.flops(1, 1000, 1000) - pool.flops(1, 32, 1000) == 0  # 32 rows in the tiny catalogue


def test_bytes():
    assert cost.parameter_bytes(torch.nn.Linear(3, 5)) == 4 * (15 + 5)
    assert cost.history_bytes(1000) == 1000 * cost.EVENT_BYTES


def test_latency_tells_slow_from_fast():
    slow, fast = (lambda: time.sleep(0.005)), (lambda: None)
    both = cost.interleaved({"slow": slow, "fast": fast}, rounds=5)
    assert both["slow"].p50 > 4 > both["fast"].p50
    one = cost.latency(slow, repeats=4, warmup=1)
    assert one.repeats == 4
    assert one.p99 >= one.p50 >= 5


def test_ratios_are_taken_of_what_a_call_works_not_of_what_it_waits_for_others():
    def work():
        sum(range(200_000))

    def interrupted():  # as on a busy machine, where somebody else runs meanwhile
        work()
        time.sleep(0.02)

    both = cost.interleaved({"alone": work, "interrupted": interrupted}, rounds=7)
    assert both["interrupted"].p50 > both["alone"].p50 + 10
    assert both["interrupted"].best < 2 * both["alone"].best + 1


# --- trace ----------------------------------------------------------------------------------------


def test_nothing_is_kept_without_a_capture_and_captures_nest():
    x = torch.ones(2, requires_grad=True)
    trace.record("a", x)
    with trace.capture() as outer:
        trace.record("a", x)
        with trace.capture() as inner:
            trace.record("a", 2 * x)
    assert len(outer.all("a")) == 2
    assert len(inner.all("a")) == 1
    assert outer["a"].tolist() == [2, 2]
    assert not outer["a"].requires_grad
    with pytest.raises(KeyError, match=r"nothing was recorded as 'b'; recorded: \['a'\]"):
        outer["b"]


# --- stored results -------------------------------------------------------------------------------


def test_a_missing_experiment_says_how_to_run_it():
    with pytest.raises(FileNotFoundError, match="python -m experiments all nonsense"):
        results.load("nonsense")


def test_rows_and_differences_are_found_by_name():
    r = results.load("main-course")
    assert r.metric("din", "e_auc")[0] > r.metric("item_only", "e_auc")[0]
    assert r.difference("din", "mean_pooling")["low"] > 0
    with pytest.raises(KeyError, match="0 rows for 'dinn'"):
        r.row("dinn")
    with pytest.raises(KeyError, match="0 comparisons of 'din' with 'dinn'"):
        r.difference("din", "dinn")


def test_run_gives_what_a_module_records_in_evaluation_and_leaves_its_mode():
    class Probe(torch.nn.Module):
        def forward(self, x):
            if x is None:
                raise RuntimeError("no input")
            trace.record("mode", torch.tensor(self.training))
            trace.record("grad", torch.tensor(torch.is_grad_enabled()))
            trace.record("x", x)

    for mode in (True, False):
        model = Probe().train(mode)
        seen = trace.run(model, torch.ones(2))
        assert not seen["mode"]
        assert not seen["grad"]
        assert torch.equal(seen["x"], torch.ones(2))
        with pytest.raises(RuntimeError, match="no input"):
            trace.run(model, None)
        assert model.training is mode
