"""Batches of requests, each with the history that it had at its moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import batches, kernels
from . import columns as checks
from .event_log import EventLog, cut
from .identity import digest, name_of
from .requests import Requests
from .schema import Answers, Events, Items, Request, RequestBatch, SchemaError
from .sources import Feature, Source, identity_of, log_digests
from .spans import Spans


class BatchLoader:
    """Batches of requests with the history each had at its moment.

    Iterating gives ``RequestBatch`` objects, events newest first, padded to the longest history of
    the batch (at least one column). Every random choice is a function of ``seed``, the epoch and
    the request, so that neither batch size nor number of processes nor a resume changes it.

    Args:
        log: events of all users.
        requests: requests of the same users.
        length: L, the most events of a history; the newest are kept.
        batch_size: requests per batch and process.
        shuffle: new order every epoch.
        seed: of order, drawn candidates and other users.
        candidates: draw so many of each request's C without replacement; None takes all.
        sort_by_length: put requests of similar history length in the log together, so that less is
            padding: the whole set, or with ``shuffle`` within 50 batches, whose order is then
            shuffled.
        other_user: give each request the history of another random user at the same time, of the
            16 drawn the one nearest in length. A control: what is left is not personal.
        source: what gives the histories; None is the raw log.
        more: by name, what else to give the model in ``request.more``: sources of a second history,
            or functions of the same three arguments that give tensors with B rows.
        rank: this process.
        world_size: number of processes; the shards cover every request once, and all have the same
            number of batches.

    Raises:
        SchemaError: requests that don't fit the log; while iterating, a source that gives other
            than (B, at most L) events before the requests' times.
        ValueError: an argument out of range, or ``other_user`` together with a source.
    """

    def __init__(
        self,
        log: EventLog,
        requests: Requests,
        *,
        length: int,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        candidates: int | None = None,
        sort_by_length: bool = False,
        other_user: bool = False,
        source: Source | None = None,
        more: Mapping[str, Feature] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.log = log
        self.requests = requests
        self.source = source
        self.more = dict(more or {})
        self.length = length
        self.batch_size = batch_size
        self.candidates = candidates
        self.rank = rank
        self.config: dict[str, Any] = {
            "requests": len(requests),
            "length": length,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": seed,
            "candidates": candidates,
            "sort_by_length": sort_by_length,
            "other_user": other_user,
            "world_size": world_size,
        }
        # Only where they are given, so that a loader without them is the one it always was.
        if source is not None:
            self.config["source"] = name_of(source)
        if self.more:
            self.config["more"] = {name: name_of(make) for name, make in self.more.items()}
        _check(self)
        self._bounds = batches.shard(len(requests), batch_size, rank, world_size)
        self._spans = Spans(log, requests, length, other_user, seed)
        self._epoch = 0
        self._start = 0
        self._next = 0

    def __len__(self) -> int:
        """Batches per epoch of this process."""
        return len(self._bounds) - 1

    def identity(self) -> dict[str, Any]:
        """Settings, and a digest of everything that a batch is made of. O(bytes of all columns).

        Two loaders of one identity give the same batches, or shards of the same ones.
        """
        trained_on = ("user", "time", "surface", "position", "items", "labels")
        out = {
            **self.config,
            "n_users": self.log.n_users,
            "log_columns": log_digests(self.log),
            "request_columns": {k: digest({k: getattr(self.requests, k)}) for k in trained_on},
        }
        if self.source is not None:
            out["source"] = identity_of(self.source)
        if self.more:
            out["more"] = {name: identity_of(make) for name, make in self.more.items()}
        return out

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, and begin at its first batch."""
        self._epoch = epoch
        self._start = 0
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: epoch and next batch, and the settings these belong to."""
        return {"epoch": self._epoch, "next_batch": self._next, "config": dict(self.config)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken: the batches that follow are the very same.

        Raises:
            ValueError: the state belongs to a loader with other settings; names them.
        """
        there = state["config"]
        here = self.config
        differs = [k for k in {**here, **there} if there.get(k) != here.get(k)]
        if differs:
            what = ", ".join(f"{k} ({there.get(k)} there, {here.get(k)} here)" for k in differs)
            raise ValueError(f"the state is of another loader; it differs in {what}")
        self._epoch = int(state["epoch"])
        self._next = int(state["next_batch"])
        self._start = self._next

    def __iter__(self) -> Iterator[RequestBatch]:
        start = self._start
        self._start = 0
        self._next = start
        for i, rows in enumerate(self._plan()[start:], start + 1):
            batch = self.batch(rows)
            self._next = i
            yield batch

    def batch(self, rows: NDArray[np.int64]) -> RequestBatch:
        """The batch of these requests, in this order, as of the current epoch.

        Args:
            rows: (B,) indices into ``requests``.
        """
        rows = np.asarray(rows, dtype=np.int64)
        r = self.requests
        items, answers = _candidates(r, rows, self.candidates, self.config["seed"], self._epoch)
        request = Request(
            events=self._events(rows),
            items=items,
            time=torch.from_numpy(r.time[rows]),
            surface=torch.from_numpy(r.surface[rows].astype(np.int64)),
            position=torch.from_numpy(r.position[rows].astype(np.int64)),
            user=torch.from_numpy(r.user[rows].astype(np.int64)),
            more={
                name: _ask(f"more[{name!r}]", make, r, rows, self.length)
                for name, make in self.more.items()
            },
        )
        return RequestBatch(request, answers, torch.from_numpy(rows))

    def _events(self, rows: NDArray[np.int64]) -> Events:
        if self.source is None:
            low, high = self._spans.at(self._epoch)
            return cut(self.log, low[rows], high[rows])
        return _ask("source", self.source, self.requests, rows, self.length)

    def _plan(self) -> list[NDArray[np.int64]]:
        """Indices of each batch of this process."""
        low, high = self._spans.at(self._epoch)
        return batches.plan(
            self._bounds,
            len(self.requests),
            np.random.default_rng([self.config["seed"], self._epoch]),
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.config["world_size"],
            shuffle=self.config["shuffle"],
            sizes=high - low if self.config["sort_by_length"] else None,
        )


