"""TWIN's explorer shows what the model's own two stages do, up to the rounding of its scores."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch

import seqlib
from seqlib import trace
from seqlib.data.log import BatchLoader
from seqlib.data.schema import Items
from seqlib.data.world import make_world
from seqlib.search import Hits, round_robin_topk, same_field_topk, topk
from seqlib.viz import explorers
from seqlib.viz.explorers import K_STEPS, SEARCHES, TwinExplorer, twin_state, twin_view
from seqlib.viz.explorers.twin import STEP


@pytest.fixture(scope="module")
def longest():
    """A ranker with a tied start, the longest life of a small world, and the explorer's state."""
    world = make_world("course", seed=0, n_users=30)
    row = int(np.argmax(world.test.extra["index_in_life"]))
    loader = BatchLoader(world.log, world.test[row : row + 1], length=10_000, batch_size=1)
    request = next(iter(loader)).request
    model = seqlib.build("twin", world.spec, seed=0).eval()
    columns = [0, 3, 5, 9, 12, 15]
    state = TwinExplorer.of(trace.run(model, request), request, world.spec, columns=columns).state
    return model, dataclasses.replace(request, items=Items(request.items.id[:, columns])), state


@pytest.fixture(scope="module")
def scores(longest):
    """The model's α (C, A, L), and what is left of it after rounding, float64."""
    model, request, _ = longest
    with torch.no_grad(), trace.capture() as seen:
        model(request)
    alpha = seen["gsu.scores"][0].double()
    return alpha, (alpha.log_softmax(-1) / STEP).round() * STEP


def test_a_life_of_thousands_of_events_fits_the_notebook(longest):
    _, request, state = longest
    assert state["length"] == int(request.events.lengths) > 3_000
    assert sum(state["activity"]) == state["length"]
    assert len(json.dumps(state)) < 65_000


@pytest.mark.parametrize("k", K_STEPS)
def test_the_reference_finds_what_seqlibs_searches_find(longest, scores, k):
    model, request, state = longest
    _, rounded = scores
    group = model.items.get_buffer("field_category")
    hard = same_field_topk(
        group[request.items.id], group[request.events.item], request.events.mask, k
    )
    hard = Hits(hard.index[0], hard.mask[0])
    newest = topk(-torch.arange(float(state["length"])).expand(6, -1), k)
    wanted = (round_robin_topk(rounded, k), topk(rounded.sum(1), k), hard, newest)
    for search, want in zip(SEARCHES, wanted, strict=True):
        for c in range(6):
            got = twin_view(state, c, k=k, search=search)
            assert got["index"].tolist() == want.index[c, want.mask[c]].tolist(), (search, c)
            own = wanted[0].index[c].tolist()
            assert got["hits"] == len({*own} & {*got["index"].tolist()})


