"""A data set as chapters use it: log, requests, spec; kept as a directory; described by numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from . import _folder, files
from . import columns as checks
from .event_log import EventLog
from .requests import Requests, history_end
from .schema import FIRST_ID, SECONDS_PER_DAY, DataSpec, ItemTable, SchemaError, Task

QUANTILES = (10, 50, 90, 99)


class HasData(Protocol):
    """What a world and a ``Dataset`` have in common."""

    @property
    def log(self) -> EventLog: ...
    @property
    def train(self) -> Requests: ...
    @property
    def test(self) -> Requests: ...
    @property
    def spec(self) -> DataSpec: ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """Events, training and test requests, and what a model must know of them.

    Attributes:
        log: events of all users. train, test: requests; every test request is later than every
            training request. spec: for ``seqlib.build``; ``spec.notes`` says what was left out.
    """

    log: EventLog
    train: Requests
    test: Requests
    spec: DataSpec

    def validate(self) -> Self:
        """Check the parts and that they fit together; return self. Raises SchemaError."""
        check_fit(self)
        return self

    def save(self, path: str | Path, *, replace: bool = False) -> None:
        """Write ``log``, ``train``, ``test`` and ``items`` as Parquet, and ``spec.json``, into one
        directory. ``spec.json`` comes last, with the digests of the others: whatever happens before,
        the directory holds the old data set or none.

        Raises:
            FileExistsError: ``path`` exists and ``replace`` is False, or it holds anything that was
                not written with a data set. Nothing is deleted then.
        """
        save(self, path, replace=replace)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote, and validate it. While another data set takes the place of this
        one, the one or the other is read.

        Raises:
            FileNotFoundError: no data set there.
            SchemaError: a file is truncated, damaged, or does not fit the others.
        """
        return _folder.read_whole(Path(path), cls._read)

    @classmethod
    def _read(cls, head: dict[str, Any], places: dict[str, Path]) -> Self:
        table = files.read_table(places["items.parquet"])
        items = ItemTable(
            fields={k: _tensor(table[f"field.{k}"]) for k in head["sizes"]},
            sizes=head["sizes"],
            content=_matrix(table, "content"),
            dense=_matrix(table, "dense"),
            duration=_tensor(table["duration"]),
        )
        tasks = tuple(Task(**t) if isinstance(t, dict) else t for t in head["tasks"])
        spec = DataSpec(
            name=head["name"],
            items=items,
            actions=tuple(head["actions"]),
            surfaces=tuple(head["surfaces"]),
            tasks=tasks,
            base_rates=tuple(head["base_rates"]),
            key_field=head["key_field"],
            watch=head["watch"],
            notes=head["notes"],
        )
        return cls(
            log=EventLog.from_parquet(places["log.parquet"]),
            train=Requests.from_parquet(places["train.parquet"]),
            test=Requests.from_parquet(places["test.parquet"]),
            spec=spec,
        ).validate()


def check_fit(data: HasData) -> None:
    """The log's and requests' ids exist, labels match tasks, test follows training, and all parts
    are timed by one clock.

    Raises:
        SchemaError: naming the part and what was wrong.
    """
    spec = data.spec
    n = len(spec.items.validate())
    data.log.validate(n_items=n)
    if (top := int(data.log.action.max())) >= 2 ** len(spec.actions):
        raise SchemaError(
            f"log.action has {top}; {len(spec.actions)} actions end at bit set "
            f"{2 ** len(spec.actions) - 1}"
        )
    if (top := int(data.log.surface.max())) >= len(spec.surfaces):
        raise SchemaError(f"log.surface has {top}; there are {len(spec.surfaces)} surfaces, from 0")
    for name, requests in (("train", data.train), ("test", data.test)):
        if len(requests) == 0:
            raise SchemaError(f"there are no {name} requests; there must be at least one")
        requests.validate(data.log.n_users, n, log=data.log)
        if (top := int(requests.surface.max())) >= len(spec.surfaces):
            raise SchemaError(
                f"{name} surface has {top}; there are {len(spec.surfaces)} surfaces, from 0"
            )
        if requests.labels.shape[2] != spec.n_tasks:
            raise SchemaError(
                f"{name} labels have {requests.labels.shape[2]} tasks; the spec has {spec.task_names}"
            )
    if data.test.time.min() <= data.train.time.max():
        raise SchemaError(
            f"a test request at {data.test.time.min():.6f} s is not later than the last training "
            f"request at {data.train.time.max():.6f} s; split by time"
        )
    first = float(data.log.time.min())
    last = float(data.log.time.max())
    checks.check_reach("train time", data.train.time, first, float(data.test.time.min()))
    checks.check_reach("test time", data.test.time, first, last)


