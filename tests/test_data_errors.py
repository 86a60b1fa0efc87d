"""Bad input is named; a file under its final name is whole, whatever happens to its writer."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from test_log import TOY, make_log, make_requests

from seqlib.data import dataset, files
from seqlib.data.dataset import Dataset
from seqlib.data.log import BatchLoader, EventLog, Requests
from seqlib.data.schema import SchemaError


def with_value(row, value, dtype=None):
    """A copy of a column with one value changed."""

    def change(column):
        column = column.astype(dtype or column.dtype)
        column[row] = value
        return column

    return change


def as_type(dtype):
    return lambda column: column.astype(dtype)


BAD_LOGS = [
    ("item", as_type(np.int64), r"log\.item is int64; it must be int32"),
    ("time", as_type(np.float32), r"log\.time is float32; it must be float64"),
    ("action", as_type(np.int32), r"log\.action is int32; it must be uint8 or int64"),
    ("user", lambda a: a.tolist(), r"log\.user is list; it must be int32"),
    ("watch", lambda a: a[:3], r"columns have shapes .*'watch': \(3,\).*all must be \(E,\)"),
    ("time", with_value(4, np.nan), r"log\.time has NaN or infinity \(1 of 10 rows, first row 4\)"),
    ("time", with_value(4, np.inf), r"log\.time has NaN or infinity"),
    ("watch", with_value(2, np.nan), r"log\.watch has NaN or infinity \(1 of 10 rows, first row 2"),
    ("duration", with_value(7, -1.0), r"log\.duration is negative; it is seconds >= 0 .*row 7"),
    ("watch", with_value(0, -0.5), r"log\.watch is negative"),
    ("time", lambda a: a + 1.5e12, r"log\.time reaches 1\.5e\+12; .*milliseconds: divide by 1000"),
    ("time", with_value(9, 2e9), r"log\.time is in the future: 2e\+09 with now = 1e\+09 "),
    (
        "time",
        lambda a: a + 9e10,
        r"in the future: 9e\+10 .*looks like milliseconds: divide by 1000",
    ),
    ("user", with_value(9, 3), r"log\.user is 3, beyond n_users = 3"),
    ("user", with_value(0, -1), r"log\.user is negative; users count from 0"),
    ("item", with_value(3, 20), r"log\.item is 20, beyond the item table's 20 rows .*first row 3"),
    ("item", with_value(3, 0), r"log\.item is 0 \(padding\) or negative; real ids start at 2"),
    (
        "action",
        lambda a: np.where(np.arange(len(a)) == 3, 2**60, a.astype(np.int64)),
        r"log\.action has a bit above 59; .* at most 60 bits \(1 of 10 rows, first row 3\)",
    ),
    ("action", lambda a: a.astype(np.int64) - 9, r"log\.action is negative; it is a set of bits"),
    (
        "time",
        lambda a: a[::-1].copy(),
        r"not sorted by user and time: row 1 \(user 0, time 120\.0+\) comes after user 0, time 400",
    ),
    ("user", lambda a: a[::-1].copy(), r"not sorted by user and time.*EventLog\.build sorts"),
    (
        "item",
        with_value(7, 16),
        r"duplicate events: rows 6 and 7 are both user 2, item 16, time 120\.0+ \(1 in all\); "
        r"several actions on one impression are one event",
    ),
]


@pytest.mark.parametrize(("column", "change", "message"), BAD_LOGS)
def test_a_bad_log_is_named(column, change, message):
    good = make_log(TOY, n_users=3).validate(n_items=20, now=1e9)
    bad = dataclasses.replace(good, **{column: change(getattr(good, column))})
    with pytest.raises(SchemaError, match=message):
        bad.validate(n_items=20, now=1e9)


def test_an_empty_log_is_named_and_a_user_without_events_is_fine():
    nothing = make_log(TOY, n_users=3)
    nothing = dataclasses.replace(
        nothing, **{k: getattr(nothing, k)[:0] for k in files_columns()}, n_users=3
    )
    for check in (
        nothing.validate,
        lambda: EventLog.build([], [], []),
        lambda: BatchLoader(nothing, make_requests([(0, 1.0)]), length=3),
    ):
        with pytest.raises(SchemaError, match="the log has no events"):
            check()
    make_log(TOY, n_users=300).validate()


def files_columns():
    return ("user", "item", "time", "action", "surface", "watch", "duration")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user", [0.0, 1.0], r"log\.user is float64; it must hold integers \(int32\)"),
        ("item", [2, 2**40], r"log\.item has 2\.\.1099511627776; int32 ends at 2147483647"),
        ("action", [1, 2**60], r"log\.action has a bit above 59; .* at most 60 bits"),
        ("action", [-1, 256], r"log\.action is negative"),
        ("action", [-1, 2], r"log\.action has -1\.\.2; uint8 ends at 255"),
        ("action", np.array([1, 2**63], np.uint64), r"log\.action has 1\.\.9223372036854775808"),
        ("time", ["a", "b"], r"log\.time is <U1; it must hold seconds as numbers"),
        ("item", ["x", "y"], r"log\.item is <U1; it must hold integers"),
        ("time", [1.0, np.nan], r"log\.time has NaN or infinity \(1 of 2 rows, first row 1\)"),
        ("time", [[1.0, 2.0]], r"log\.time has shape \(1, 2\); every column must be \(E,\)"),
        ("item", [2, 3, 4], r"columns have shapes .*all must be \(E,\)"),
        ("watch", [-1.0, 0.0], r"log\.watch is negative"),
    ],
)
def test_columns_that_can_not_become_a_log_are_named(column, values, message):
    columns = {"user": [0, 1], "item": [2, 3], "time": [1.0, 2.0], column: values}
    with pytest.raises(SchemaError, match=message):
        EventLog.build(**columns)


def test_building_says_when_events_come_twice():
    with pytest.raises(SchemaError, match="duplicate events: rows 1 and 2 are both user 4, item 9"):
        EventLog.build([4, 4, 4], [9, 9, 9], [7.0, 5.0, 7.0])


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("user", as_type(np.int64), r"requests\.user is int64; it must be int32"),
        ("user", with_value(1, 3), r"requests\.user is 3, beyond the log's 3 users .*first row 1"),
        ("user", with_value(1, -1), r"requests\.user is negative"),
        ("items", with_value(2, 99), r"requests\.items has id 99, beyond the item table's 20 rows"),
        ("items", with_value(2, 0), r"requests\.items is 0 \(padding\) or negative .*first row 2"),
        ("items", lambda a: a[:, 0], r"requests\.items has shape \(3,\); it must be \(R, C\)"),
        ("labels", with_value(0, 2), r"requests\.labels has values other than 0 and 1"),
        (
            "labels",
            lambda a: a[:, :2],
            r"requests\.labels has shape \(3, 2, 2\); it must begin with",
        ),
        ("time", with_value(0, np.nan), r"requests\.time has NaN or infinity"),
        ("truth", lambda a: a[..., :1], r"requests\.truth has shape \(3, 3, 1\); it must equal"),
        ("truth", with_value(0, 1.5), r"requests\.truth is not a probability"),
        (
            "extra",
            lambda e: {"w": np.zeros(2)},
            r"requests\.extra\['w'\] has 2 rows; it must have 3",
        ),
    ],
)
def test_bad_requests_are_named(field, change, message):
    good = make_requests([(0, 1.0), (1, 2.0), (2, 3.0)]).validate(3, 20)
    bad = dataclasses.replace(good, **{field: change(getattr(good, field))})
    with pytest.raises(SchemaError, match=message):
        bad.validate(3, 20)


def test_requests_of_users_the_log_does_not_know_are_refused_by_the_loader():
    with pytest.raises(SchemaError, match=r"requests\.user is 7, beyond the log's 5 users"):
        BatchLoader(make_log(TOY), make_requests([(7, 1.0)]), length=3)


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "log.parquet"
    make_log(TOY).to_parquet(path)
    return path


def rewritten(path, change):
    """The file with its table changed but seqlib's metadata kept."""
    table = pq.read_table(path)
    meta = table.schema.metadata
    pq.write_table(change(table).replace_schema_metadata(meta), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["time"]), r"log\.parquet lacks \['time'\]; its columns must be"),
        (
            lambda t: t.append_column("label", t["action"]),
            r"log\.parquet has unknown \['label'\]; its columns must be \['user', 'item', 'time'",
        ),
        (
            lambda t: t.rename_columns(["uid", *t.column_names[1:]]),
            r"lacks \['user'\] and has unknown \['uid'\]",
        ),
        (
            lambda t: t.set_column(2, "time", t["time"].cast(pa.float32())),
            r"column 'time' is float; it must be double",
        ),
        (
            lambda t: t.set_column(1, "item", t["item"].cast(pa.int64())),
            r"column 'item' is int64; it must be int32",
        ),
        (
            lambda t: t.set_column(1, "item", pa.array([None, *range(2, 11)], pa.int32())),
            r"column 'item' has 1 nulls",
        ),
        (
            lambda t: t.take(list(range(9, -1, -1))),
            r"the log is not sorted by user and time: row 1",
        ),
        (lambda t: t.take([0, 0, *range(1, 9)]), r"duplicate events: rows 0 and 1"),
        (lambda t: t.slice(0, 0), r"the log has no events"),
    ],
)
def test_a_bad_parquet_log_is_named(written, change, message):
    rewritten(written, change)
    with pytest.raises(SchemaError, match=message):
        EventLog.from_parquet(written)


