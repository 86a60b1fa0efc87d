"""Every registered model keeps every promise of a history encoder. A new model is tested by its
name alone; one that breaks a promise by its paper's design must say so in its card and here."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tiny
import torch

import seqlib
from seqlib import cost, trace
from seqlib.data import stored, tensors
from seqlib.data.log import BatchLoader, EventLog, Requests
from seqlib.data.schema import Items
from seqlib.models.registry import load, save

MODELS = list(seqlib.available())
CLOSE = dict(rtol=0, atol=1e-5)


@pytest.fixture(params=MODELS)
def model(request):
    """Evaluation mode, weights with some spread, moving statistics away from their start."""
    m = seqlib.build(request.param, tiny.spec(), seed=1)
    m.train()
    with torch.no_grad():
        m(tiny.request())
    return m.eval()


def change(batch, **fields):
    return dataclasses.replace(batch, **fields)


def test_no_future(model):
    """Events at and after the moment of a request, added to the log, change none of its scores."""
    now = 500.0 * tiny.DAY
    past = [(u, 2 + (7 * j + u) % 30, j) for u in (0, 1) for j in range(9)]

    def scores(later):
        events = [(u, i, now - 3600.0 * (9 - j), j % 16) for u, i, j in past]
        user, item, when, action = map(np.array, zip(*events, *later, strict=True))
        log = EventLog.build(user, item, when, action, n_users=3)
        requests = Requests(
            user=np.array([0, 1, 2], np.int32),  # user 2 has no past
            time=np.full(3, now),
            surface=np.zeros(3, np.uint8),
            position=np.zeros(3, np.int32),
            items=np.array([[2, 9, 16]] * 3, np.int32),
            labels=np.zeros((3, 3, 3), np.uint8),
        )
        (batch,) = BatchLoader(log, requests, length=12, batch_size=3)
        return model(batch.request)

    later = [(u, 20 + u, now + after, 1) for u in (0, 1, 2) for after in (0.0, 1e-3, tiny.DAY)]
    assert torch.equal(scores(later), scores([]))
    earlier = [(u, 20 + u, now - 1.0, 1) for u in (0, 1, 2)]  # one that does count
    differs = not torch.allclose(scores(earlier), scores([]), **CLOSE)
    assert differs == (model.recipe["name"] != "item_only")


@pytest.mark.parametrize("n", [1, 10, 100])
def test_padding_changes_nothing(model, n):
    b = tiny.request()
    padded = change(b, events=b.events.pad(n))
    torch.testing.assert_close(model(padded), model(b), **CLOSE)


def test_content_of_padding_changes_nothing(model):
    """Not only zeros: whatever stands in a masked position is not looked at."""
    b = tiny.request()
    e = b.events
    off = ~b.events.mask
    junk = dataclasses.replace(
        e,
        item=torch.where(off, 5, e.item),
        action=torch.where(off, 3, e.action),
        time=torch.where(off, 1.0, e.time),
    )
    torch.testing.assert_close(model(change(b, events=junk)), model(b), **CLOSE)


def test_padding_gets_no_gradient(model):
    b = tiny.request()
    model(b).sum().backward()
    for name, table in model.items.embeddings.items():
        if table.weight.grad is not None:
            assert table.weight.grad[0].abs().max() == 0, f"padding row of {name} has a gradient"


def test_candidates_are_independent(model):
    """Adding, removing and permuting candidates changes no other score."""
    b = tiny.request(n_candidates=5)
    full = model(b)
    order = torch.tensor([3, 0, 4])
    some = change(b, items=Items(b.items.id[:, order]))
    torch.testing.assert_close(model(some), full[:, order], **CLOSE)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_state_scores_any_number_of_candidates(model, chunk):
    """``score(prefill)`` equals ``forward``: made once, without a look at the candidates, sliced by
    request, stored and read again."""
    b = tiny.request(n_candidates=5)
    encoder = model.encoder
    with torch.no_grad():
        want = encoder(b)
        state = encoder.prefill(change(b, items=Items(b.items.id[:, :0])))
        parts = [Items(ids) for ids in b.items.id.split(chunk, dim=1)]
        got = torch.cat([encoder.score(state, part) for part in parts], dim=1)
        torch.testing.assert_close(got, want, **CLOSE)
        again = tensors.unpack(*tensors.pack(state)).to("cpu")
        for row in range(len(b)):
            one = encoder.score(again[row : row + 1], Items(b.items.id[row : row + 1]))
            torch.testing.assert_close(one, want[row : row + 1], **CLOSE)


def test_a_state_holds_no_graph_in_evaluation_and_can_be_written(model, tmp_path):
    with torch.no_grad():
        state = model.encoder.prefill(tiny.request())
    stored.save(state, tmp_path / "state")
    again = stored.load(tmp_path / "state")
    got = tensors.pack(again)[0]
    want = tensors.pack(state)[0]
    assert got.keys() == want.keys()
    assert all(torch.equal(got[k], want[k]) for k in want)


def test_batch_of_one_equals_its_row(model):
    b = tiny.request()
    full = model(b)
    for row in range(len(b)):
        torch.testing.assert_close(model(b[row : row + 1]), full[row : row + 1], **CLOSE)


def test_empty_and_single_histories_are_finite_with_finite_gradients(model):
    b = tiny.request(lengths=(0, 1, 0))
    model.train()
    logits = model(b)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name


def test_a_history_without_a_column_is_an_empty_one(model):
    b = tiny.request(lengths=(0, 0))
    torch.testing.assert_close(model(change(b, events=b.events[:, :0])), model(b), **CLOSE)


def test_a_history_matters_unless_the_model_has_none(model):
    """Guards the tests above: a model that ignored its events would pass them all."""
    b = tiny.request(lengths=(9, 9))
    moved = change(b, events=dataclasses.replace(b.events, item=(b.events.item + 7) % 30 + 2))
    differs = not torch.allclose(model(b), model(moved), **CLOSE)
    assert differs == (model.recipe["name"] != "item_only")


def test_float32_equals_float64(model):
    b = tiny.request()
    single = model(b)
    double = model.double()(b)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def at_ages(age, lengths=(40, 7, 0, 1)):
    """A batch in 2022 whose j-th newest event has the age ``age(j)`` in seconds."""
    b = tiny.request(lengths=lengths)
    now = b.time + 1.6e9
    time = now[:, None] - age(torch.arange(b.events.mask.shape[1], dtype=torch.float64))
    events = dataclasses.replace(b.events, time=torch.where(b.events.mask, time, 0.0))
    return change(b, events=events, time=now)


def all_alike(b):
    """Every event the same item with the same answer: all scores of a search are tied."""
    e = b.events
    same = dataclasses.replace(e, item=e.mask * 5, action=e.mask * 3, watch=e.mask * 2.0)
    return change(b, events=same)


HOSTILE = {
    "ages of a millisecond": lambda: at_ages(lambda j: 1e-3 * (1 + j)),
    "ages of 0": lambda: at_ages(lambda j: 0 * j),
    "ages of 50 years": lambda: at_ages(lambda j: 50 * 365 * tiny.DAY + j),
    "50 years in the future": lambda: at_ages(lambda j: j - 50 * 365 * tiny.DAY),
    "all alike": lambda: all_alike(at_ages(lambda j: 0 * j + 60)),
    "one event": lambda: tiny.request(lengths=(1,)),
    "no event": lambda: tiny.request(lengths=(0, 0)),
    "1,000 events": lambda: tiny.request(lengths=(1000, 10)),
}


def test_unlucky_histories_are_finite_and_float32_equals_float64(model):
    """Within 1e-4, or 1e-5 of the largest logit: a sum over 1,000 events reaches hundreds."""
    batches = {name: make() for name, make in HOSTILE.items()}
    exact = copy.deepcopy(model).double()
    for name, b in batches.items():
        double = exact(b).detach()
        atol = max(1e-4, 1e-5 * float(double.abs().max()))
        single = model(b).double()
        torch.testing.assert_close(
            single, double, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )
    model.train()
    for name, b in batches.items():
        model.zero_grad()
        model(b).sum().backward()
        for parameter, p in model.named_parameters():
            assert p.grad is None or torch.isfinite(p.grad).all(), (name, parameter)


def test_flops_by_formula_equal_counted(model):
    for lengths, c in (((7, 7), 3), ((12, 12, 12), 5), ((40, 40), 1)):
        b = tiny.request(lengths=lengths, n_candidates=c)
        counted = cost.counted_flops(lambda b=b: model(b))
        assert counted == model.flops(len(lengths), c, lengths[0])


def test_state_dict_round_trips_through_safetensors(model, tmp_path):
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", tiny.spec()).eval()
    assert torch.equal(again(tiny.request()), model(tiny.request()))
    assert not (tmp_path / "m.safetensors.partial").exists()


def test_trace_does_not_change_the_result(model):
    b = tiny.request()
    plain = model(b)
    with trace.capture():
        traced = model(b)
    assert torch.equal(plain, traced)


def test_autocast_agrees(model):
    """bfloat16 has 8 bits of mantissa: logits of order 1 agree to a few hundredths."""
    b = tiny.request()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(b)
    torch.testing.assert_close(half.float(), model(b), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_compile_agrees(model):
    b = tiny.request()
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(b), model(b), **CLOSE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees(model):
    b = tiny.request()
    host = model(b)
    torch.testing.assert_close(model.cuda()(b.to("cuda")).cpu(), host, rtol=0, atol=1e-4)
