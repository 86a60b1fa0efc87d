"""Workers: one bar, resumable, killed at any time without litter, and one line at Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy

from experiments.engine import cache, pool
from experiments.engine.piece import Piece

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    toy.use(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    return tmp_path


def total(seed: int) -> dict[str, np.ndarray]:
    """A piece that reads a run."""
    return {"total": cache.execute(toy.run(seed=seed)).score.sum(keepdims=True)}


def fails(seed: int) -> dict[str, np.ndarray]:
    raise ValueError("this piece can't be made")


def dies(seed: int) -> dict[str, np.ndarray]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.slow
def test_workers_make_runs_then_pieces_once_and_nothing_the_second_time(kept, capsys):
    runs = toy.runs()
    pieces = [Piece("total", total, {"seed": s}, {}, (runs[s],)) for s in (0, 1)]
    jobs = [*pieces, *runs, *runs]
    assert pool.train(jobs, workers=2) == 4
    assert "4 of 4 jobs" in capsys.readouterr().err
    assert all(cache.state(job) == cache.state(jobs[0]) for job in jobs)
    assert pool.train(jobs, workers=2) == 0
    one = cache.execute(runs[0])
    cache.path(runs[0].key).unlink()
    assert (
        cache.execute(runs[0]).score == one.score
    ).all()  # a worker's numbers are this process's


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fails, r"bad-0-\w+ failed:(.|\n)*ValueError: this piece can't be made"),
        (dies, r"the process that made bad-0-\w+ died \(exit code -9\)"),
    ],
)
def test_a_job_that_fails_is_named(kept, function, message):
    with pytest.raises(pool.WorkerError, match=message):
        pool.train([Piece("bad", function, {"seed": 0}, {})], workers=1)


SLOW = """
import sys, time
sys.path[:0] = {paths!r}
import test_pool_slow
from pathlib import Path
from experiments import __main__ as command
from experiments.engine import cache
from experiments.engine.summary import Study
if __name__ == "__main__":
    cache.FOLDER = Path({folder!r})
    command.ALL["slow"] = Study(dict, jobs=test_pool_slow.jobs)
    raise SystemExit(command.main(["run", "slow", "--draft", "--workers", "2"]))
"""
MODULE = """
import time
from pathlib import Path
import numpy as np
from experiments.engine.piece import Piece
def slow(seed):
    Path({folder!r}, f"began-{{seed}}").touch()
    if seed:
        time.sleep(100)
    return {{"seed": np.array([seed])}}
def jobs():
    return [Piece("slow", slow, {{"seed": s}}, {{}}) for s in range(4)]
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A command with four jobs, of which one ends at once; when another has begun."""
    monkeypatch.setattr("experiments.engine.code.ROOT", tmp_path)
    folder = tmp_path / "cache"
    folder.mkdir()
    (tmp_path / "test_pool_slow.py").write_text(MODULE.format(folder=str(folder)))
    script = tmp_path / "command.py"
    script.write_text(SLOW.format(paths=[str(tmp_path), str(ROOT)], folder=str(folder)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not ((folder / "began-2").exists() and list(folder.glob("*.npz"))):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process, folder
    if process.poll() is None:
        process.kill()
    process.communicate()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(x) for x in path.read_text().split()] if path.exists() else []


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("began"))


@pytest.mark.slow
def test_ctrl_c_gives_one_line_and_leaves_whole_files_only(slow):
    process, folder = slow
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    said = [line for line in error.replace("\r", "\n").splitlines() if line and "%|" not in line]
    assert said == ["stopped; what is finished is kept, and the same command goes on"]
    assert len(left(folder)) == 1
    wait_for_the_end_of(workers)


@pytest.mark.slow
def test_a_killed_command_leaves_no_workers_and_no_half_files(slow):
    process, folder = slow
    workers = children(process.pid)
    assert workers
    process.kill()
    process.communicate()
    wait_for_the_end_of(workers)
    assert len(left(folder)) == 1


def wait_for_the_end_of(workers: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers went on without their command"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """A process that is there and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_writer_that_was_killed_leaves_a_name_that_the_next_one_clears(kept):
    run = toy.run()
    cache.FOLDER.mkdir(parents=True)
    litter = cache.FOLDER / f"{run.key}.npz.abcdefgh.partial"
    litter.write_bytes(b"half")
    cache.execute(run)
    assert sorted(p.suffix for p in cache.FOLDER.iterdir()) == [".npz", ".safetensors"]
