"""The shapes everything speaks: events, candidate items, requests, answers, and the item table.

A *request* is a user at a moment with C candidates. Its history holds only events strictly before
the moment, **newest first, padding last**, so ``events[:, :100]`` means "the 100 most recent".

Sizes: B requests, C candidates per request, L history length, T tasks, N items.
Ids: 0 is padding, 1 is an unknown item, real items start at 2 — in every table of the course.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .tensors import Tensors

PAD = 0
UNKNOWN = 1
FIRST_ID = 2
SECONDS_PER_DAY = 86_400.0
MOST_ACTIONS = 60  # with the watch bucket above them, an id still fits in 63 bits
LATEST = 1e11  # as seconds: the year 5138; as milliseconds: 1973


class SchemaError(ValueError):
    """Input that breaks a contract of the course; the message names the field and what is right."""


@dataclass(frozen=True)
class Task:
    """One thing that a ranker predicts of a candidate.

    Attributes:
        name: e.g. "click". kind: "binary", a probability trained by cross-entropy; or "real", a
            number such as watch time, trained by squared error.
    """

    name: str
    kind: Literal["binary", "real"] = "binary"

    def __post_init__(self) -> None:
        if self.kind not in ("binary", "real"):
            raise SchemaError(f"task {self.name!r} is {self.kind!r}; it is 'binary' or 'real'")

    def __str__(self) -> str:
        return self.name


def _require_seconds(name: str, time: Tensor) -> None:
    if not torch.isfinite(time).all():
        raise SchemaError(f"{name} has NaN or infinity; every value must be finite")
    if (time.abs() > LATEST).any():
        raise SchemaError(
            f"{name} reaches {float(time.abs().max()):.6g}; it must be seconds, and that looks like "
            f"milliseconds: divide by 1000"
        )


@dataclass(frozen=True, eq=False)
class Events(Tensors):
    """Histories of B users, newest first, padding last.

    Attributes:
        item: (B, L) int64, ids into the ``ItemTable``; 0 where there is no event.
        action: (B, L) int64, a bit set: several actions on one impression are **one** event.
        surface: (B, L) int64, where it was shown, from 0.
        time: (B, L) float64, seconds.
        watch: (B, L) float32, seconds watched.
        duration: (B, L) float32, seconds the item lasts (0 where that has no meaning).
        mask: (B, L) bool, True where there is an event.
        count: (B, L) float32, how many events each stands for (a cluster carries its size); None
            is one each. 0 on padding.
    """

    item: Tensor
    action: Tensor
    surface: Tensor
    time: Tensor
    watch: Tensor
    duration: Tensor
    mask: Tensor
    count: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(B, L)."""
        return self.item.shape

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, number of real events of each row."""
        return self.mask.sum(-1)

    def pad(self, n: int) -> Events:
        """The same histories with ``n`` more padded positions at the end."""
        return self._map(lambda t: torch.cat([t, t.new_zeros(t.shape[0], n)], dim=1))

    def select(self, wanted: Tensor, length: int) -> Events:
        """The newest ``length`` events among those wanted, in order, padding last.

        Args:
            wanted: (B, L) bool; padding is never taken.
            length: width of the result, (B, min(length, L)).
        """
        keep = wanted & self.mask
        order = torch.argsort(~keep, dim=1, stable=True)[:, :length]
        kept = keep.gather(1, order)
        return self._map(lambda t: t.gather(1, order) * kept)

    def validate(self, request_time: Tensor | None = None) -> Events:
        """Check shapes, types, order and padding; return self.

        Args:
            request_time: (B,) float64; when given, every event must be strictly older.

        Raises:
            SchemaError: naming the field, what it was and what would be right.
        """
        want = {"item": torch.int64, "action": torch.int64, "surface": torch.int64}
        want |= {"time": torch.float64, "mask": torch.bool}
        want |= {"watch": torch.float32, "duration": torch.float32}
        if self.count is not None:
            want["count"] = torch.float32
        for name, dtype in want.items():
            t = getattr(self, name)
            if t.dtype != dtype:
                raise SchemaError(f"events.{name} is {t.dtype}; it must be {dtype}")
            if t.ndim != 2 or t.shape != self.item.shape:
                raise SchemaError(
                    f"events.{name} has shape {tuple(t.shape)}; all fields of events must have one "
                    f"shape (B, L), item has {tuple(self.item.shape)}"
                )
        if (self.mask[:, 1:] & ~self.mask[:, :-1]).any():
            raise SchemaError("events.mask has an event after padding; padding must be last")
        for name in ("time", "watch", "duration"):
            if not torch.isfinite(getattr(self, name)[self.mask]).all():
                raise SchemaError(f"events.{name} has NaN or infinity; every value must be finite")
        if (self.item[self.mask] == PAD).any():
            raise SchemaError("events.item is 0 (padding) where mask is True; real ids start at 2")
        if (self.item < 0).any():
            raise SchemaError(f"events.item has {int(self.item.min())}; ids are never negative")
        if (self.duration < 0).any() or (self.watch < 0).any():
            raise SchemaError("events.watch or events.duration is negative; both are seconds >= 0")
        if self.count is not None and not (self.count[self.mask] >= 1).all():
            raise SchemaError("events.count is below 1 where mask is True; an event counts once")
        both = self.mask[:, 1:] & self.mask[:, :-1]
        if (both & (self.time[:, 1:] > self.time[:, :-1])).any():
            raise SchemaError("events.time rises along a row; histories are newest first")
        _require_seconds("events.time", self.time[self.mask])
        if request_time is not None:
            _require_seconds("request_time", request_time)
        if request_time is not None and (self.mask & (self.time >= request_time[:, None])).any():
            raise SchemaError("events.time reaches the request time; history is strictly before it")
        return self


@dataclass(frozen=True, eq=False)
class Items(Tensors):
    """Candidates of B requests. Side features are looked up in the one ``ItemTable``.

    Attributes:
        id: (B, C) int64.
    """

    id: Tensor

    @property
    def shape(self) -> torch.Size:
        """(B, C)."""
        return self.id.shape


@dataclass(frozen=True, eq=False)
class Request(Tensors):
    """B requests: everything that is known before the answer, and nothing else.

    A model sees this and only this, so what it predicts can't reach it.

    Attributes:
        events: histories, (B, L). items: candidates, (B, C).
        time: (B,) float64, seconds.
        surface: (B,) int64, where the request is shown.
        position: (B,) int64, impressions already made in this session.
        user: (B,) int64, from 0.
        more: what only some systems read, by name: tensors or records whose first axis is B (a
            second sequence, features logged at serving, a user embedding).
    """

    events: Events
    items: Items
    time: Tensor
    surface: Tensor
    position: Tensor
    user: Tensor
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.events.shape[1] == 0:  # an empty history has one column, of padding
            object.__setattr__(self, "events", self.events.pad(1))

    def __len__(self) -> int:
        """B."""
        return len(self.user)

    def validate(self) -> Request:
        """Check this request and its parts; return self. Raises SchemaError."""
        self.events.validate(self.time)
        b = self.items.shape[0]
        if self.events.shape[0] != b:
            raise SchemaError(
                f"events has {self.events.shape[0]} rows and items {b}; must be equal"
            )
        for name in ("time", "user", "surface", "position"):
            shape = tuple(getattr(self, name).shape)
            if shape != (b,):
                raise SchemaError(f"{name} has shape {shape}, not ({b},)")
        for name, value in self.more.items():
            rows = value.shape[0] if hasattr(value, "shape") else len(value)
            if rows != b:
                raise SchemaError(f"more[{name!r}] has {rows} rows; there are {b} requests")
        return self


@dataclass(frozen=True, eq=False)
class Answers(Tensors):
    """What B requests turned out to be; never part of a model's input.

    Attributes:
        labels: (B, C, T) float32: 0 or 1 for a binary task, any finite number for a real one.
        weight: (B, C, T) float32 ≥ 0, how much each label counts; 0 where it is undefined (the
            watch time of what was never opened). None is 1 each.
        truth: (B, C, T) float64, exact probabilities given the whole history; None on real data.
    """

    labels: Tensor
    weight: Tensor | None = None
    truth: Tensor | None = None

    def validate(self, shape: tuple[int, int], tasks: Sequence[Task] = ()) -> Answers:
        """Check shapes and values; return self. Raises SchemaError.

        Args:
            shape: (B, C) of the candidates. tasks: whose labels these are; none takes all for
                binary.
        """
        labels = self.labels
        b, c = shape
        if labels.ndim != 3 or labels.shape[:2] != (b, c):
            raise SchemaError(
                f"labels has shape {tuple(labels.shape)}; it must be (B, C, T) = ({b}, {c}, T)"
            )
        if tasks and labels.shape[2] != len(tasks):
            raise SchemaError(f"labels have {labels.shape[2]} tasks; there are {len(tasks)}")
        for name in ("weight", "truth"):
            value = getattr(self, name)
            if value is not None and value.shape != labels.shape:
                raise SchemaError(
                    f"{name} has shape {tuple(value.shape)}; it must equal labels' "
                    f"{tuple(labels.shape)}"
                )
        if self.weight is not None and not (self.weight >= 0).all():
            raise SchemaError("weight is negative or NaN; a label counts 0 times or more")
        defined = torch.ones_like(labels) if self.weight is None else self.weight
        for t in range(labels.shape[2]):
            value = labels[..., t][defined[..., t] > 0]
            if tasks and tasks[t].kind == "real":
                if not torch.isfinite(value).all():
                    raise SchemaError(f"labels of {tasks[t]} have NaN or infinity")
            elif not ((value == 0) | (value == 1)).all():
                raise SchemaError("labels has values other than 0 and 1")
        return self


@dataclass(frozen=True, eq=False)
class RequestBatch(Tensors):
    """B requests together with their answers: what a loader gives and training needs.

    Attributes:
        request: what a model may see. answers: what it is trained on and measured against.
        index: (B,) int64, row in the ``Requests`` this batch was cut from.
    """

    request: Request
    answers: Answers
    index: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.index)

    def validate(self, tasks: Sequence[Task] = ()) -> RequestBatch:
        """Check this batch and its parts; return self. Raises SchemaError."""
        self.request.validate()
        shape = self.request.items.shape
        self.answers.validate((shape[0], shape[1]), tasks)
        if self.index.shape != (shape[0],):
            raise SchemaError(f"index has shape {tuple(self.index.shape)}, not ({shape[0]},)")
        return self


@dataclass(frozen=True, eq=False)
class ItemTable(Tensors):
    """What is known of every item, in one place; row 0 is padding, row 1 the unknown item.

    Attributes:
        fields: name -> (N + 2,) int64. Values use the same reserved ids: 0 padding, 1 unknown.
        sizes: name -> number of distinct values *including* the two reserved ones.
        content: (N + 2, Dc) float32 frozen unit vectors, or (N + 2, 0). Rows 0 and 1 are zero.
        dense: (N + 2, Dd) float32 observed real features (e.g. quality), or (N + 2, 0).
        duration: (N + 2,) float32 seconds; zeros where that has no meaning.
    """

    fields: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    content: Tensor
    dense: Tensor
    duration: Tensor

    def __len__(self) -> int:
        """Number of rows, N + 2."""
        return len(self.duration)

    def validate(self) -> ItemTable:
        """Check sizes and reserved rows; return self. Raises SchemaError."""
        n = len(self)
        for name, ids in self.fields.items():
            if ids.shape != (n,) or ids.dtype != torch.int64:
                raise SchemaError(
                    f"items.fields[{name!r}] is {ids.dtype} of shape {tuple(ids.shape)}; it must be "
                    f"int64 of shape ({n},)"
                )
            if name not in self.sizes:
                raise SchemaError(f"items.sizes has no entry for field {name!r}")
            if int(ids.max()) >= self.sizes[name] or int(ids.min()) < 0:
                raise SchemaError(
                    f"items.fields[{name!r}] has ids {int(ids.min())}..{int(ids.max())}; "
                    f"its size is {self.sizes[name]}"
                )
            if int(ids[0]) != PAD or (n > 1 and int(ids[1]) != UNKNOWN):
                raise SchemaError(
                    f"items.fields[{name!r}] must begin with 0 (padding), 1 (unknown)"
                )
        for name in ("content", "dense"):
            t = getattr(self, name)
            if t.ndim != 2 or len(t) != n or not torch.isfinite(t).all():
                raise SchemaError(
                    f"items.{name} has shape {tuple(t.shape)} or non-finite values; it must be "
                    f"finite of shape ({n}, D)"
                )
        return self


@dataclass(frozen=True, eq=False)
class DataSpec:
    """What a model must know of a data set before it is built.

    Attributes:
        name: e.g. "course".
        items: the item table.
        actions: names of the action bits, lowest first; at most 60.
        surfaces: names of the surfaces.
        tasks: the T tasks, the first is the main one; a name alone is a binary task.
        base_rates: mean label of each task in the training requests, for the heads' biases.
        key_field: the item field that a hard search or a histogram counts by ("topic", "type", …).
        watch: True if watch seconds mean something here.
    """

    name: str
    items: ItemTable
    actions: tuple[str, ...]
    surfaces: tuple[str, ...]
    tasks: tuple[Task, ...]
    base_rates: tuple[float, ...]
    key_field: str
    watch: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = tuple(Task(t) if isinstance(t, str) else t for t in self.tasks)
        object.__setattr__(self, "tasks", named)
        if len(self.actions) > MOST_ACTIONS:
            raise SchemaError(
                f"{len(self.actions)} actions; a bit set of 64 bits holds at most {MOST_ACTIONS}"
            )
        if len(self.base_rates) != len(self.tasks):
            raise SchemaError(f"{len(self.base_rates)} base_rates for {len(self.tasks)} tasks")
        if self.key_field not in self.items.fields:
            raise SchemaError(
                f"key_field {self.key_field!r} is no item field; there are {list(self.items.fields)}"
            )

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, the main one first."""
        return tuple(task.name for task in self.tasks)