def save(data: HasData, path: str | Path, *, replace: bool = False) -> None:
    """``Dataset.save`` for anything that has its parts, such as a world."""
    with _folder.writing(Path(path), replace) as new:
        data.log.to_parquet(new.place("log.parquet"))
        data.train.to_parquet(new.place("train.parquet"))
        data.test.to_parquet(new.place("test.parquet"))
        _write_items(data.spec.items, new.place("items.parquet"))
        new.commit(_head(data.spec))


def _write_items(items: ItemTable, path: Path) -> None:
    column = {f"field.{k}": pa.array(v.numpy()) for k, v in items.fields.items()}
    for name in ("content", "dense"):
        t = getattr(items, name)
        if t.shape[1]:
            column[name] = pa.FixedSizeListArray.from_arrays(t.numpy().reshape(-1), t.shape[1])
    column["duration"] = pa.array(items.duration.numpy())
    files.write_table(path, pa.table(column), "items", {})


def _head(spec: DataSpec) -> dict[str, Any]:
    """What ``spec.json`` holds of the specification; the item table is a file of its own."""
    head = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "items"}
    head["tasks"] = [dataclasses.asdict(task) for task in spec.tasks]
    return head | {"sizes": dict(spec.items.sizes), "notes": dict(spec.notes)}


def _matrix(table: pa.Table, name: str) -> torch.Tensor:
    if name not in table.column_names:
        return torch.zeros(table.num_rows, 0)
    return _tensor(table[name]).reshape(table.num_rows, -1)


def _tensor(column: pa.ChunkedArray) -> torch.Tensor:
    a = column.combine_chunks()
    flat = a.flatten() if pa.types.is_fixed_size_list(a.type) else a
    return torch.from_numpy(np.array(flat.to_numpy(zero_copy_only=False)))


def fingerprint(coarse: NDArray[np.int64], fine: NDArray[np.int64]) -> torch.Tensor:
    """(N + 2, 32) frozen unit vectors that say what an item *is*; nothing in them is learnt.

    ``unit(.4 g_coarse + .6 v_fine + .7 ε_item)`` with random unit vectors g, v, ε. Cosine is 1 for
    the same item, about .5 within a fine field, .16 within a coarse one, 0 ± .18 elsewhere: a match
    that an id embedding of 10^5 items could not learn from little data.

    Args:
        coarse, fine: (N + 2,) ids of two fields with the reserved rows, e.g. category and type.
    """
    rng = np.random.default_rng(2017)

    def unit(n: int) -> NDArray:
        x = rng.standard_normal((n, 32))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    g = unit(int(coarse.max()) + 1)
    v = unit(int(fine.max()) + 1)
    own = unit(len(fine))
    g[:FIRST_ID] = 0
    v[:FIRST_ID] = 0
    x = 0.4 * g[coarse] + 0.6 * v[fine] + 0.7 * own
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[:FIRST_ID] = 0
    return torch.from_numpy(x.astype(np.float32))


# --- numbers ----------------------------------------------------------------------------------


