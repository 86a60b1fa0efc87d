"""TWIN against a reference written line by line from the paper, and the promises of its two stages."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqlib
from seqlib import cost, trace
from seqlib.data.log import BatchLoader, EventLog, Requests
from seqlib.data.schema import Items
from seqlib.nn.split import inherent, lookup
from seqlib.search import Hits, hits_at_k, round_robin_topk
from seqlib.train import FitConfig, fit

DOUBLE = torch.float64


def build(name="twin", data=None, **options):
    """Weights from the ramp, float64, evaluation mode, no short branch."""
    options = {"short": 0, "n_heads": 3, "d_k": 5, "d_v": 4, "d_out": 6, **options}
    return tiny.fill(seqlib.build(name, data or tiny.spec(), **options)).double().eval().encoder


def many_items(n: int):
    """As ``tiny.spec``, with n items that all differ in content, so that no two scores are equal."""
    base = tiny.spec()
    rows = torch.arange(n + 2)
    real = rows >= 2
    fields = {
        k: torch.where(real, 2 + rows % (base.items.sizes[k] - 2), rows) for k in base.items.fields
    }
    content = torch.nn.functional.normalize(tiny.ramp(n + 2, 8), dim=-1) * real[:, None]
    table = dataclasses.replace(
        base.items,
        fields=fields,
        content=content,
        dense=tiny.ramp(n + 2, 1) * real[:, None],
        duration=torch.where(real, 10.0, 0.0),
    ).validate()
    return dataclasses.replace(base, items=table)


def histories(*lengths: int, n_items: int = 30, n_candidates: int = 3):
    """As ``tiny.batch``, with items spread over a larger catalogue."""
    b = tiny.request(lengths=lengths, n_candidates=n_candidates)
    i = torch.arange(b.events.item.numel()).view(b.events.shape)
    item = torch.where(b.events.mask, 2 + i * 7919 % n_items, 0)
    j = torch.arange(b.items.id.numel()).view(b.items.id.shape)
    return dataclasses.replace(
        b,
        events=dataclasses.replace(b.events, item=item),
        items=Items(2 + j * 31 % n_items),
    )


def run(encoder, b):
    return encoder(b)


# --- the paper, line by line -------------------------------------------------------------------


def reference_cross(encoder, b, row: int, j: int) -> list[torch.Tensor]:
    """K_{c,1…J} of one event: (8,) each, from the tables."""
    e = b.events
    tables = encoder.cross.tables
    minutes = float(b.time[row] - e.time[row, j]) / 60
    ratio = float(e.watch[row, j]) / float(e.duration[row, j])
    watch = sum(ratio > edge for edge in (0.1, 0.25, 0.5, 0.8, 1.2))
    return [
        tables[0][min(int(2 * math.log2(1 + minutes)), 41)],
        tables[1][min(int(2 * math.log2(1 + j)), 31)],
        tables[2][int(e.action[row, j]) + 16 * watch],
        tables[3][int(e.surface[row, j])],
    ]


def reference_scores(encoder, b, row: int, c: int) -> torch.Tensor:
    """(A, n): α_a = (K_h W^h_a)(qᵀ W^q_a)ᵀ / √d_k + (K_c W^c_a) β_a, one event at a time."""
    cfg = encoder.config
    n = int(b.events.lengths[row])
    q = inherent(encoder.items, b.items.id[row, c])
    out = torch.zeros(cfg.n_heads, n, dtype=DOUBLE)
    for a in range(cfg.n_heads):
        part = slice(a * cfg.d_k, (a + 1) * cfg.d_k)
        q_a = encoder.relevance.w_q.weight[part] @ q
        for j in range(n):
            k_a = encoder.relevance.w_h.weight[part] @ inherent(
                encoder.items, b.events.item[row, j]
            )
            out[a, j] = k_a @ q_a / math.sqrt(cfg.d_k)
            for f, k_c in enumerate(reference_cross(encoder, b, row, j)):
                out[a, j] += (k_c @ encoder.relevance.w_c[a, f]) * encoder.relevance.beta[a, f]
    return out


def reference_twin(encoder, b, row: int, c: int) -> torch.Tensor:
    """Walk down the rankings, then Concat(Softmax(α_a)ᵀ (K W^v_a)) W^o on the finalists."""
    cfg = encoder.config
    alpha = reference_scores(encoder, b, row, c)
    n = alpha.shape[1]
    if n == 0:
        return torch.zeros(cfg.d_out, dtype=DOUBLE)
    ranked = [sorted(range(n), key=lambda i, a=a: -float(alpha[a, i])) for a in range(cfg.n_heads)]
    taken: list[int] = []
    for rank in range(n):
        for a in range(cfg.n_heads):
            if len(taken) < cfg.k and ranked[a][rank] not in taken:
                taken.append(ranked[a][rank])
    heads = []
    for a in range(cfg.n_heads):
        part = slice(a * cfg.d_v, (a + 1) * cfg.d_v)
        head = torch.zeros(cfg.d_v, dtype=DOUBLE)
        w = alpha[a, taken].softmax(0)
        for weight, j in zip(w, taken, strict=True):
            k = torch.cat([inherent(encoder.items, b.events.item[row, j]),
                           *reference_cross(encoder, b, row, j)])  # fmt: skip
            w_v = torch.cat([encoder.esu.w_v.weight[part].T, *encoder.esu.w_v_cross[..., part]])
            head = head + weight * (k @ w_v)
        heads.append(head)
    return encoder.esu.w_o.weight @ torch.cat(heads)


@pytest.mark.parametrize("k", [3, 100])
def test_equals_the_line_by_line_reference(k):
    encoder = build(k=k)
    b = tiny.request(lengths=(5, 0, 1, 9))
    with torch.no_grad():
        got = run(encoder, b)
        for row in range(4):
            for c in range(3):
                want = reference_twin(encoder, b, row, c)
                torch.testing.assert_close(got[row, c], want, rtol=0, atol=1e-10)


def test_block_diagonal_cross_projection_equals_the_per_feature_form():
    """K_c W^c_a with W^c_a ∈ R^{8J×J} of 8×1 blocks; and β folded into it beforehand."""
    encoder = build()
    b = tiny.request(lengths=(6,))
    state = encoder.prefill(b)
    per_feature = lookup(state.cross.transpose(0, 1), state.bias)[0]  # (L, A)
    for j in range(6):
        k_c = torch.cat(reference_cross(encoder, b, 0, j))
        for a in range(3):
            dense = torch.block_diag(*[w[:, None] for w in encoder.relevance.w_c[a]])  # (8J, J)
            torch.testing.assert_close(per_feature[j, a], k_c @ dense @ encoder.relevance.beta[a])
            folded = (encoder.relevance.w_c[a] * encoder.relevance.beta[a][:, None]).flatten()
            torch.testing.assert_close(per_feature[j, a], k_c @ folded)


# --- two stages, one metric --------------------------------------------------------------------


def oracle(encoder, b, k: int) -> Hits:
    """The ESU's own top k: its score on every event of the history, then the round robin."""
    state = encoder.prefill(b)
    query = encoder.query(b.items)
    n, c = b.items.shape
    length = b.events.shape[1]
    everything = torch.arange(length).expand(n, c, length)
    row = Hits(everything, everything >= 0).gather(state.row)
    keys = torch.nn.functional.embedding(row, state.keys)
    bias = lookup(state.cross.transpose(0, 1), state.bias).transpose(1, 2)[:, None]
    alpha = encoder.relevance(query, keys.unflatten(-1, (encoder.config.n_heads, -1)), bias)
    return round_robin_topk(alpha, k, b.events.mask[:, None])


