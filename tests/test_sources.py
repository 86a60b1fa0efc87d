"""Every source gives what was known strictly before the request, and a loader hands it on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_log import (
    EVENTS,
    N_USERS,
    ROWS,
    TOY,
    assert_row,
    brute_force,
    make_log,
    make_requests,
)
from torch import nn

from seqlib.data.event_log import EventLog
from seqlib.data.loader import BatchLoader
from seqlib.data.schema import Events, RequestBatch, SchemaError
from seqlib.data.sources import FilteredLog, Logged, RawLog, Snapshot, Snapshots
from seqlib.evaluate import predict

LIKE = 2
SNAPSHOT_TIMES = st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True)
LENGTHS = st.integers(1, 5)


def is_liked(log: EventLog):
    return (log.action & LIKE) > 0


def snapshot_of(events, moment: float) -> Snapshot:
    """A toy clustering: one cluster per user and item, at its newest event before the moment."""
    clusters: dict[tuple[int, int], list] = {}
    for event in events:
        if event[2] < moment:
            clusters.setdefault(event[:2], []).append(event)
    rows = [(user, item, max(e[2] for e in of)) for (user, item), of in clusters.items()]
    size = {row: len(clusters[row[:2]]) for row in rows}
    rows.sort(key=lambda row: (row[0], row[2], row[1]))
    zeros = np.zeros(len(rows))
    log = EventLog(
        user=np.array([row[0] for row in rows], np.int32),
        item=np.array([row[1] for row in rows], np.int32),
        time=np.array([row[2] for row in rows], np.float64),
        action=zeros.astype(np.uint8),
        surface=zeros.astype(np.uint8),
        watch=zeros.astype(np.float32),
        duration=zeros.astype(np.float32),
        n_users=N_USERS,
    )
    return Snapshot(moment, log, np.array([size[row] for row in rows], np.float32))


def logged(log, requests, length):
    return Logged(
        BatchLoader(log, requests, length=length).batch(np.arange(len(requests))).request.events
    )


SOURCES = {
    "raw": lambda events, requests, times, length: RawLog(make_log(events)),
    "filtered": lambda events, requests, times, length: FilteredLog(make_log(events), is_liked),
    "snapshots": lambda events, requests, times, length: Snapshots(
        make_log(events), [snapshot_of(events, t) for t in times]
    ),
    "logged": lambda events, requests, times, length: logged(make_log(events), requests, length),
}


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=60, deadline=None)
@given(events=EVENTS, rows=ROWS, times=SNAPSHOT_TIMES, length=LENGTHS)
def test_what_comes_at_or_after_a_request_changes_nothing(name, events, rows, times, length):
    if name == "filtered":
        events = [*events, (0, 9, 0, LIKE, 0, 0, 0)]
    requests = make_requests(rows)
    got = SOURCES[name](events, requests, times, length)(requests, np.arange(len(rows)), length)
    got.validate(torch.from_numpy(requests.time))
    for r, (user, now) in enumerate(rows):
        # The world as it stood then: what had happened, and the snapshots that had been made.
        past = [e for e in events if e[2] < now]
        made = [t for t in times if t <= now] or [min(times)]
        if not past or (name == "filtered" and not any(e[3] & LIKE for e in past)):
            assert not got.mask[r].any()
            continue
        one = make_requests([(user, now)])
        alone = SOURCES[name](past, one, made, length)(one, np.arange(1), length)
        n = int(got.mask[r].sum())
        assert n == int(alone.mask.sum())
        for field in dataclasses.fields(Events):
            all_of = getattr(got, field.name)
            if all_of is not None:
                assert torch.equal(all_of[r, :n], getattr(alone, field.name)[0, :n])


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, rows=ROWS, length=LENGTHS)
def test_a_filtered_log_equals_a_brute_force_join_of_what_is_kept(events, rows, length):
    events = [*events, (0, 9, 0, LIKE, 0, 0, 0)]
    log = make_log(events)
    source = FilteredLog(log, is_liked)
    kept = [e for e in events if e[3] & LIKE]
    for batch in BatchLoader(log, make_requests(rows), length=length, source=source, batch_size=4):
        batch.validate()
        for row, i in enumerate(batch.index.tolist()):
            assert_row(batch, row, brute_force(kept, *rows[i], length))


@settings(max_examples=60, deadline=None)
@given(events=EVENTS, rows=ROWS, times=SNAPSHOT_TIMES)
def test_counts_add_up_to_the_events_before_the_request(events, rows, times):
    requests = make_requests(rows)
    log = make_log(events)
    source = Snapshots(log, [snapshot_of(events, t) for t in times])
    (batch,) = BatchLoader(log, requests, length=100, source=source, batch_size=len(rows))
    got = batch.request.events
    for r, (user, now) in enumerate(rows):
        past = brute_force(events, user, now, 100)
        assert float(got.count[r].sum()) == len(past)
        for item in {e[1] for e in past}:
            of_item = got.count[r][got.item[r] == item]
            assert float(of_item.sum()) == sum(e[1] == item for e in past)
        made = max((t for t in times if t <= now), default=None)
        since = [e for e in past if made is None or e[2] >= made]
        assert got.item[r, : len(since)].tolist() == [e[1] for e in since]
        assert (got.count[r, : len(since)] == 1).all()
        assert (got.count[r][~got.mask[r]] == 0).all()


def test_a_snapshot_by_hand():
    log = make_log(TOY, n_users=N_USERS)
    source = Snapshots(log, [snapshot_of(TOY, 120.0), snapshot_of(TOY, 350.0)])
    requests = make_requests([(2, 115.0), (2, 120.0), (2, 349.0), (2, 350.0), (1, 500.0)])
    (batch,) = BatchLoader(log, requests, length=4, source=source)
    assert batch.request.events.item.tolist() == [
        [15, 14, 0, 0],  # no snapshot yet
        [15, 14, 0, 0],  # the first was made at this moment, of what came before it
        [18, 17, 16, 15],  # three raw events since, and the newest cluster
        [18, 17, 16, 15],  # all of them clusters by now
        [0, 0, 0, 0],
    ]


def test_an_old_snapshot_is_not_replaced_by_one_that_comes_later():
    events = [(0, 5, 1, 0, 0, 0, 0), (0, 5, 2, 0, 0, 0, 0), (0, 5, 4, 0, 0, 0, 0)]
    source = Snapshots(make_log(events), [snapshot_of(events, 3), snapshot_of(events, 6)])
    requests = make_requests([(0, 5), (0, 6)])
    got = source(requests, np.arange(2), 9)
    assert got.count.tolist() == [[1, 2], [3, 0]]
    assert got.time.tolist() == [[4, 2], [4, 0]]


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, rows=ROWS, length=LENGTHS, batch_size=st.integers(1, 5))
def test_what_was_logged_is_replayed_bit_for_bit(events, rows, length, batch_size):
    log = make_log(events)
    requests = make_requests(rows)
    options = {"length": length, "batch_size": batch_size, "shuffle": True, "seed": 3}
    served = BatchLoader(log, requests, **options)
    # Training comes later; the log it could be looked up in has changed since.
    changed = dataclasses.replace(log, item=log.item + 1, watch=log.watch + 5)
    replayed = BatchLoader(changed, requests, source=logged(log, requests, length), **options)
    for then, now in zip(served, replayed, strict=True):
        assert_equal(then, now)


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, rows=ROWS, length=LENGTHS)
def test_the_raw_log_as_a_source_is_the_loaders_own_path(events, rows, length):
    log = make_log(events)
    requests = make_requests(rows)
    options = {"length": length, "batch_size": 3, "sort_by_length": True, "candidates": 2}
    own = BatchLoader(log, requests, **options)
    for a, b in zip(own, BatchLoader(log, requests, source=RawLog(log), **options), strict=True):
        assert_equal(a, b)


def assert_equal(a: RequestBatch, b: RequestBatch) -> None:
    for field in dataclasses.fields(Events):
        x = getattr(a.request.events, field.name)
        y = getattr(b.request.events, field.name)
        assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))
    assert torch.equal(a.request.items.id, b.request.items.id)
    assert torch.equal(a.answers.labels, b.answers.labels)
    assert torch.equal(a.index, b.index)


# --- more -------------------------------------------------------------------------------------


def stored_numbers(requests, rows, length):
    """As a feature store would give them: a function of the request."""
    return torch.from_numpy(np.stack([requests.time[rows], requests.user[rows]], axis=1)).float()


class ReadsMore(nn.Module):
    """Logits from ``more`` alone."""

    task_names = ("click",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, request):
        likes = request.more["likes"].lengths[:, None, None]
        stored = request.more["stored"].sum(1)[:, None, None]
        return (self.scale * (likes + stored)).expand(*request.items.shape, 1)


def test_more_reaches_the_model_through_a_loader():
    log = make_log(TOY, n_users=3)
    rows = [(2, 130.0), (0, 500.0), (2, 500.0)]
    requests = make_requests(rows, n_tasks=1)
    more = {"likes": FilteredLog(log, is_liked), "stored": stored_numbers}
    loader = BatchLoader(log, requests, length=4, batch_size=2, more=more)
    for batch in loader:
        batch.validate()
        assert set(batch.request.more) == set(more)
    got = predict(ReadsMore(), loader)
    likes = [1, 0, 1]  # user 2's event 16 at 120 is the one with this bit
    for r, (user, now) in enumerate(rows):
        logit = 0.01 * (likes[r] + now + user)
        np.testing.assert_allclose(got.score[r], 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_a_second_history_may_be_longer_than_none_and_moves_with_the_batch():
    log = make_log(TOY, n_users=3)
    loader = BatchLoader(log, make_requests([(2, 500.0), (1, 500.0)]), length=4,
                         more={"likes": FilteredLog(log, is_liked)})  # fmt: skip
    (batch,) = loader
    part = batch.request[1:]
    assert part.more["likes"].shape[0] == 1
    assert not part.more["likes"].mask.any()


# --- identity and errors ----------------------------------------------------------------------


def test_the_loader_names_its_sources():
    log = make_log(TOY, n_users=3)
    requests = make_requests([(2, 500.0)])

    def loader(**options):
        return BatchLoader(log, requests, length=4, **options)

    plain = loader()
    assert "source" not in plain.identity()
    assert "more" not in plain.state_dict()["config"]
    likes = loader(source=FilteredLog(log, is_liked))
    hides = loader(source=FilteredLog(log, lambda log: (log.action & 8) > 0))
    again = loader(source=FilteredLog(log, is_liked))
    assert likes.identity() == again.identity()
    assert likes.identity() != hides.identity()
    assert likes.identity()["source"]["name"].endswith("FilteredLog")
    two = [loader(more={"stored": f}).identity() for f in (stored_numbers, RawLog(log))]
    assert two[0] != two[1] != plain.identity()
    for state, other in ((plain, likes), (likes, plain)):
        with pytest.raises(ValueError, match=r"differs in source \("):
            other.load_state_dict(state.state_dict())


def test_snapshots_and_logged_rows_of_other_contents_have_another_identity():
    log = make_log(TOY, n_users=N_USERS)
    requests = make_requests([(2, 500.0)])
    first = snapshot_of(TOY, 200.0)
    heavier = dataclasses.replace(first, count=first.count + 1)
    rows = logged(log, requests, 4)
    other = Logged(dataclasses.replace(rows.events, watch=rows.events.watch + 1))
    pairs = [(Snapshots(log, [first]), Snapshots(log, [heavier])), (rows, other)]
    for a, b in pairs:
        assert a.identity() == a.identity()
        assert a.identity() != b.identity()


@pytest.mark.parametrize(
    "options", [{"source": RawLog(make_log(TOY))}, {"more": {"stored": stored_numbers}}]
)
def test_another_users_history_is_not_mixed_with_a_source(options):
    with pytest.raises(ValueError, match="other_user=True takes histories from the raw log, but"):
        BatchLoader(
            make_log(TOY), make_requests([(2, 500.0)]), length=4, other_user=True, **options
        )


def misbehaving(change):
    """The raw log with a fault."""

    def source(requests, rows, length):
        return change(RawLog(make_log(TOY))(requests, rows, length))

    return source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[:1], "gives 1 rows; there are 2 requests in the batch"),
        (lambda e: e.pad(9), r"gives 1\d events a request; at most 4 were asked for"),
        (
            lambda e: dataclasses.replace(e, time=e.time + 1000),
            "events.time reaches the request time",
        ),
    ],
)
@pytest.mark.parametrize("place", ["source", "more"])
def test_a_source_that_breaks_its_promise_is_named(place, change, message):
    faulty = misbehaving(change)
    options = {"source": faulty} if place == "source" else {"more": {"second": faulty}}
    requests = make_requests([(2, 500.0), (0, 400.0)])
    loader = BatchLoader(make_log(TOY), requests, length=4, **options)
    with pytest.raises(SchemaError, match=message) as error:
        list(loader)
    assert str(error.value).startswith("source" if place == "source" else "more['second']")


def test_parts_that_do_not_fit_are_named():
    log = make_log(TOY, n_users=N_USERS)
    snapshot = snapshot_of(TOY, 200.0)
    with pytest.raises(SchemaError, match=r"keep gives int64 of shape \(10,\); it must be bool"):
        FilteredLog(log, lambda log: np.arange(len(log)))
    with pytest.raises(SchemaError, match="keep leaves no event"):
        FilteredLog(log, lambda log: log.item < 0)
    with pytest.raises(SchemaError, match=r"snapshots are of \[\]; each needs a time of its own"):
        Snapshots(log, [])
    with pytest.raises(SchemaError, match=r"snapshots are of \[200.0, 200.0\]"):
        Snapshots(log, [snapshot, snapshot])
    with pytest.raises(SchemaError, match="has 5 users, the log 3"):
        Snapshots(make_log(TOY, n_users=3), [snapshot])
    with pytest.raises(SchemaError, match="holds a cluster at 120.0"):
        dataclasses.replace(snapshot, time=120.0)
    with pytest.raises(SchemaError, match="number of at least 1 for each"):
        dataclasses.replace(snapshot, count=snapshot.count - 1)
    rows = logged(log, make_requests([(2, 500.0)]), 4)
    with pytest.raises(SchemaError, match="1 rows were logged for 2 requests"):
        rows(make_requests([(2, 500.0), (0, 500.0)]), np.arange(2), 4)
    early = make_requests([(2, 100.5)])
    with pytest.raises(SchemaError, match="reaches the request time"):
        rows(early, np.arange(1), 4)
