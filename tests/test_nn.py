"""The shared blocks: reserved ids, catalogue shortcut, DCN-V2, clocks, heads."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlib.nn import (
    MLP,
    CrossNetwork,
    EmbeddingConfig,
    EventEmbedding,
    ItemEmbedding,
    PeriodicEncoding,
    TaskHeads,
    log_bucket,
)


@given(st.floats(0, 1e9), st.integers(1, 60))
def test_log_bucket_is_the_formula(x, n):
    want = min(math.floor(2 * math.log2(1 + x)), n - 1)
    got = int(log_bucket(torch.tensor([x], dtype=torch.float64), n))
    assert got == want


def test_log_bucket_is_fine_when_recent_and_coarse_when_old():
    minutes = torch.tensor([0.0, 1, 2, 3, 60, 1440, 525_600, 1_051_200])
    assert log_bucket(minutes, 42).tolist() == [0, 2, 3, 4, 11, 20, 38, 40]
    with pytest.raises(ValueError, match="n_buckets is 0"):
        log_bucket(minutes, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_bucket_has_a_place_for_every_age(dtype):
    """An infinite age as an integer is −2^63, below the first row of any table."""
    extreme = torch.tensor([-torch.inf, -1e30, -1.0, 0.0, 1e30, torch.inf], dtype=dtype)
    assert log_bucket(extreme, 42).tolist() == [0, 0, 0, 0, 41, 41]


def test_midnight_is_next_to_midnight():
    waves = PeriodicEncoding(4, (86_400.0,)).waves(torch.tensor([0.0, 86_399.0, 43_200.0]))
    assert (waves[0] - waves[1]).norm() < 0.01
    assert (waves[0] - waves[2]).norm() > 1


def test_clock_keeps_its_precision_after_fifty_years():
    clock = PeriodicEncoding(4)
    t = torch.tensor([1_700_000_000.0, 1_700_000_000.0 + 7 * 86_400], dtype=torch.float64)
    torch.testing.assert_close(*clock.waves(t), rtol=0, atol=1e-6)


def test_padding_is_zero_and_unknown_is_not():
    items = ItemEmbedding(tiny.spec(), EmbeddingConfig())
    vectors = items(torch.tensor([0, 1, 2]))
    assert vectors[0].abs().max() == 0
    assert vectors[1].abs().max() > 0


def test_an_id_beyond_the_table_is_the_unknown_item():
    items = ItemEmbedding(tiny.spec(), EmbeddingConfig())
    assert torch.equal(items(torch.tensor([1000])), items(torch.tensor([1])))


def test_whole_catalogue_shortcut_equals_the_direct_path():
    items = ItemEmbedding(tiny.spec(), EmbeddingConfig(id_dim=4)).double()
    ids = torch.arange(90).reshape(9, 10) % 32  # more lookups than the 32 rows
    torch.testing.assert_close(items(ids), torch.stack([items(row) for row in ids]))
    for n in (5, 32, 33, 500):
        assert items.flops(n) == 2 * min(n, 32) * items.n_inputs * 32


def test_token_switches_take_parts_away():
    b = tiny.request(lengths=(5,))
    spec = tiny.spec()
    items = ItemEmbedding(spec, EmbeddingConfig())
    only = EventEmbedding(
        items, spec, EmbeddingConfig(use_action=False, use_time=False, use_rank=False)
    )
    torch.testing.assert_close(only(b.events, b.time), items(b.events.item))


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_network_is_equation_1(rank):
    net = tiny.fill(CrossNetwork(5, n_layers=2, rank=rank)).double()
    x0 = x = tiny.ramp(3, 5, dtype=torch.float64)
    for layer in net.layers:
        if rank is None:
            w = layer.weight
            bias = layer.bias
        else:
            w = layer[1].weight @ layer[0].weight
            bias = layer[1].bias
        x = x0 * (x @ w.T + bias) + x
    torch.testing.assert_close(net(x0), x)


def test_cross_network_full_and_low_rank_are_one_family():
    """At rank d a low-rank layer can be any full-rank layer."""
    full = CrossNetwork(4).double()
    low = CrossNetwork(4, rank=4).double()
    with torch.no_grad():
        low.layers[0][0].weight.copy_(torch.eye(4))
        low.layers[0][1].weight.copy_(full.layers[0].weight)
        low.layers[0][1].bias.copy_(full.layers[0].bias)
    x = tiny.ramp(7, 4, dtype=torch.float64)
    torch.testing.assert_close(low(x), full(x))
    with pytest.raises(ValueError, match="rank is 5; it must lie in 1…4"):
        CrossNetwork(4, rank=5)


def test_heads_start_at_the_base_rates():
    heads = TaskHeads(4, 6, (0.25, 0.02))
    logits = heads(torch.zeros(1, 4), torch.ones(1, 6))
    torch.testing.assert_close(logits.sigmoid(), torch.tensor([[0.25, 0.02]]))
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        TaskHeads(4, 6, (0.0,))


def test_mlp_needs_two_widths():
    with pytest.raises(ValueError, match="an MLP needs"):
        MLP((3,))