@pytest.mark.parametrize("name", ["twin", "twin_evidence"])
def test_fresh_search_finds_all_of_the_esus_top_100(name):
    """T-E1: consistency is 100 of 100 in float32 when nothing is stale."""
    encoder = seqlib.build(name, many_items(2_000), seed=0).eval().encoder.main
    b = histories(400, 250, n_items=2_000)
    state = encoder.prefill(b)
    assert hits_at_k(encoder.search(state, b.items), oracle(encoder, b, 100)).eq(100).all()


def test_stored_keys_give_the_same_scores_and_the_same_result():
    """T-E2: α from stored rows equals α from a direct product."""
    b = histories(40, 17, 1, n_items=90)
    encoder = seqlib.build("twin", many_items(90), seed=0, k=8).eval().encoder.main
    table = encoder.project_items().detach()
    assert table.shape == (92, 4 * 32)
    fetched = encoder.project_items(b.events.item.flatten()).view(*b.events.shape, -1).detach()
    with trace.capture() as t:
        direct = run(encoder, b)
        by_table = encoder.score(encoder.prefill(b, keys=table), b.items)
        by_event = encoder.score(encoder.prefill(b, keys=fetched), b.items)
    scores = t.all("gsu.scores")
    assert len(scores) == 3
    for other, out in zip(scores[1:], (by_table, by_event), strict=True):
        torch.testing.assert_close(other, scores[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(out, direct, rtol=0, atol=1e-5)


def test_stale_keys_reach_the_search_and_not_the_attention():
    """The mismatch TWIN lives with: query, bias and the whole second stage are fresh."""
    encoder = seqlib.build("twin", many_items(300), seed=0, k=20).eval().encoder.main
    b = histories(120, 90, n_items=300)
    stale = encoder.project_items().detach()
    with torch.no_grad():
        encoder.relevance.w_h.weight.add_(tiny.ramp(*encoder.relevance.w_h.weight.shape, scale=0.4))
    fresh_state = encoder.prefill(b)
    stale_state = encoder.prefill(b, keys=stale)
    fresh = encoder.search(fresh_state, b.items)
    old = encoder.search(stale_state, b.items)
    hits = hits_at_k(old, fresh).float().mean()
    assert 0 < hits < 20
    torch.testing.assert_close(
        encoder.score(stale_state, b.items, old), encoder.score(fresh_state, b.items, old)
    )


def test_keys_of_another_shape_are_refused():
    encoder = build()
    b = tiny.request()
    with pytest.raises(ValueError, match=r"keys has shape \(7, 15\); it must be \(32, 15\)"):
        encoder.prefill(b, keys=torch.zeros(7, 15))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 14))
