"""The bench measures what it says it does; its numbers are a machine's own and are not tested."""

from __future__ import annotations

import pytest

from experiments import bench


def test_rows_have_every_cost_of_every_named_model():
    result = bench.study(("item_only", "din"), rounds=1, n_users=12)
    assert [row["model"] for row in result["rows"]] == ["item_only", "din"]
    for row in result["rows"]:
        assert row["training_ms"] > 0
        assert set(row["inference_ms"]) == {"1", "100", "1000"}
        assert set(row["length_ms"]) == {"100", "1000", "10000"}
        assert 0 < row["share_of_peak"] < 1
    assert set(result["loader_events_per_second"]) == {"100", "1000", "10000"}
    text = bench.table(result)
    assert "item_only" in text
    assert "matrix product" in text


def test_an_exponent_is_a_slope_of_logarithms():
    assert bench.exponent((1, 10, 100), (2.0, 20.0, 200.0)) == pytest.approx(1)
    assert bench.exponent((1, 10, 100), (3.0, 300.0, 30_000.0)) == pytest.approx(2)


def test_functions_are_called_in_turns():
    called = []
    bench.in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=2)
    assert "".join(called) == "ab" + "abab"


def test_unknown_models_are_named():
    with pytest.raises(ValueError, match=r"no model \['nobody'\]; there are item_only"):
        bench.study(("nobody",))
