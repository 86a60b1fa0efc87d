"""The shapes everything speaks: events, candidate items, request batches, and the item table.

A *request* is a user at a moment with C candidates. Its history holds only events strictly before
the moment, **newest first, padding last**, so ``events[:, :100]`` means "the 100 most recent".

Sizes: B requests, C candidates per request, L history length, T tasks, N items.
Ids: 0 is padding, 1 is an unknown item, real items start at 2 — in every table of the course.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

PAD, UNKNOWN, FIRST_ID = 0, 1, 2
SECONDS_PER_DAY = 86_400.0
LATEST = 1e11  # as seconds: the year 5138; as milliseconds: 1973


class SchemaError(ValueError):
    """Input that breaks a contract of the course; the message names the field and what is right."""


class _Tensors:
    """Moving and slicing, for frozen dataclasses whose tensors all share their first axis."""

    def _map(self, fn) -> Self:
        new = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                new[f.name] = fn(value)
            elif isinstance(value, _Tensors):
                new[f.name] = value._map(fn)
        return replace(self, **new)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same object on another device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same object in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda t: t.pin_memory())

    def __getitem__(self, index) -> Self:
        return self._map(lambda t: t[index])


def _require_seconds(name: str, time: Tensor) -> None:
    if not torch.isfinite(time).all():
        raise SchemaError(f"{name} has NaN or infinity; every value must be finite")
    if (time.abs() > LATEST).any():
        raise SchemaError(
            f"{name} reaches {float(time.abs().max()):.6g}; it must be seconds, and that looks like "
            f"milliseconds: divide by 1000"
        )


@dataclass(frozen=True, eq=False)
class Events(_Tensors):
    """Histories of B users, newest first, padding last.

    Attributes:
        item: (B, L) int64, ids into the ``ItemTable``; 0 where there is no event.
        action: (B, L) int64, a bit set: several actions on one impression are **one** event.
        surface: (B, L) int64, where it was shown, from 0.
        time: (B, L) float64, seconds.
        watch: (B, L) float32, seconds watched.
        duration: (B, L) float32, seconds the item lasts (0 where that has no meaning).
        mask: (B, L) bool, True where there is an event.
    """

    item: Tensor
    action: Tensor
    surface: Tensor
    time: Tensor
    watch: Tensor
    duration: Tensor
    mask: Tensor

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
class Items(_Tensors):
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
class RequestBatch(_Tensors):
    """B requests with their histories, candidates and labels.

    Attributes:
        events: histories, (B, L).
        items: candidates, (B, C).
        labels: (B, C, T) float32 in {0, 1}.
        request_time: (B,) float64, seconds.
        user: (B,) int64, from 0.
        surface: (B,) int64, where the request is shown.
        position: (B,) int64, impressions already made in this session.
        index: (B,) int64, row in the ``Requests`` this batch was cut from.
        truth: (B, C, T) float64, exact probabilities given the whole history; None on real data.
    """

    events: Events
    items: Items
    labels: Tensor
    request_time: Tensor
    user: Tensor
    surface: Tensor
    position: Tensor
    index: Tensor
    truth: Tensor | None = None

    def __len__(self) -> int:
        return len(self.user)

    def validate(self) -> RequestBatch:
        """Check this batch and its parts; return self. Raises SchemaError."""
        self.events.validate(self.request_time)
        b, c = self.items.shape
        if self.events.shape[0] != b:
            raise SchemaError(
                f"events has {self.events.shape[0]} rows and items {b}; must be equal"
            )
        if self.labels.ndim != 3 or self.labels.shape[:2] != (b, c):
            raise SchemaError(
                f"labels has shape {tuple(self.labels.shape)}; it must be (B, C, T) = ({b}, {c}, T)"
            )
        if not ((self.labels == 0) | (self.labels == 1)).all():
            raise SchemaError("labels has values other than 0 and 1")
        if self.truth is not None and self.truth.shape != self.labels.shape:
            raise SchemaError(
                f"truth has shape {tuple(self.truth.shape)}; it must equal labels' "
                f"{tuple(self.labels.shape)}"
            )
        for name in ("request_time", "user", "surface", "position", "index"):
            if getattr(self, name).shape != (b,):
                raise SchemaError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}, not ({b},)"
                )
        return self


@dataclass(frozen=True, eq=False)
class ItemTable(_Tensors):
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

    def _map(self, fn) -> Self:
        new = super()._map(fn)
        return replace(new, fields={k: fn(v) for k, v in self.fields.items()})

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
        actions: names of the action bits, lowest first; at most 6.
        surfaces: names of the surfaces.
        tasks: names of the T labels, the first is the main one.
        base_rates: mean label of each task in the training requests, for the heads' biases.
        key_field: the item field that a hard search or a histogram counts by ("topic", "type", …).
        watch: True if watch seconds mean something here.
    """

    name: str
    items: ItemTable
    actions: tuple[str, ...]
    surfaces: tuple[str, ...]
    tasks: tuple[str, ...]
    base_rates: tuple[float, ...]
    key_field: str
    watch: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.actions) > 6:
            raise SchemaError(f"{len(self.actions)} actions; a bit set here holds at most 6")
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