def test_rounding_hardly_changes_the_models_own_list(longest, scores):
    model, request, state = longest
    alpha, rounded = scores
    assert float((alpha.log_softmax(-1) - rounded).abs().max()) <= STEP / 2 + 1e-12
    with torch.no_grad():
        encoder = model.encoder.main
        held = encoder.prefill(request)
        for k in K_STEPS:
            found = encoder.search(held, request.items, k).index[0].tolist()
            for c, own in enumerate(found):
                missed = {*own} - {*twin_view(state, c, k=k)["index"].tolist()}
                assert len(missed) <= max(1, k // 50), (k, c)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("k", [5, 100])
def test_weights_are_those_of_the_exact_search_unit(longest, scores, search, k):
    model, request, state = longest
    alpha, encoder = scores[0], model.encoder.main
    for c in range(6):
        views = [twin_view(state, c, k=k, search=search, head=a) for a in range(4)]
        index = torch.tensor(views[0]["index"])
        with torch.no_grad(), trace.capture() as seen:
            one = Items(request.items.id[:, [c]])
            held = encoder.prefill(request)
            found = Hits(index[None, None], torch.ones(1, 1, len(index), dtype=torch.bool))
            encoder.score(held, one, found)
        want = seen["esu.weights"][0, 0].double()  # (A, n)
        got = np.array([v["weights"] for v in views])
        np.testing.assert_allclose(got, want, rtol=1.1 * STEP, atol=1e-6)
        mean = twin_view(state, c, k=k, search=search)
        np.testing.assert_allclose(mean["weights"], got.mean(0), atol=1e-12)
        whole = alpha[c].softmax(-1)[:, index].sum(-1)
        np.testing.assert_allclose([v["carried"] for v in views], whole, rtol=STEP)
        assert mean["carried"] == pytest.approx(float(whole.mean()), rel=STEP)
        most = index[torch.tensor(mean["weights"]).sort(descending=True, stable=True).indices]
        assert {*mean["top"].tolist()} == {*most[:10].tolist()}


def test_ages_are_right_to_the_minute(longest):
    _, request, state = longest
    age = ((request.time - request.events.time[0]) / 86_400).numpy()
    for search in SEARCHES:
        got = twin_view(state, 1, search=search)
        np.testing.assert_allclose(got["days"], age[got["index"]], atol=0.51 / 1_440)
        assert got["oldest"] == got["days"].max()
        assert got["median"] == np.median(got["days"])


# --- small lives ------------------------------------------------------------------------------


def small(alpha, **changes):
    """State of a life whose events are a day apart, the even ones of the candidate's topic."""
    alpha = np.asarray(alpha, float)
    c, _, n = alpha.shape
    even = np.broadcast_to(np.arange(n) % 2 == 0, (c, n))
    given = {"ages": np.arange(n) + 0.5, "actions": np.arange(n) % 16, "same_key": even,
             "same_field": even, "titles": [f"e{j}" for j in range(n)],
             "candidate_titles": [f"c{i}" for i in range(c)]}  # fmt: skip
    return twin_state(alpha, **{**given, **changes})


def test_the_walk_goes_as_deep_as_the_heads_agree():
    falling = -np.arange(400.0) / 10
    state = small([[falling] * 4])
    assert twin_view(state, 0)["depth"].tolist() == [100, 99, 99, 99]
    others = [np.roll(falling, 100 * a) for a in range(4)]
    got = twin_view(small([others]), 0)
    assert got["depth"].tolist() == [25] * 4
    assert got["index"][:5].tolist() == [0, 100, 200, 300, 1]
    assert twin_view(state, 0, search="sum")["depth"] is None


def test_equal_scores_are_ranked_newest_first():
    state = small(np.zeros((1, 3, 300)))
    for search in ("round robin", "sum", "newest"):
        assert twin_view(state, 0, k=20, search=search)["index"].tolist() == list(range(20))
    hard = twin_view(state, 0, k=20, search="hard")
    assert hard["index"].tolist() == list(range(0, 40, 2))
    assert (hard["hits"], hard["kin"]) == (10, 20)
    assert hard["carried"] == pytest.approx(20 / 300, rel=STEP)
    assert hard["top"].tolist() == list(range(0, 20, 2))


def test_a_short_life_is_found_whole():
    state = small(tiny.ramp(2, 3, 12).numpy())
    for search in ("round robin", "sum", "newest"):
        got = twin_view(state, 1, search=search)
        assert sorted(got["index"].tolist()) == list(range(12))
        assert got["weights"].sum() == pytest.approx(1)
        assert got["carried"] == pytest.approx(1, rel=STEP)
    assert len(twin_view(state, 1, search="hard")["index"]) == 6


def test_a_search_may_find_nothing():
    nothing = np.zeros((1, 12), bool)
    state = small(tiny.ramp(1, 3, 12).numpy(), same_key=nothing, same_field=nothing)
    got = twin_view(state, 0, search="hard", head=1)
    assert got["weights"].shape == got["index"].shape == got["top"].shape == (0,)
    assert (got["hits"], got["kin"], got["carried"]) == (0, 0, 0)
    assert got["oldest"] is None
    assert got["median"] is None


def test_training_mode_padding_and_a_search_in_parts_change_nothing():
    spec, request = tiny.spec(), tiny.request(lengths=(90,), width=120)
    model = tiny.fill(seqlib.build("twin", spec), 0.3).train()
    seen = trace.run(model, request)
    assert model.training
    want = TwinExplorer.of(seen, request, spec).state
    assert want["length"] == 90
    parts = tiny.fill(seqlib.build("twin", spec, budget=1), 0.3)
    in_parts = trace.run(parts, request)
    assert len(in_parts.all("gsu.scores")) > 1
    assert TwinExplorer.of(in_parts, request, spec).state == want
    assert want["candidateTitles"][0].startswith("topic ")
    named = TwinExplorer.of(
        seen, request, spec, columns=[2, 0], titles=["x"] * 90, candidate_titles=["a", "b"]
    ).state
    assert named["titles"] == ["x"]
    alone = TwinExplorer.of(seen, request, spec, columns=[2]).state
    np.testing.assert_array_equal(twin_view(named, 0)["weights"], twin_view(alone, 0)["weights"])


def test_what_does_not_fit_is_named():
    spec, request = tiny.spec(), tiny.request(lengths=(7, 12))

    def of(name, request, **options):
        recorded = trace.run(seqlib.build(name, spec), request)
        return TwinExplorer.of(recorded, request, spec, **options)

    with pytest.raises(ValueError, match=r"request has 2 requests; give one, e.g. request\[row"):
        of("twin", request)
    with pytest.raises(ValueError, match=r"columns \[3\] do not exist; the request has 3"):
        of("twin", request[:1], columns=[0, 3])
    with pytest.raises(ValueError, match="no field 'author'"):
        of("twin", request[:1], field="author")
    with pytest.raises(ValueError, match="null key"):
        of("twin_evidence", request[:1])
    with pytest.raises(ValueError, match="it must be TWIN"):
        of("din", request[:1])
    with pytest.raises(ValueError, match="at least one event"):
        of("twin", tiny.request(lengths=(0,)))
    of_both = trace.run(seqlib.build("twin", spec), request)
    with pytest.raises(ValueError, match="run the model once, on this request alone"):
        TwinExplorer.of(of_both, request[:1], spec)
    alpha = np.zeros((1, 2, 6))
    with pytest.raises(ValueError, match=r"alpha is \(2, 6\)"):
        twin_state(alpha[0], ages=[], actions=[], same_key=[], same_field=[], titles=[],
                   candidate_titles=[])  # fmt: skip
    with pytest.raises(ValueError, match=r"lengths differ: .*'titles': 1"):
        small(alpha, titles=["x"])
    with pytest.raises(ValueError, match=r"both must be \(C, L\) = \(1, 6\)"):
        small(alpha, same_key=np.ones(6, bool))
    with pytest.raises(ValueError, match="1 candidates for 2 candidate_titles"):
        small(alpha, candidate_titles=["a", "b"])
    with pytest.raises(ValueError, match="leave padding out"):
        small(alpha - np.inf)
    with pytest.raises(ValueError, match="newest first"):
        small(alpha, ages=np.arange(6)[::-1])
    state = small(alpha)
    with pytest.raises(ValueError, match="search is 'soft'; one of round robin, sum"):
        twin_view(state, 0, search="soft")
    with pytest.raises(ValueError, match=r"k is 201; it must lie in 1 … 200"):
        twin_view(state, 0, k=201)
    with pytest.raises(ValueError, match="head is 2; there are 2"):
        twin_view(state, 0, head=2)
    with pytest.raises(ValueError, match=r"state lacks \['events'\]"):
        TwinExplorer({k: v for k, v in state.items() if k != "events"})
    assert repr(explorers.TwinExplorer(state)) == "TwinExplorer()"