def test_found_events_belong_to_the_history_and_none_comes_twice(lengths, k):
    encoder = build(k=k)
    b = tiny.request(lengths=tuple(lengths))
    state = encoder.prefill(b)
    found = encoder.search(state, b.items)
    for row, n in enumerate(lengths):
        for c in range(3):
            got = found.index[row, c][found.mask[row, c]].tolist()
            assert len(got) == len(set(got)) == min(k, n)
            assert all(0 <= i < n for i in got)
    assert found.gather(b.events.mask)[found.mask].all()


@pytest.mark.parametrize("budget", [1, 40, 10**9])
def test_every_budget_gives_the_same_bits(budget):
    b = tiny.request(lengths=(12, 3), n_candidates=5)
    assert torch.equal(run(build(k=4, budget=budget), b), run(build(k=4), b))


def test_candidates_do_not_see_each_other_when_the_search_is_narrow():
    encoder = build(k=3)
    b = tiny.request(lengths=(12, 5), n_candidates=5)
    order = torch.tensor([4, 1, 3])
    some = dataclasses.replace(b, items=Items(b.items.id[:, order]))
    torch.testing.assert_close(run(encoder, some), run(encoder, b)[:, order])


def test_padding_and_the_order_of_events_change_nothing():
    """No position but the recency rank, which is a feature of the event and moves with it."""
    encoder = build(k=4)
    b = tiny.request(lengths=(12, 12))
    want = run(encoder, b)
    padded = dataclasses.replace(b, events=b.events.pad(30))
    torch.testing.assert_close(run(encoder, padded), want)
    state = encoder.prefill(b)
    order = torch.tensor([3, 11, 0, 7, 5, 1, 10, 2, 9, 4, 8, 6])
    moved = dataclasses.replace(
        state,
        item=state.item[:, order],
        mask=state.mask[:, order],
        cross=state.cross[..., order],
        row=state.row[:, order],
    )
    found = encoder.search(moved, b.items)
    assert torch.equal(order[found.index], encoder.search(state, b.items).index)
    torch.testing.assert_close(encoder.score(moved, b.items, found), want)


def test_no_history_gives_zeros():
    b = tiny.request(lengths=(0, 0))
    for name in ("twin", "twin_evidence"):
        assert run(build(name), b).eq(0).all()


def test_summed_selection_ranks_by_the_sum_over_heads():
    b = tiny.request(lengths=(12,), n_candidates=2)
    encoder = build(k=4, selection="sum")
    with trace.capture() as t:
        run(encoder, b)
    want = reference_scores(encoder, b, 0, 0).sum(0).argsort(descending=True)[:4]
    assert torch.equal(t["gsu.index"][0, 0], want)
    assert not torch.equal(t["gsu.index"], _found(build(k=4), b))


def _found(encoder, b):
    state = encoder.prefill(b)
    return encoder.search(state, b.items).index


def test_trace_publishes_scores_finalists_and_weights():
    encoder = build(k=4)
    b = tiny.request(lengths=(12, 2), n_candidates=2)
    with trace.capture() as t:
        run(encoder, b)
    assert t["gsu.scores"].shape == (2, 2, 3, 12)
    assert t["gsu.scores"][1, :, :, 2:].eq(-torch.inf).all()
    assert t["gsu.index"].shape == t["gsu.mask"].shape == (2, 2, 4)
    torch.testing.assert_close(t["esu.weights"].sum(-1), torch.ones(2, 2, 3, dtype=DOUBLE))
    assert t["esu.weights"][1, :, :, 2:].eq(0).all()