def describe(data: HasData) -> dict[str, Any]:
    """Statistics of a data set; plain numbers, rounded as they should be printed.

    ``length`` is the distribution of events per user over the whole log, ``history`` what a request
    sees at its moment, ``seen_before`` the share of positive candidates whose item (and whose
    ``key_field`` value) stands in the last 100 events and anywhere in the history. Where candidates
    are a weighted sample, ``exposures`` counts what they stand for.
    """
    log = data.log
    spec = data.spec
    bits = [round(float(((log.action >> b) & 1).mean()), 4) for b in range(len(spec.actions))]
    out: dict[str, Any] = {"name": spec.name, **describe_log(log), "items": len(spec.items) - 2}
    out["fields"] = {k: n - 2 for k, n in spec.items.sizes.items()}
    out["action_rate"] = dict(zip(spec.actions, bits, strict=True))
    if left_out := {k: v for k, v in spec.notes.items() if k.startswith("left_out")}:
        out["commits_left_out"] = {k.removeprefix("left_out_"): v for k, v in left_out.items()}
    for name, requests in (("train", data.train), ("test", data.test)):
        history = history_end(log, requests) - log.offsets[requests.user]
        rate = requests.labels.mean((0, 1))
        out[name] = {
            "requests": len(requests),
            "candidates": requests.items.shape[1],
            "users": len(np.unique(requests.user)),
            "label_rate": {
                t: round(float(r), 4) for t, r in zip(spec.task_names, rate, strict=True)
            },
            "history": _spread(history),
            "without_history": int((history == 0).sum()),
        }
        if "weight" in requests.extra:  # candidates are a sample of the exposures
            weight = requests.extra["weight"]
            label = requests.labels[:, :, 0]
            out[name]["exposures"] = round(float(weight.sum()))
            share = float((weight * label).sum() / weight.sum())
            out[name]["label_rate_of_exposures"] = round(share, 6)
    out["test"]["seen_before"] = _seen(data)
    return out


def describe_log(log: EventLog) -> dict[str, Any]:
    """What ``describe`` says of the log alone."""
    return {
        "events": len(log),
        "users": log.n_users,
        "users_without_events": int((log.lengths == 0).sum()),
        "items_in_log": len(np.unique(log.item)),
        "days": round(float(log.time.max() - log.time.min()) / SECONDS_PER_DAY, 1),
        "log_megabytes": round(log.nbytes / 1e6, 1),
        "length": _spread(log.lengths),
    }


def _spread(n: np.ndarray) -> dict[str, int]:
    out = {f"p{q}": round(float(np.percentile(n, q))) for q in QUANTILES}
    return {"min": int(n.min()), **out, "max": int(n.max()), "mean": round(float(n.mean()))}


def _seen(data: HasData, most: int = 2000) -> dict[str, float]:
    """Share of positive test candidates whose item or key stands in the history."""
    log = data.log
    key = data.spec.items.fields[data.spec.key_field].numpy()
    rows = np.unique(np.linspace(0, len(data.test) - 1, most).astype(int))
    requests = data.test[rows]
    end = history_end(log, requests)
    hit = {k: 0 for k in ("item_100", "item_all", "key_100", "key_all")}
    n = 0
    for r in range(len(requests)):
        history = log.item[log.offsets[requests.user[r]] : end[r]]
        wanted = requests.items[r][requests.labels[r, :, 0] == 1]
        n += len(wanted)
        for name, past in (("100", history[-100:]), ("all", history)):
            hit[f"item_{name}"] += int(np.isin(wanted, past).sum())
            hit[f"key_{name}"] += int(np.isin(key[wanted], key[past]).sum())
    return {k: round(v / n, 3) for k, v in hit.items()} if n else {}


def as_text(stats: dict[str, Any], indent: str = "") -> str:
    """Statistics as aligned lines, one number or one distribution each."""
    lines = []
    for key, value in stats.items():
        label = f"{indent}{key.replace('_', ' ')}"
        if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
            lines += [label, as_text(value, indent + "  ")]
        elif isinstance(value, dict):
            lines.append(f"{label:<28}" + "  ".join(f"{k} {_number(v)}" for k, v in value.items()))
        else:
            lines.append(f"{label:<28}{_number(value)}")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
