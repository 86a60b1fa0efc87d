"""A log of more actions than fit in a byte goes the whole way: built, stored, cut, modelled."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

import seqlib
from seqlib.data.dataset import Dataset
from seqlib.data.event_log import EventLog
from seqlib.data.loader import BatchLoader
from seqlib.data.requests import Requests
from seqlib.data.schema import MOST_ACTIONS, SchemaError

N_ACTIONS = 12


def wide_log(n_actions: int = N_ACTIONS, n: int = 60) -> EventLog:
    """Three users; the k-th event carries the k-th action, and every third one the last too."""
    k = np.arange(n)
    action = 1 << (k % n_actions)
    action = np.where(k % 3 == 0, action | 1 << (n_actions - 1), action)
    return EventLog.build(k % 3, 2 + k % 30, 10.0 * k, action, watch=k % 7, duration=k * 0 + 10)


def data() -> Dataset:
    log = wide_log()
    r = np.arange(12)
    items = 2 + (r[:, None] + np.arange(4) * 5) % 30
    requests = Requests(
        user=(r % 3).astype(np.int32),
        time=100.5 + 40.0 * r,
        surface=np.zeros(12, np.uint8),
        position=np.zeros(12, np.int32),
        items=items.astype(np.int32),
        labels=((items[..., None] + np.arange(3)) % 2).astype(np.uint8),
    )
    spec = dataclasses.replace(tiny.spec(), actions=tuple(f"action {i}" for i in range(N_ACTIONS)))
    return Dataset(log, requests[:8], requests[8:], spec).validate()


@pytest.mark.parametrize("n_actions", [1, 8, 9, 12, MOST_ACTIONS])
def test_a_bit_set_takes_a_byte_while_it_fits_in_one(n_actions):
    log = wide_log(n_actions).validate()
    assert log.action.dtype == (np.uint8 if n_actions <= 8 else np.int64)
    assert log.nbytes == len(log) * (26 if n_actions <= 8 else 33)
    bits = (log.action[:, None] >> np.arange(n_actions)) & 1
    assert bits.any(0).all()
    assert log.where(log.user == 1).action.dtype == log.action.dtype


def test_wide_actions_are_stored_and_merged(tmp_path):
    log = wide_log()
    log.to_parquet(tmp_path / "log.parquet")
    back = EventLog.from_parquet(tmp_path / "log.parquet")
    assert back.action.dtype == np.int64
    np.testing.assert_array_equal(back.action, log.action)
    merged = EventLog.build([0, 0], [2, 2], [1.0, 1.0], [1 << 11, 1], merge=True)
    assert merged.action.tolist() == [(1 << 11) | 1]
    data().save(tmp_path / "whole")
    whole = Dataset.load(tmp_path / "whole")
    np.testing.assert_array_equal(whole.log.action, data().log.action)
    assert len(whole.spec.actions) == N_ACTIONS


def test_actions_beyond_the_specification_are_refused():
    few = dataclasses.replace(data().spec, actions=("click", "like", "share"))
    with pytest.raises(SchemaError, match=r"log.action has 2560; 3 actions end at bit set 7"):
        dataclasses.replace(data(), spec=few).validate()


@pytest.mark.parametrize(
    ("model", "options"),
    [("din", {}), ("transact", tiny.SMALL_TRANSACT), ("twin", {})],
)
def test_every_action_of_the_log_reaches_the_model(model, options):
    d = data()
    ranker = seqlib.build(model, d.spec, **options).eval()
    (batch,) = BatchLoader(d.log, d.test, length=20)
    batch.validate()
    want = [int(a) for a in d.log.action[d.log.user == 2] if a]
    assert set(batch.request.events.action[batch.request.user == 2].flatten().tolist()) <= {
        0,
        *want,
    }
    out = ranker(batch.request)
    assert torch.isfinite(out).all()
    for bit in (0, 7, 8, N_ACTIONS - 1):
        events = batch.request.events
        flipped = torch.where(events.mask, events.action ^ (1 << bit), 0)
        other = dataclasses.replace(
            batch.request, events=dataclasses.replace(events, action=flipped)
        )
        assert not torch.equal(ranker(other), out), f"bit {bit} changes nothing"