def test_a_log_from_the_future_is_named_when_it_is_read(written):
    EventLog.from_parquet(written, n_items=20, now=500.0)
    with pytest.raises(SchemaError, match=r"log\.time is in the future: 400 with now = 399"):
        EventLog.from_parquet(written, now=399.0)
    with pytest.raises(SchemaError, match=r"log\.item is 19, beyond the item table's 12 rows"):
        EventLog.from_parquet(written, n_items=12)


@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.9, -1])
def test_a_truncated_file_is_named(written, keep):
    raw = written.read_bytes()
    n = keep if isinstance(keep, int) else int(keep * len(raw))
    written.write_bytes(raw[:n])
    with pytest.raises(
        SchemaError, match=r"log\.parquet is no readable Parquet .*truncated.*again"
    ):
        EventLog.from_parquet(written)


def test_a_damaged_page_is_noticed(written):
    raw = bytearray(written.read_bytes())
    raw[40] ^= 0xFF
    written.write_bytes(raw)
    with pytest.raises(SchemaError, match="truncated or damaged: delete it and write it again"):
        EventLog.from_parquet(written)


def test_other_files_are_named(tmp_path, written):
    with pytest.raises(FileNotFoundError, match=r"nothing\.parquet does not exist"):
        EventLog.from_parquet(tmp_path / "nothing.parquet")
    pq.write_table(pa.table({"user": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(SchemaError, match=r"foreign\.parquet was not written by seqlib"):
        EventLog.from_parquet(tmp_path / "foreign.parquet")
    make_requests([(0, 1.0)]).to_parquet(tmp_path / "requests.parquet")
    with pytest.raises(SchemaError, match="holds a 'requests'; a 'event log' is needed here"):
        EventLog.from_parquet(tmp_path / "requests.parquet")
    with pytest.raises(SchemaError, match="holds a 'event log'; a 'requests' is needed here"):
        Requests.from_parquet(written)
    with pytest.raises(SchemaError, match="no readable Parquet"):
        EventLog.from_parquet(tmp_path)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("old", [True, False])
def test_an_interrupted_write_leaves_the_old_file_or_none(tmp_path, monkeypatch, error, old):
    path = tmp_path / "log.parquet"
    if old:
        make_log(TOY).to_parquet(path)

    def half(table, target, **options):
        target.write_bytes(b"PAR1 half a file")
        raise error

    monkeypatch.setattr(files.pq, "write_table", half)
    with pytest.raises(type(error)):
        make_log(TOY[:4]).to_parquet(path)
    assert [p.name for p in tmp_path.iterdir()] == (["log.parquet"] if old else [])
    if old:
        assert len(EventLog.from_parquet(path)) == 10


def test_a_killed_writer_leaves_the_old_file(tmp_path, written):
    program = """
        import os, sys
        from test_log import TOY, make_log
        from seqlib.data import files

        def half(table, target, **options):
            target.write_bytes(b"PAR1 half a file")
            os._exit(9)  # as if killed: nothing is cleaned up

        files.pq.write_table = half
        make_log(TOY[:4]).to_parquet(sys.argv[1])
    """
    here = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(written)],
        env={**os.environ, "PYTHONPATH": here},
    )
    assert done.returncode == 9
    assert len(EventLog.from_parquet(written)) == 10
    left = [p.name for p in tmp_path.iterdir() if p != written]
    assert len(left) == 1
    assert left[0].endswith(".partial")
    own = tmp_path / "log.parquet.mine.partial"
    own.write_text("keep me")
    with files.whole_file(written) as alive:  # a writer that lives
        alive.write_text("new")
        make_log(TOY[:4]).to_parquet(written)
        assert {p.name for p in tmp_path.iterdir()} == {written.name, alive.name, own.name}
    assert written.read_text() == "new"


def test_a_written_file_is_as_readable_as_any_other(tmp_path, written):
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert written.stat().st_mode == plain.stat().st_mode


# --- data sets --------------------------------------------------------------------------------


def tiny_dataset() -> Dataset:
    log = make_log([(*e[:3], e[3] & 15, e[4], *e[5:]) for e in TOY], n_users=3)
    requests = make_requests([(0, 250.0), (2, 300.0), (1, 310.0)], n_tasks=3)
    later = dataclasses.replace(requests, time=requests.time + 500.0)
    return Dataset(log, requests, later, tiny.spec()).validate()


def test_a_data_set_comes_back_as_it_was(tmp_path):
    data = tiny_dataset()
    data.save(tmp_path / "set")
    back = Dataset.load(tmp_path / "set")
    assert back.spec.name == data.spec.name
    assert back.spec.actions == data.spec.actions
    assert back.spec.base_rates == data.spec.base_rates
    for name, ids in data.spec.items.fields.items():
        assert (back.spec.items.fields[name] == ids).all()
    assert (back.spec.items.content == data.spec.items.content).all()
    assert (back.spec.items.dense == data.spec.items.dense).all()
    assert (back.spec.items.duration == data.spec.items.duration).all()
    np.testing.assert_array_equal(back.log.time, data.log.time)
    np.testing.assert_array_equal(back.test.labels, data.test.labels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_a_data_set_is_not_replaced_by_accident(tmp_path):
    data = tiny_dataset()
    data.save(tmp_path / "set")
    with pytest.raises(FileExistsError, match="set exists; choose another place or ask to replace"):
        data.save(tmp_path / "set")
    data.save(tmp_path / "set", replace=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="mine exists and is no data set; it is not replaced"):
        data.save(tmp_path / "mine", replace=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "set"]


@pytest.mark.parametrize("step", ["_write_items", "_head"])
def test_an_interrupted_save_leaves_the_old_data_set(tmp_path, monkeypatch, step):
    data = tiny_dataset()
    data.save(tmp_path / "set")

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, step, stop)
    with pytest.raises(KeyboardInterrupt):
        data.save(tmp_path / "set", replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert len(list((tmp_path / "set").iterdir())) == 5
    assert len(Dataset.load(tmp_path / "set").log) == 10


def test_a_folder_that_is_no_data_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no data set: there is no spec\.json in it"):
        Dataset.load(tmp_path)
    tiny_dataset().save(tmp_path / "set")
    (tmp_path / "set" / "test.parquet").unlink()
    with pytest.raises(
        SchemaError, match=r"set lacks \['test\.parquet'\]; write the data set again"
    ):
        Dataset.load(tmp_path / "set")


def test_a_damaged_data_set_is_named(tmp_path):
    tiny_dataset().save(tmp_path / "set")
    spec = tmp_path / "set" / "spec.json"
    spec.write_text(spec.read_text()[:100])
    with pytest.raises(SchemaError, match=r"spec\.json is damaged .*; write it again"):
        Dataset.load(tmp_path / "set")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "test",
            lambda d: d.train,
            "a test request at 250.0.* is not later than the last training",
        ),
        ("train", lambda d: d.train[:0], "there are no train requests"),
        ("train", lambda d: make_requests([(0, 1.0)]), "train labels have 2 tasks; the spec has"),
        (
            "log",
            lambda d: make_log(TOY[:1], n_users=1),
            r"requests\.user is 2, beyond the log's 1 users",
        ),
        (
            "log",
            lambda d: dataclasses.replace(d.log, action=d.log.action + np.uint8(16)),
            "log.action has .*; 4 actions end at bit set 15",
        ),
        (
            "log",
            lambda d: dataclasses.replace(d.log, surface=d.log.surface + np.uint8(2)),
            "log.surface has 3; there are 2 surfaces, from 0",
        ),
        (
            "log",
            lambda d: dataclasses.replace(d.log, item=d.log.item + np.int32(20)),
            "log.item is 39, beyond the item table's 32 rows",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(part, change, message):
    data = tiny_dataset()
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(data, **{part: change(data)}).validate()
