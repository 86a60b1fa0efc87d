"""Each switch of server, projector and store has its effect, and reports say what was met."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tiny
import torch
from test_twin import histories, many_items

import seqlib
from seqlib.serving import KeyProjector, RowStore, StoreError, TwinServer, VersionError
from seqlib.serving.twin_keys import key_digest, twin_of

N = 40


def built(seed=0, name="twin", **options):
    """TWIN over 40 items with a search for 20."""
    return seqlib.build(name, many_items(N), seed=seed, k=20, **options).eval()


def asked(*lengths):
    return histories(*lengths, n_items=N)


@pytest.fixture
def store(tmp_path):
    with RowStore.open(tmp_path / "keys", create=True) as opened:
        yield opened


@pytest.fixture
def model():
    return built()


def probabilities(model, request):
    with torch.no_grad():
        return model(request).sigmoid()


# --- which rows are served ----------------------------------------------------------------------


def test_stale_rows_are_refused_at_every_request_where_they_are_not_allowed(store, model):
    """Also those that come into the store after the server began."""
    KeyProjector(store).refresh(model, 0.0)
    strict, lax = (TwinServer(model, store, stale=stale) for stale in (False, True))
    request = asked(9, 4)
    assert torch.equal(strict.answer(request).probability, lax.answer(request).probability)
    KeyProjector(store).refresh(built(seed=1), 1.0)
    assert [r.fresh for r in lax.answer(request).reports] == [False, False]
    with pytest.raises(VersionError, match="refresh the store, or allow stale keys"):
        strict.answer(request)
    lax.sync(built(seed=1))
    assert [r.fresh for r in lax.answer(request).reports] == [True, True]
    strict.sync(built(seed=1))
    assert [r.fresh for r in strict.answer(request).reports] == [True, True]


def test_rows_of_another_catalogue_or_shape_are_refused_at_every_request(store, model):
    KeyProjector(store).refresh(model, 0.0)
    server = TwinServer(model, store)
    other = seqlib.build("twin", many_items(N + 1), seed=0, k=20)
    with pytest.raises(ValueError, match="knows another catalogue|differs in"):
        server.sync(other)
    KeyProjector(store).refresh(other, 1.0)
    with pytest.raises(VersionError, match="its ids mean other items"):
        server.answer(asked(5))
    KeyProjector(store).refresh(built(d_k=8), 1.0)
    with pytest.raises(StoreError, match="has rows of shape"):
        server.answer(asked(5))


def changed(name):
    """The same model with one part of it moved."""
    model = built()
    twin = twin_of(model)
    part = {
        "w_h": twin.relevance.w_h.weight,
        "table": twin.items.embeddings["topic"].weight,
        "heads": model.heads.deep.weight,
    }[name]
    with torch.no_grad():
        part.mul_(1.5)
    return model


@pytest.mark.parametrize(("part", "is_new"), [("w_h", True), ("table", True), ("heads", False)])
def test_a_version_is_of_what_keys_are_made_of(model, part, is_new):
    assert key_digest(model) == key_digest(built())
    assert (key_digest(changed(part)) != key_digest(model)) == is_new


@pytest.mark.parametrize(("missing", "as_if_whole"), [("compute", True), ("drop", False)])
def test_keys_that_the_store_lacks_are_computed_or_their_events_dropped(
    store, model, missing, as_if_whole
):
    KeyProjector(store, np.arange(0, N + 2, 2)).refresh(model, 0.0)
    request = asked(12, 5)
    answer = TwinServer(model, store, missing=missing).answer(request)
    want = probabilities(model, request)
    assert torch.allclose(answer.probability, want, atol=1e-5) == as_if_whole
    chosen = answer.found.gather(request.events.item)[answer.found.mask]
    assert bool((chosen % 2 == 0).all()) != as_if_whole


@pytest.mark.parametrize("codec", ["float32", "float16", "int8:3", "int4"])
def test_rounded_rows_choose_events_and_do_nothing_else(store, model, codec):
    """All events of short histories are chosen, so no rounding may be seen in the answer."""
    KeyProjector(store, codec=codec).refresh(model, 0.0)
    assert store.manifest().codec == codec
    request = asked(12, 5, 0)
    answer = TwinServer(model, store, stale=False).answer(request)
    torch.testing.assert_close(answer.probability, probabilities(model, request), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["twin", "twin_evidence"])
def test_the_short_branch_and_the_long_one_reach_the_answer(store, name):
    model = tiny.fill(built(name=name), 0.2)
    KeyProjector(store).refresh(model, 0.0)
    request = asked(30, 12)
    want = probabilities(model, request)
    assert want.std() > 1e-3
    got = TwinServer(model, store).answer(request).probability
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_a_server_never_trains(store):
    """Whatever state its model was in when it was handed over."""
    model = seqlib.build("twin", many_items(N), seed=0, k=20).train()
    KeyProjector(store).refresh(model, 0.0)
    server = TwinServer(model, store)
    assert model.training
    assert not any(part.training for part in server.model.modules())


# --- reports ------------------------------------------------------------------------------------


def aged(store, model):
    """Items 0–20 of moment 10, items 21–41 of moment 40; the store's third generation."""
    projector = KeyProjector(store, slices=2)
    projector.refresh(model, 0.0)
    projector.refresh_slice(model, 10.0)
    projector.refresh_slice(model, 40.0)
    return TwinServer(model, store)


