"""A data set's folder: nobody else's file is touched, and every reader gets one whole set."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_cli import run
from test_data_errors import tiny_dataset
from test_log import TOY, make_log
from test_public import ANN, HISTORY, day, make_clone

from seqlib.data import _folder
from seqlib.data.dataset import Dataset
from seqlib.data.schema import SchemaError

ROOT = Path(__file__).parents[1]


def contents(path):
    """Every file below ``path`` with its bytes."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def saved(tmp_path):
    """A data set on disk."""
    tiny_dataset().save(tmp_path / "set")
    return tmp_path / "set"


def as_before_digests(path):
    """The same data set as it was written before ``spec.json`` held digests."""
    head = json.loads((path / "spec.json").read_text())
    old = {key: head[key] for key in _folder.FIELDS}
    (path / "spec.json").write_text(json.dumps(old))


# --- nothing of others is deleted ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"name": "my-project", "version": 1}'])
def test_a_spec_json_of_somebody_else_makes_no_data_set(tmp_path, text):
    project = tmp_path / "proj"
    (project / "src").mkdir(parents=True)
    (project / "spec.json").write_text(text)
    (project / "src" / "main.py").touch()
    before = contents(project)
    with pytest.raises(FileExistsError, match="proj exists and is no data set; it is not replaced"):
        tiny_dataset().save(project, replace=True)
    assert contents(project) == before
    with pytest.raises(SchemaError, match=r"spec\.json"):
        Dataset.load(project)


def put(name, text="mine"):
    return lambda path: (path / name).write_text(text)


def change_with_arrow(path):
    """Keeps the library's own metadata, but not its rows."""
    table = pq.read_table(path / "log.parquet")
    pq.write_table(table.slice(0, 5), path / "log.parquet")


def link(path):
    os.replace(path / "log.parquet", path.parent / "elsewhere.parquet")
    (path / "log.parquet").symlink_to(path.parent / "elsewhere.parquet")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("notes.txt", put("notes.txt")),
        (".hidden", put(".hidden")),
        ("log.parquet.bak", put("log.parquet.bak")),
        (".log.parquet.mine", put(".log.parquet.mine")),
        ("figures", lambda path: (path / "figures").mkdir()),
        ("log.parquet", put("log.parquet")),
        (
            "items.parquet",
            lambda path: pq.write_table(pa.table({"mine": [1]}), path / "items.parquet"),
        ),
        ("log.parquet", link),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_what_was_not_written_with_the_set_is_named_and_kept(saved, name, change, old):
    change(saved)
    if old:
        as_before_digests(saved)
    before = contents(saved)
    with pytest.raises(FileExistsError, match=rf"set holds {name}, which was not written with"):
        tiny_dataset().save(saved, replace=True)
    assert contents(saved) == before


def test_changed_rows_are_noticed_where_there_are_digests(saved):
    change_with_arrow(saved)
    before = contents(saved)
    with pytest.raises(
        FileExistsError, match=r"set holds log\.parquet, which was not written with"
    ):
        tiny_dataset().save(saved, replace=True)
    assert contents(saved) == before


def test_a_changed_specification_is_no_data_set_of_ours(saved):
    text = (saved / "spec.json").read_text()
    (saved / "spec.json").write_text(text.replace('"tiny"', '"my own"'))
    with pytest.raises(SchemaError, match=r"spec\.json is damaged, or was changed by hand"):
        Dataset.load(saved)
    with pytest.raises(FileExistsError, match="is no data set; it is not replaced"):
        tiny_dataset().save(saved, replace=True)


def test_the_command_keeps_what_is_not_its_own(capsys, tmp_path):
    commits = [*HISTORY, *((ANN, day(10 + i), {"a.txt": f"x{i}"}) for i in range(30))]
    clone = make_clone(tmp_path / "clone", commits)
    project = tmp_path / "proj"
    (project / "src").mkdir(parents=True)
    (project / "spec.json").write_text("{}")
    (project / "src" / "main.py").touch()
    before = contents(project)
    args = ("git", clone, "--min-events", 20, "--out")
    code, _, errors = run(capsys, *args, project, "--replace")
    assert (code, contents(project)) == (2, before)
    assert "is no data set; it is not replaced" in errors[0]

    assert run(capsys, *args, tmp_path / "set")[0] == 0
    (tmp_path / "set" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "set")
    code, _, errors = run(capsys, *args, tmp_path / "set", "--replace")
    assert (code, contents(tmp_path / "set")) == (2, before)
    assert "set holds notes.txt" in errors[0]