def _check(loader: BatchLoader) -> None:
    """The arguments of a loader, and that log and requests belong together."""
    log = loader.log
    requests = loader.requests
    if len(log) == 0:
        raise SchemaError("the log has no events; there is no history to cut")
    checks.check_time("log.time", log.time)
    requests.validate(n_users=log.n_users, log=log)
    for name in ("length", "batch_size"):
        if getattr(loader, name) < 1:
            raise ValueError(f"{name} is {getattr(loader, name)}; it must be at least 1")
    if loader.config["seed"] < 0:
        raise ValueError(f"seed is {loader.config['seed']}; it must not be negative")
    last = loader.config["world_size"] - 1
    if not 0 <= loader.rank <= last:
        raise ValueError(f"rank is {loader.rank}; it must be in 0..{last} (world_size - 1)")
    n = requests.items.shape[1]
    if loader.candidates is not None and not 1 <= loader.candidates <= n:
        raise ValueError(
            f"candidates is {loader.candidates}; requests here have {n}, so it must be in 1..{n}"
        )
    if loader.config["other_user"] and (loader.source is not None or loader.more):
        given = "source" if loader.source is not None else f"more {sorted(loader.more)}"
        raise ValueError(
            f"other_user=True takes histories from the raw log, but {given} is given too and would "
            f"bring the user's own; leave one of them out"
        )


def _ask(name: str, make: Feature, requests: Requests, rows: NDArray[np.int64], length: int) -> Any:
    """What a source gives, if it has a row for each request and nothing of their future."""
    value = make(requests, rows, length)
    n = value.shape[0] if hasattr(value, "shape") else len(value)
    if n != len(rows):
        raise SchemaError(f"{name} gives {n} rows; there are {len(rows)} requests in the batch")
    if isinstance(value, Events):
        if value.shape[1] > length:
            raise SchemaError(
                f"{name} gives {value.shape[1]} events a request; at most {length} were asked for"
            )
        try:
            value.validate(torch.from_numpy(requests.time[rows]))
        except SchemaError as error:
            raise SchemaError(f"{name}: {error}") from error
    return value


def _candidates(
    r: Requests, rows: NDArray[np.int64], n: int | None, seed: int, epoch: int
) -> tuple[Items, Answers]:
    """All candidates of some requests, or n drawn ones in their order, and their answers."""
    items = r.items[rows]
    labels = r.labels[rows]
    truth = None if r.truth is None else r.truth[rows]
    if n is not None:
        dice = kernels.dice(seed, epoch, rows, items.shape[1])
        pick = np.sort(np.argsort(dice, axis=1)[:, :n], axis=1)
        items = np.take_along_axis(items, pick, 1)
        labels = np.take_along_axis(labels, pick[..., None], 1)
        truth = None if truth is None else np.take_along_axis(truth, pick[..., None], 1)
    answers = Answers(
        labels=torch.from_numpy(labels.astype(np.float32)),
        truth=None if truth is None else torch.from_numpy(truth),
    )
    return Items(torch.from_numpy(items.astype(np.int64))), answers