def test_ages_are_of_the_rows_that_were_read(store, model):
    server, request = aged(store, model), asked(9, 3, 0)
    answer = server.answer(request, now=100.0)
    for row, report in enumerate(answer.reports):
        item = request.events.item[row][request.events.mask[row]]
        ages = torch.where(item < 21, 90.0, 60.0)
        assert (report.events, report.hits, report.misses) == (len(item), len(item), 0)
        assert report.generation == 3
        assert report.fresh
        if len(item):
            assert report.mean_age == pytest.approx(float(ages.mean()))
            assert report.max_age == float(ages.max())
        else:
            assert np.isnan([report.mean_age, report.max_age]).all()
    assert len({report.mean_age for report in answer.reports[:2]}) == 2


def test_hits_and_misses_are_counted_on_real_events_only(store, model):
    KeyProjector(store, np.arange(0, 30)).refresh(model, 5.0)
    request = asked(12, 5)
    reports = TwinServer(model, store, missing="drop").answer(request, now=9.0).reports
    for row, report in enumerate(reports):
        item = request.events.item[row][request.events.mask[row]]
        assert (report.hits, report.misses) == (int((item < 30).sum()), int((item >= 30).sum()))
        assert report.mean_age == report.max_age == 4.0
    assert sum(report.misses for report in reports) > 0
    assert [report.hits for report in reports] != [report.misses for report in reports]


def test_without_a_moment_the_clock_is_read(store, model, monkeypatch):
    KeyProjector(store).refresh(model, 1_000.0)
    server = TwinServer(model, store)
    monkeypatch.setattr(time, "time", lambda: 1_007.0)
    assert server.answer(asked(4)).reports[0].max_age == 7.0
    assert server.answer(asked(4), now=1_001.0).reports[0].max_age == 1.0
    assert server.answer(asked(4), now=0.0).reports[0].max_age == -1_000.0


def test_hits_are_held_against_the_searchs_own_choice(store, model):
    """An unrelated model's keys find what chance finds: about 20 · 20 / 40 of an equal spread."""
    KeyProjector(store).refresh(model, 0.0)
    server, request = TwinServer(model, store), asked(40)
    assert server.hits(request).eq(20).all()
    KeyProjector(store).refresh(tiny.fill(built(), 0.5), 0.0)
    assert 0 < server.hits(request).float().mean() < 18


# --- the store ----------------------------------------------------------------------------------


def test_a_projector_writes_what_it_was_made_with(store, model):
    ids = np.array([30, 4, 9, 11])
    projector = KeyProjector(store, ids, slices=2, codec="int8:0.5", block_rows=3)
    kept = projector.refresh(model, 7.5)
    assert (kept.rows, kept.block_rows, kept.codec) == (4, 3, "int8:0.5")
    assert kept.written == {1: (key_digest(model), 7.5)}
    assert kept.version == key_digest(model)
    later = changed("w_h")
    kept = projector.refresh_slice(later, 9.0)  # a half of the pool: ids 4 and 9
    assert kept.version == key_digest(later)
    assert kept.written == {1: (key_digest(model), 7.5), 2: (key_digest(later), 9.0)}
    with store.snapshot() as view:
        assert view.written(torch.tensor([4, 9, 11, 30])).tolist() == [9.0, 9.0, 7.5, 7.5]
        assert view.get(torch.arange(N + 2))[1].nonzero()[:, 0].tolist() == [4, 9, 11, 30]
    projector.refresh_slice(later, 11.0)
    with store.snapshot() as view:
        assert view.written(torch.tensor([4, 9, 11, 30])).tolist() == [9.0, 9.0, 11.0, 11.0]


def rows(ids):
    return np.stack([ids, -ids], 1).astype(np.float32)


def test_ids_in_any_order_get_their_own_rows(store):
    options = {"shape": (2,), "version": "v", "catalogue": "c", "at": 0.0, "block_rows": 2}
    store.refresh(np.array([9, 3, 7, 3, 1]), rows, **options, notes={"a": 1, "b": 1})
    with store.snapshot() as view:
        assert view.slots(torch.tensor([1, 3, 7, 9, 2])).tolist() == [0, 1, 2, 3, -1]
        found, there = view.get(torch.tensor([[9, 2], [1, 7]]))
    assert found.tolist() == [[[9, -9], [0, 0]], [[1, -1], [7, -7]]]
    assert there.tolist() == [[True, False], [True, True]]
    kept = store.update(
        np.array([9, 3]), lambda ids: 10 * rows(ids), version="w", at=2.0, notes={"b": 2}
    )
    assert kept.notes == {"a": 1, "b": 2}
    assert kept.blocks == (2, 2)
    with store.snapshot() as view:
        assert view.get(torch.tensor([1, 3, 7, 9]))[0][:, 0].tolist() == [1, 30, 7, 90]
        assert view.written(torch.tensor([1, 3, 7, 9])).tolist() == [0, 2, 0, 2]
    store.verify()


def test_a_store_that_was_opened_to_be_read_is_not_written(tmp_path):
    options = {"shape": (2,), "version": "v", "catalogue": "c", "at": 0.0}
    with RowStore.open(tmp_path / "k", create=True) as keys:
        keys.refresh(np.arange(4), rows, **options)
    with RowStore.open(tmp_path / "k", readonly=True) as keys:
        with pytest.raises(StoreError, match="read-only"):
            keys.refresh(np.arange(4), rows, **options)
        with keys.snapshot() as view:
            assert view.get(torch.arange(4))[0][:, 0].tolist() == [0, 1, 2, 3]