def test_a_clone_with_a_spec_json_is_a_clone(capsys, tmp_path):
    commits = [*HISTORY, (ANN, day(10), {"spec.json": "{}"})]
    code, _, errors = run(capsys, "info", make_clone(tmp_path / "clone", commits))
    assert code == 2
    assert "no author has 500 events" in errors[0]


def test_an_empty_folder_can_be_filled_and_a_file_can_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError, match="empty exists; choose another place or ask"):
        tiny_dataset().save(tmp_path / "empty")
    tiny_dataset().save(tmp_path / "empty", replace=True)
    assert len(Dataset.load(tmp_path / "empty").log) == 10
    (tmp_path / "file").write_text("mine")
    for replace in (False, True):
        with pytest.raises(FileExistsError, match="file exists and is no folder"):
            tiny_dataset().save(tmp_path / "file", replace=replace)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_data_set_from_before_the_digests_is_read_and_replaced(saved):
    as_before_digests(saved)
    assert len(Dataset.load(saved).log) == 10
    tiny_dataset().save(saved, replace=True)
    assert json.loads((saved / "spec.json").read_text())["format"] == _folder.FORMAT
    assert len(Dataset.load(saved).log) == 10


# --- one whole set -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(_folder.KINDS))
def test_a_file_of_another_set_is_named(saved, tmp_path, name):
    tiny_dataset().save(tmp_path / "other")
    log = make_log([(*e[:3], e[3] & 15, *e[4:]) for e in TOY[:7]], n_users=3)
    Dataset(log, *(getattr(tiny_dataset(), k) for k in ("train", "test", "spec"))).save(
        tmp_path / "third"
    )
    shutil.copy(tmp_path / "other" / name, saved / name)
    Dataset.load(saved)  # the same bytes, which is the same file
    foreign = tmp_path / "third" / "log.parquet"
    shutil.copy(foreign, saved / name)
    with pytest.raises(SchemaError, match=rf"{name} is not the file that spec\.json names"):
        Dataset.load(saved)


@pytest.mark.parametrize("moved", range(5))
def test_a_set_whose_files_are_still_on_their_way_is_read(saved, moved):
    """As after a kill between the commit and the last of the new names."""
    set_id = json.loads((saved / "spec.json").read_text())["set"]
    before = contents(saved)
    for name in list(_folder.KINDS)[moved:]:
        os.replace(saved / name, saved / f".{name}.{set_id}")
        (saved / name).write_text("of the old set")
    assert len(Dataset.load(saved).log) == 10
    _folder.require_room(saved, replace=True)
    assert contents(saved) == before


def test_what_a_dead_writer_left_does_not_stand_in_the_way(tmp_path):
    place = tmp_path / "set"
    place.mkdir()
    for name in (".log.parquet.0123456789abcdef", ".log.parquet.0123456789abcdef.ab_12xyz.partial"):
        (place / name).write_text("half")
    with pytest.raises(FileNotFoundError, match="a save was begun and not finished: save again"):
        Dataset.load(place)
    tiny_dataset().save(place)
    assert sorted(contents(place)) == sorted(["spec.json", *_folder.KINDS])


def worker(*args):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "save_worker.py"), *map(str, args)]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_sixty_kills_leave_sixty_whole_sets_and_no_rest(tmp_path):
    told = worker("kill", tmp_path, 60)
    assert told["whole"] == 60
    assert told["clean"] == told["folders"] == 6  # five files each, and nothing beside the folders
    assert told["most"] > 5  # some were killed in the middle


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_the_old_set_or_the_new_one(tmp_path):
    told = worker("steps", tmp_path, 19)
    assert told["whole"] == told["clean"] == 2 * 19
    assert told["finished"] > 0  # the last steps are beyond the end: every step was tried
    assert told["old"] > 0
    assert told["new"] > told["finished"]


@pytest.mark.slow
def test_fifty_loads_during_exchanges_are_whole(tmp_path):
    told = worker("read", tmp_path, 50)
    assert told["whole"] == 50
    assert told["changes"] > 0