# --- the null key ------------------------------------------------------------------------------


def test_null_key_leaves_weight_and_hands_on_how_much_was_found():
    """Twice the evidence: the average stays, the log of the total rises by ln 2."""
    encoder = build("twin_evidence")
    b = tiny.request(lengths=(6,), n_candidates=1)
    with torch.no_grad():
        encoder.esu.null.fill_(-30.0)  # next to no weight for "nothing"
    state = encoder.prefill(b)
    once = torch.arange(6).view(1, 1, 6)
    twice = torch.arange(12).view(1, 1, 12) % 6
    a = encoder.score(state, b.items, Hits(once, once >= 0))
    c = encoder.score(state, b.items, Hits(twice, twice >= 0))
    torch.testing.assert_close(c[..., :6], a[..., :6])
    ln2 = torch.full_like(a[..., 6:], math.log(2))
    torch.testing.assert_close(c[..., 6:] - a[..., 6:], ln2)
    with torch.no_grad():
        encoder.esu.null.fill_(50.0)  # nothing is relevant
    assert encoder.score(state, b.items, Hits(once, once >= 0)).abs().max() < 1e-6


# --- gradients ---------------------------------------------------------------------------------


def _touched(gsu_gradient: bool) -> tuple[set[int], set[int], set[int]]:
    """Items whose id embedding got a gradient, the finalists, and the whole history."""
    model = seqlib.build(
        "twin",
        tiny.spec(),
        seed=0,
        embedding=seqlib.nn.EmbeddingConfig(id_dim=4),
        short=0,
        k=2,
        gsu_gradient=gsu_gradient,
    ).train()
    b = tiny.request(lengths=(12,), n_candidates=1)
    found = _found(model.encoder, b)
    model(b).sum().backward()
    ids = model.items.embeddings["id"].weight.grad.abs().sum(-1).nonzero()[:, 0].tolist()
    finalists = b.events.item[0, found.flatten()].tolist()
    for part in (model.encoder.relevance, model.encoder.esu):
        for name, p in part.named_parameters():
            assert p.grad.abs().max() > 0, name
    candidates = set(b.items.id.flatten().tolist())
    return set(ids) - candidates, set(finalists) - candidates, set(b.events.item[0].tolist())


def test_search_gets_no_gradient_and_shared_parameters_learn_through_the_finalists():
    touched, finalists, _ = _touched(gsu_gradient=False)
    assert touched == finalists


def test_with_gradient_through_the_gsu_every_event_is_trained():
    touched, finalists, history = _touched(gsu_gradient=True)
    assert finalists < touched <= history
    assert len(touched) > 8


def test_attending_to_all_equals_searching_for_all():
    b = tiny.request(lengths=(12, 3, 0))
    for name in ("twin", "twin_evidence"):
        whole = build(name, gsu_gradient=True, k=12).train()
        torch.testing.assert_close(run(whole, b), run(whole.eval(), b))


def test_training_moves_the_score_through_fit():
    """Two steps change the shared parameters, and the search with them."""
    b = tiny.batch(lengths=(12, 7))
    model = seqlib.build("twin", tiny.spec(), seed=0, k=4)
    before = model.encoder.main.project_items().detach().clone()

    class Two:
        def __iter__(self):
            return iter([b, b])

        def __len__(self):
            return 2

        def set_epoch(self, epoch):
            pass

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    fit(model, Two(), FitConfig(lr=0.01), device="cpu")
    assert not torch.allclose(model.encoder.main.project_items(), before)


# --- time, cost, configuration -----------------------------------------------------------------


def _logits(times: list[float], items: list[int]) -> torch.Tensor:
    log = EventLog.build(
        user=np.zeros(len(times), int), item=items, time=times, action=np.ones(len(times), int)
    )
    requests = Requests(
        user=np.zeros(1, np.int32), time=np.array([1000.0]), surface=np.zeros(1, np.uint8),
        position=np.zeros(1, np.int32), items=np.array([[3, 9, 4]], np.int32),
        labels=np.zeros((1, 3, 3), np.uint8),
    )  # fmt: skip
    model = seqlib.build("twin", tiny.spec(), seed=0, k=2).eval()
    return model(next(iter(BatchLoader(log, requests, length=10))).request)


def test_an_event_at_or_after_the_request_changes_nothing():
    past = _logits([100, 500, 900], [3, 4, 5])
    assert torch.equal(_logits([100, 500, 900, 1000, 2000], [3, 4, 5, 9, 9]), past)
    assert not torch.allclose(_logits([100, 500, 900, 999], [3, 4, 5, 9]), past)


