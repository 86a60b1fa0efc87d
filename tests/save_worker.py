"""Data sets saved over each other by processes that are killed, and loaded meanwhile.

Run as a program, it imports the library once and forks a process for every save, so that a kill
costs milliseconds: ``save_worker.py kill|steps|read FOLDER N``, one JSON object on standard output.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from test_data_errors import tiny_dataset
from test_log import make_log, make_requests

from seqlib.data import _folder, files
from seqlib.data.dataset import Dataset


def marked(mark: int, n: int = 20_000) -> Dataset:
    """A data set whose every part tells which one it is."""
    rows = [(i % 3, 2 + (i + mark) % 20, float(i), 1, 0, float(mark), 1.0) for i in range(n)]
    train = make_requests([(i % 3, n * 0.5 + i + mark / 4) for i in range(400)], n_tasks=3)
    test = dataclasses.replace(train, time=train.time + 500.0)
    spec = dataclasses.replace(tiny_dataset().spec, notes={"mark": mark})
    table = dataclasses.replace(spec.items, duration=spec.items.duration + mark)
    return Dataset(make_log(rows, 3), train, test, dataclasses.replace(spec, items=table))


SETS = [marked(0), marked(1)]


def which(path: Path) -> int:
    """The mark of the data set there; an error if its parts disagree."""
    data = Dataset.load(path)
    marks = {
        data.spec.notes["mark"],
        int(data.log.watch[0]),
        int(data.spec.items.duration[0]),
        round(float(data.train.time[0] % 1) * 4),
        round(float(data.test.time[0] % 1) * 4),
    }
    if len(marks) != 1:
        raise AssertionError(f"a mix: {marks}")
    return marks.pop()


def forked(action: Callable[[], object]) -> int:
    """A process that does it, and answers with its exit code: 0, or 1 with the error shown."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        action()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def done(pid: int) -> bool:
    """Wait for it; whether it ended without an error."""
    return os.waitpid(pid, 0)[1] == 0


def save_for_ever(path: Path) -> None:
    """One set over the other."""
    while True:
        for data in SETS:
            data.save(path, replace=True)


def kill(path: Path, n: int) -> dict[str, int]:
    """Kill n savers at random moments, every tenth of a folder that was not there before."""
    rng, whole, most = random.Random(0), 0, 0
    for i in range(n):
        place = path / f"set{i // 10}"
        saver = forked(lambda p=place: save_for_ever(p))
        deadline = time.monotonic() + 60
        while not _folder.is_data_set(place) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        os.kill(saver, signal.SIGKILL)
        os.waitpid(saver, 0)
        whole += done(forked(lambda p=place: which(p)))
        most = max(most, len(list(place.iterdir())))
    clean = 0
    for place in list(path.iterdir()):
        saved = done(forked(lambda p=place: SETS[0].save(p, replace=True)))
        clean += saved and len(list(place.iterdir())) == 5
    return {"whole": whole, "clean": clean, "most": most, "folders": len(list(path.iterdir()))}


def steps(path: Path, n: int) -> dict[str, int]:
    """Kill a saver before its k-th change of a name or content, k = 0 … n − 1, over an old set."""

    def stop_at(k: int, place: Path) -> None:
        left = [k]

        def counted(real: Callable) -> Callable:
            def call(*args, **options):
                if left[0] == 0:
                    os._exit(0)
                left[0] -= 1
                return real(*args, **options)

            return call

        os.replace, os.unlink = counted(os.replace), counted(os.unlink)
        files.pq.write_table = counted(files.pq.write_table)
        SETS[1].save(place, replace=True)
        os._exit(3)  # it went on to the end

    out = {"whole": 0, "old": 0, "new": 0, "finished": 0, "clean": 0}
    for k in range(n):
        for fresh in (False, True):  # over an old set, and where there was none
            place = path / f"{k}-{fresh}"
            if not fresh:
                done(forked(lambda p=place: SETS[0].save(p)))
            ended = os.waitpid(forked(lambda k=k, p=place: stop_at(k, p)), 0)[1]
            out["finished"] += os.waitstatus_to_exitcode(ended) == 3
            there = os.waitpid(forked(lambda p=place: os._exit(10 + which(p))), 0)[1]
            code = os.waitstatus_to_exitcode(there)
            out["old"] += code == 10
            out["new"] += code == 11
            out["whole"] += code >= 10 or (fresh and not _folder.is_data_set(place))
            again = done(forked(lambda p=place: SETS[0].save(p, replace=True)))
            out["clean"] += again and len(list(place.iterdir())) == 5
    return out


def read(path: Path, n: int) -> dict[str, int]:
    """Load n times while one set takes the other's place again and again."""
    place = path / "set"
    SETS[0].save(place)
    saver = forked(lambda: save_for_ever(place))
    try:
        seen = [which(place) for _ in range(n)]
    finally:
        os.kill(saver, signal.SIGKILL)
        os.waitpid(saver, 0)
    changes = int(np.count_nonzero(np.diff(seen)))
    return {"whole": len(seen), "zeros": seen.count(0), "ones": seen.count(1), "changes": changes}


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as warm
    ):  # what is imported late is imported before the forks
        SETS[0].save(Path(warm) / "set")
        which(Path(warm) / "set")
    action = {"kill": kill, "steps": steps, "read": read}[sys.argv[1]]
    print(json.dumps(action(Path(sys.argv[2]), int(sys.argv[3]))))
