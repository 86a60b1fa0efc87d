"""Several jobs at a time, one thread each: on a CPU that beats one job with several threads.

Workers live as long as there is work, since each has to import torch and make its data set once. One
that dies is named, with its job. If this process is killed, they end by themselves.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm.auto import tqdm

from . import cache
from .cache import Job

BAR = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}, {remaining} to go]"
UNTIMED = 60.0  # seconds that a job counts for in the bar when nothing is known of it


class WorkerError(RuntimeError):
    """A job failed; the message holds its key and what it raised."""


def train(
    jobs: Sequence[Job],
    workers: int,
    anew: bool = False,
    expected: Mapping[str, float | None] | None = None,
) -> int:
    """Make what is not kept yet; how many were made.

    Runs come before pieces, which are made from them; within each, one data set after another.
    What is finished is kept, so who is interrupted asks for the same again.

    Args:
        jobs: runs and pieces; the same key twice is made once.
        workers: processes, one thread each.
        anew: make again what other code or an unclean tree made.
        expected: key -> seconds, for the bar.

    Raises:
        WorkerError: a job failed, or its process died.
    """
    known = expected or {}
    cost = {job.key: known.get(job.key) or UNTIMED for job in jobs}
    open_ = {j.key: j for j in jobs if _is_open(cache.state(j), anew)}
    order = sorted(open_.values(), key=lambda j: (bool(j.uses), j.homes, _data(j), cost[j.key]))
    ready = [j for j in order if not j.uses]
    later = [j for j in order if j.uses]
    with _Progress({key: cost[key] for key in open_}) as progress:
        for part in (ready, later):
            _work(part, workers, anew, progress)
    return len(open_)


class _Progress:
    """One bar over all jobs, in seconds of work, so that what is left is a time."""

    def __init__(self, cost: Mapping[str, float]) -> None:
        self.cost = cost
        self.done = 0
        self.bar = tqdm(total=sum(cost.values()), bar_format=BAR, disable=not cost)
        self._tell()

    def finished(self, key: str) -> None:
        """One job more."""
        self.done += 1
        self.bar.update(self.cost[key])
        self._tell()

    def _tell(self) -> None:
        self.bar.set_postfix_str(f"{self.done} of {len(self.cost)} jobs")

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _is_open(state: cache.State, anew: bool) -> bool:
    return not state.is_there or (anew and (bool(state.stale) or state.is_unclean))


def _data(job: Job) -> str:
    return str(job.recipe.get("data", {}).get("name", ""))


class _Worker:
    """A process that makes one job after another."""

    def __init__(self, anew: bool) -> None:
        # A new process takes over that Ctrl-C is not for it; only this one speaks of it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            arguments = (theirs, anew, cache.FOLDER)
            self.process = context.Process(target=_serve, args=arguments, daemon=True)
            self.process.start()
            theirs.close()
        finally:
            signal.signal(signal.SIGINT, handler)
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        """Begin a job."""
        self.job = job
        self.connection.send((job.homes, job))

    def take(self) -> Job:
        """The job that has just ended.

        Raises:
            WorkerError: it failed.
        """
        job = self.job
        assert job is not None
        try:
            error = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise WorkerError(
                f"the process that made {job.key} died (exit code {self.process.exitcode}); it may "
                f"have been short of memory: use fewer --workers"
            ) from None
        if error:
            raise WorkerError(f"{job.key} failed:\n{error}")
        self.job = None
        return job

    def end(self) -> None:
        """Stop, in the middle of a job if need be: half a file is never left under its name."""
        if self.job is not None:
            self.process.terminate()
        self.connection.close()  # who waits for a job takes this for the end
        self.process.join()


def _work(
    jobs: list[Job],
    workers: int,
    anew: bool,
    progress: _Progress,
) -> None:
    waiting = list(reversed(jobs))
    team: list[_Worker] = []
    try:
        for _ in range(min(workers, len(jobs))):
            team.append(_Worker(anew))
            team[-1].give(waiting.pop())
        while busy := {w.connection: w for w in team if w.job is not None}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                progress.finished(worker.take().key)
                if waiting:
                    worker.give(waiting.pop())
    finally:
        for worker in team:
            worker.end()


def _serve(connection: Connection, anew: bool, folder: Any) -> None:
    """A worker's life: jobs in, None or the error's text out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cache.FOLDER = folder
    # A lock between processes would be left behind by a worker that is stopped.
    tqdm.set_lock(threading.RLock())
    while True:
        try:
            homes, job = connection.recv()
        except EOFError:
            return
        try:
            for home in homes:
                importlib.import_module(home)
            cache.obtain(job, anew=anew)
            connection.send(None)
        except Exception:
            connection.send(traceback.format_exc(limit=-3))


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever, or go on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
