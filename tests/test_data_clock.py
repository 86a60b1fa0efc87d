"""Log, training and test requests keep one clock: no request sees its user's future, or nothing."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
import tiny
from test_data_errors import tiny_dataset
from test_log import make_requests

from seqlib.data import public
from seqlib.data.dataset import Dataset
from seqlib.data.log import BatchLoader, EventLog, Requests
from seqlib.data.schema import SECONDS_PER_DAY, SchemaError
from seqlib.data.world import PRESETS, make_world

DAY = SECONDS_PER_DAY
# (start, days): when a log begins and how long it goes on.
LOGS = {
    "course": (0.0, 730),
    "groceries": (20_000.0, 364),
    "four days of 2022": (1.65e9, 4),
    "a project of thirty years": (8.3e8, 11_000),
}
UNITS = {
    "milliseconds": 1e3,
    "microseconds": 1e6,
    "nanoseconds": 1e9,
    "minutes": 1 / 60,
    "hours": 1 / 3_600,
    "days": 1 / DAY,
    "thousands of seconds": 1e-3,
}
# By how much a clock is off that counts from another moment.
EPOCHS = {"1900": 2_208_988_800.0, "1601": 11_644_473_600.0, "2000": -946_684_800.0}


def moved(requests: Requests, time) -> Requests:
    return dataclasses.replace(requests, time=np.asarray(time, np.float64))


@lru_cache
def data_of(name: str) -> Dataset:
    """Three users of that time: training in its second third, tests in the last."""
    start, days = LOGS[name]
    time = start + np.linspace(0, days * DAY, 600)
    log = EventLog.build(np.arange(600) % 3, 2 + np.arange(600) % 20, time, n_users=3)

    def between(a, b):
        at = start + np.linspace(a, b, 60) * days * DAY
        return make_requests([(i % 3, t) for i, t in enumerate(at)], n_tasks=3)

    return Dataset(log, between(0.4, 0.7), between(0.75, 1), tiny.spec()).validate()


def test_milliseconds_over_seconds_by_hand():
    log = EventLog.build([0] * 5, [2, 3, 4, 5, 6], [1.65e9 + i * 86_400 for i in range(5)])
    right = make_requests([(0, 1.65e9 + 2 * 86_400)])
    (batch,) = BatchLoader(log, right, length=5)
    assert batch.request.events.lengths.tolist() == [2]
    wrong = moved(right, right.time * 1000)
    for check in (wrong.validate, lambda: BatchLoader(log, wrong, length=5)):
        with pytest.raises(
            SchemaError, match=r"requests\.time reaches 1\.65.*e\+12.*milliseconds: divide by 1000"
        ):
            check()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("part", ["train", "test", "both", "log"])
@pytest.mark.parametrize("name", LOGS)
def test_parts_in_another_unit_are_refused(name, part, unit):
    data, factor = data_of(name), UNITS[unit]
    change = {"log": dataclasses.replace(data.log, time=data.log.time * factor)}
    for k in ("train", "test"):
        change[k] = moved(getattr(data, k), getattr(data, k).time * factor)
    chosen = ("train", "test") if part == "both" else (part,)
    with pytest.raises(SchemaError, match=r"time|later than the last training"):
        dataclasses.replace(data, **{k: change[k] for k in chosen}).validate()


@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("part", ["requests", "log"])
@pytest.mark.parametrize("name", LOGS)
def test_parts_from_another_epoch_are_refused(name, part, epoch):
    data, by = data_of(name), EPOCHS[epoch]
    if part == "log":
        bad = {"log": dataclasses.replace(data.log, time=data.log.time + by)}
    else:
        bad = {k: moved(getattr(data, k), getattr(data, k).time + by) for k in ("train", "test")}
    with pytest.raises(SchemaError, match=r"the log covers .* since the same moment"):
        dataclasses.replace(data, **bad).validate()


@pytest.mark.parametrize(
    "unit", ["milliseconds", "microseconds", "nanoseconds", "thousands of seconds"]
)
@pytest.mark.parametrize("name", ["four days of 2022", "a project of thirty years"])
def test_the_loader_refuses_what_validation_does(name, unit):
    data = data_of(name)
    wrong = data.test.time.copy()
    wrong[7] *= UNITS[unit]  # one of sixty is enough
    with pytest.raises(SchemaError, match=r"requests\.time"):
        BatchLoader(data.log, moved(data.test, wrong), length=5)


def test_a_log_in_a_smaller_unit_than_its_requests_leaks_nothing_through_the_loader():
    """Taken for seconds, all of the log would be over when the first request comes."""
    data = data_of("course")
    for factor in (1e-3, 1 / 60, 1 / 3_600, 1 / DAY):
        log = dataclasses.replace(data.log, time=data.log.time * factor)
        with pytest.raises(SchemaError, match=r"requests\.time is .*, long after the log ends"):
            BatchLoader(log, data.test, length=5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("time", np.nan, r"requests\.time has NaN or infinity \(1 of 3 rows, first row 1\)"),
        ("time", -np.inf, r"requests\.time has NaN or infinity"),
        ("time", 1.6e12, r"requests\.time reaches 1\.6e\+12.*milliseconds: divide by 1000"),
        ("time", -1.6e12, r"requests\.time reaches 1\.6e\+12.*milliseconds: divide by 1000"),
        ("time", 2e9, r"requests\.time is in the future: 2e\+09 with now = 1e\+09"),
        ("time", 9e10, r"in the future: 9e\+10 .*looks like milliseconds: divide by 1000"),
        ("position", -1, r"requests\.position is negative; it counts from 0 .*first row 1"),
    ],
)
def test_one_bad_request_is_named(field, value, message, tmp_path):
    good = make_requests([(0, 1.0), (1, 2.0), (2, 3.0)]).validate(now=1e9)
    column = getattr(good, field).copy()
    column[1] = value
    bad = dataclasses.replace(good, **{field: column})
    bad.to_parquet(tmp_path / "requests.parquet")
    with pytest.raises(SchemaError, match=message):
        bad.validate(now=1e9)
    with pytest.raises(SchemaError, match=message):
        Requests.from_parquet(tmp_path / "requests.parquet", now=1e9)


def test_a_saved_data_set_of_two_clocks_is_refused_when_it_is_read(tmp_path):
    data = data_of("four days of 2022")
    late = moved(data.test, data.test.time + 300 * DAY)
    dataclasses.replace(data, test=late).save(tmp_path / "set")
    with pytest.raises(SchemaError, match=r"long after the log ends"):
        Dataset.load(tmp_path / "set")


def test_surfaces_of_requests_exist():
    data = tiny_dataset()
    bad = dataclasses.replace(data.test, surface=data.test.surface + np.uint8(2))
    with pytest.raises(SchemaError, match="test surface has 3; there are 2 surfaces, from 0"):
        dataclasses.replace(data, test=bad).validate()


def test_batches_by_hand_are_held_to_the_same():
    request = tiny.request()
    late = dataclasses.replace(request, time=request.time * 1e6)
    with pytest.raises(SchemaError, match=r"request_time reaches .*divide by 1000"):
        late.validate()
    nothing = dataclasses.replace(request, time=request.time * float("nan"))
    with pytest.raises(SchemaError, match="request_time has NaN"):
        nothing.validate()


# --- what is right stays right -------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_worlds_and_their_parts_pass(preset):
    world = make_world(preset, 0, 4)
    Dataset(world.log, world.train, world.test, world.spec).validate()
    for part in (world.train, world.train[:1], world.train[-1:], world.test[:1], world.test[:0]):
        BatchLoader(world.log, part, length=10)


def test_groceries_pass():
    data = public.complete_journey(households=3, max_train=20, max_test=10).validate()
    BatchLoader(data.log, data.train[:1], length=10)


@pytest.mark.parametrize("name", LOGS)
def test_requests_long_after_a_users_last_event_pass(name):
    """Months after the log, too: at most as many as it goes on for."""
    data = data_of(name)
    end = data.log.time.max()
    pause = min(max(end - data.log.time.min(), 29 * DAY), 364 * DAY)
    spread = np.linspace(0, 0.9, len(data.test)) * pause
    later = moved(data.test, end + 1 + spread)
    dataclasses.replace(data, test=later).validate()
    BatchLoader(data.log, later, length=5)


def test_users_without_events_and_a_single_event_pass():
    log = EventLog.build([0], [2], [1.65e9], n_users=3)
    rows = [(0, 1.65e9), (1, 1.65e9 - 7 * DAY), (2, 1.65e9 + 20 * DAY)]
    (batch,) = BatchLoader(log, make_requests(rows), length=5)
    assert batch.request.events.lengths.tolist() == [0, 0, 0]
    BatchLoader(log, make_requests(rows)[:0], length=5)


def test_moments_before_1970_are_moments():
    log = EventLog.build([0, 0], [2, 3], [-2 * DAY, -DAY])
    (batch,) = BatchLoader(log, make_requests([(0, -DAY)]), length=5)
    assert batch.request.events.lengths.tolist() == [1]
