"""The shapes everything speaks, and what is said when they are broken."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch

from seqlib.data import tensors, toy
from seqlib.data.schema import Answers, SchemaError, Task


def test_slicing_moving_and_padding():
    b = tiny.request()
    assert b.events[:, :2].shape == (4, 2)
    assert len(b[1:3]) == 2
    assert b[1:3].events.shape == (2, 12)
    assert b.events.pad(3).lengths.tolist() == [7, 0, 1, 12]
    assert b.to("cpu").items.id.device.type == "cpu"
    assert len(tiny.spec().items.to("cpu")) == 32


def broken(field: str, change):
    e = tiny.request().events
    return dataclasses.replace(e, **{field: change(getattr(e, field).clone())})


def put(row, col, value):
    def change(t):
        t[row, col] = value
        return t

    return change


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("item", lambda t: t.int(), "events.item is torch.int32; it must be torch.int64"),
        ("time", lambda t: t.float(), "events.time is torch.float32; it must be torch.float64"),
        ("watch", lambda t: t[:, :2], r"events.watch has shape \(4, 2\)"),
        ("mask", put(1, 5, True), "an event after padding; padding must be last"),
        ("item", put(0, 0, 0), r"events.item is 0 \(padding\) where mask is True"),
        ("item", put(0, 0, -3), "events.item has -3; ids are never negative"),
        ("time", put(0, 0, float("nan")), "events.time has NaN or infinity"),
        ("watch", put(0, 0, float("inf")), "events.watch has NaN or infinity"),
        ("duration", put(0, 0, -1.0), "is negative; both are seconds >= 0"),
        ("time", put(0, 3, 1e12), "events.time rises along a row; histories are newest first"),
    ],
)
def test_broken_events_are_named(field, change, message):
    with pytest.raises(SchemaError, match=message):
        broken(field, change).validate()


def test_an_event_at_the_request_time_is_the_future():
    b = tiny.request(lengths=(3,))
    at = dataclasses.replace(b.events, time=torch.full_like(b.events.time, float(b.time)))
    with pytest.raises(SchemaError, match="reaches the request time; history is strictly before"):
        dataclasses.replace(b, events=at).validate()


def test_broken_batches_are_named():
    b = tiny.batch()
    labels, request = b.answers.labels, b.request
    answers = {
        "labels has values other than 0 and 1": {"labels": labels + 0.5},
        r"labels has shape \(4, 2, 3\)": {"labels": labels[:, :2]},
        r"truth has shape \(4, 3, 1\)": {"truth": labels[..., :1].double()},
        r"weight has shape \(4, 3, 1\)": {"weight": labels[..., :1]},
        "weight is negative or NaN": {"weight": labels - 1},
    }
    for message, fields in answers.items():
        with pytest.raises(SchemaError, match=message):
            dataclasses.replace(b, answers=dataclasses.replace(b.answers, **fields)).validate()
    requests = {
        r"user has shape \(3,\), not \(4,\)": {"user": request.user[:3]},
        "events has 4 rows and items 2": {"items": request.items[:2]},
        r"more\['embedding'\] has 3 rows; there are 4 requests": {
            "more": {"embedding": torch.zeros(3, 8)}
        },
    }
    for message, fields in requests.items():
        with pytest.raises(SchemaError, match=message):
            dataclasses.replace(b, request=dataclasses.replace(request, **fields)).validate()
    with pytest.raises(SchemaError, match=r"index has shape \(2,\), not \(4,\)"):
        dataclasses.replace(b, index=b.index[:2]).validate()


def test_labels_are_checked_by_their_tasks():
    """A real label is any finite number, and an undefined one may be NaN."""
    labels = torch.full((1, 2, 2), 0.0)
    labels[..., 1] = torch.tensor([12.5, float("nan")])
    tasks = (Task("click"), Task("watch", "real"))
    with pytest.raises(SchemaError, match="labels of watch have NaN or infinity"):
        Answers(labels).validate((1, 2), tasks)
    weight = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    Answers(labels, weight).validate((1, 2), tasks)
    with pytest.raises(SchemaError, match="labels have 2 tasks; there are 1"):
        Answers(labels, weight).validate((1, 2), tasks[:1])
    with pytest.raises(SchemaError, match="task 'watch' is 'seconds'; it is 'binary' or 'real'"):
        Task("watch", "seconds")


def test_counts_are_one_or_more_where_there_is_an_event():
    e = tiny.request().events
    counted = dataclasses.replace(e, count=e.mask.float())
    assert counted.validate().pad(2).count.sum() == e.mask.sum()
    with pytest.raises(SchemaError, match="events.count is below 1 where mask is True"):
        dataclasses.replace(e, count=torch.zeros_like(e.watch)).validate()


def test_what_all_requests_share_is_moved_and_never_sliced():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Held(tensors.Tensors):
        row: torch.Tensor
        table: torch.Tensor = dataclasses.field(metadata=tensors.SHARED)
        more: dict
        note: str = "kept"

    held = Held(torch.arange(3), torch.arange(7), {"x": torch.arange(3)})
    one = held[1:2].to("cpu")
    assert one.row.tolist() == [1]
    assert one.table.tolist() == list(range(7))
    assert one.more["x"].tolist() == [1]
    again = tensors.unpack(*tensors.pack(one))
    assert again.note == "kept"
    assert again.more["x"].tolist() == [1]
    with pytest.raises(ValueError, match="no record is called 'Nobody'"):
        tensors.unpack({}, {"record": "Nobody", "parts": {}})


def test_broken_tables_and_specs_are_named():
    spec = tiny.spec()
    table = spec.items
    bad = table.fields | {"topic": table.fields["topic"] + 1}
    with pytest.raises(SchemaError, match=r"its size is 8"):
        dataclasses.replace(table, fields=bad).validate()
    with pytest.raises(SchemaError, match="no entry for field 'topic'"):
        dataclasses.replace(table, sizes={"category": 5}).validate()
    with pytest.raises(SchemaError, match="items.dense has shape"):
        dataclasses.replace(table, dense=table.dense / 0).validate()
    with pytest.raises(SchemaError, match="key_field 'colour' is no item field"):
        dataclasses.replace(spec, key_field="colour")
    with pytest.raises(SchemaError, match="61 actions; a bit set of 64 bits holds at most 60"):
        dataclasses.replace(spec, actions=tuple(map(str, range(61))))
    with pytest.raises(SchemaError, match="2 base_rates for 3 tasks"):
        dataclasses.replace(spec, base_rates=(0.1, 0.2))


def test_mira_is_a_valid_batch():
    events, items, now = toy.batch()
    events.validate(now)
    assert events.shape == (1, len(toy.HISTORY))
    assert items.shape == (1, len(toy.CANDIDATES))
    assert toy.vectors().shape == (len(toy.HISTORY), len(toy.AXES))