def test_age_is_counted_back_from_the_request():
    """Shifting history and request together changes nothing: no absolute time is seen."""
    encoder = build()
    b = tiny.request(lengths=(12, 5))
    shift = 12_345_678.0
    later = dataclasses.replace(
        b,
        events=dataclasses.replace(b.events, time=b.events.time + shift * b.events.mask),
        time=b.time + shift,
    )
    torch.testing.assert_close(run(encoder, later), run(encoder, b))


def test_without_bias_the_score_ignores_cross_features_and_the_values_do_not():
    b = tiny.request(lengths=(12,), n_candidates=1)
    other = dataclasses.replace(
        b, events=dataclasses.replace(b.events, action=(b.events.action + 5) % 16)
    )
    with trace.capture() as t:
        a = run(build(bias=False), b)
        c = run(build(bias=False), other)
    assert torch.equal(*t.all("gsu.scores"))
    assert not torch.allclose(a, c)


def test_raw_scores_are_plain_projections_of_all_features():
    """α = (K W)(qᵀ W^q)ᵀ / √d_k with K = [K_h, K_c]: no split, no bias, nothing to store."""
    encoder = build(raw=True, k=4)
    b = histories(9, 3)
    state = encoder.prefill(b)
    query = encoder.query(b.items)
    cross = encoder.cross(b.events, b.time)
    keys = inherent(encoder.items, b.events.item) @ encoder.relevance.w_h.weight.T
    for j, rows in enumerate(cross):
        first = sum(encoder.cross.sizes[:j])
        keys = keys + encoder.cross.tables[j][rows - first] @ encoder.relevance.w_raw[j]
    keys = keys.unflatten(-1, (3, 5))
    want = torch.einsum("bcad,blad->bcal", query, keys) / math.sqrt(5)
    got = encoder.relevance(query, *state.history(encoder.config.n_heads))
    assert torch.allclose(got, want, atol=1e-12)
    found = encoder.search(state, b.items)
    masked = want.masked_fill(~b.events.mask[:, None, None], -torch.inf)
    assert torch.equal(found.index, round_robin_topk(masked, 4).index)
    all_of_them = dataclasses.replace(found, index=torch.arange(9).expand(2, 3, 9),
                                      mask=b.events.mask[:, None].expand(2, 3, 9))  # fmt: skip
    assert torch.allclose(
        encoder.score(state, b.items, all_of_them), encoder.attend_to_all(state, query), atol=1e-12
    )
    with pytest.raises(ValueError, match="can't be stored"):
        encoder.prefill(b, encoder.project_items())
    encoder.score(state, b.items, found).sum().backward()
    assert encoder.relevance.w_raw.grad.any()
    assert not encoder.relevance.beta.grad.any()


def test_tied_start_puts_the_candidates_topic_first():
    """From the first step on: of 12 events per topic, the search finds its own."""
    data = many_items(240)
    encoder = seqlib.build("twin", data, seed=0, k=4, n_heads=1, bias=False).eval().encoder.main
    b = histories(72, n_items=240, n_candidates=6)
    found = encoder.search(encoder.prefill(b), b.items)
    topic = data.items.fields["topic"]
    same = found.gather(topic[b.events.item]) == topic[b.items.id][..., None]
    assert float(same.float().mean()) > 0.9


def test_configuration_errors_name_what_is_wrong():
    for options, message in (
        ({"selection": "max"}, "selection is 'max'; it is 'round_robin' or 'sum'"),
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"d_v": -1}, "d_v is -1; it must be at least 1"),
        ({"short": -1}, "short is -1; it must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            seqlib.build("twin", tiny.spec(), **options)


@pytest.mark.parametrize("length", [30, 200])
@pytest.mark.parametrize("raw", [False, True])
def test_flops_by_formula_when_the_search_is_narrow(length, raw):
    model = seqlib.build("twin", tiny.spec(), seed=0, k=5, raw=raw).eval()
    b = tiny.request(lengths=(length, length), n_candidates=3)
    counted = cost.counted_flops(lambda: model(b))
    assert counted == model.flops(2, 3, length)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["all"]])
def test_training_step_at_ten_thousand_events_stays_within_two_gigabytes(options):
    """B = C = 16, L = 10^4, the paper's widths; with "all", gradients reach every event."""
    worker = Path(__file__).with_name("memory_worker.py")
    out = subprocess.run(
        [sys.executable, str(worker), "twin", *options], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 2_000
