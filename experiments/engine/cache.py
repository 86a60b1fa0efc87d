"""What was made, outside git: arrays and weights of every run and piece, each with its maker.

An interrupted experiment goes on where it stopped, and a new summary costs no training. What is kept
is never returned for another recipe, and not silently for other code: a broken model must not be
covered by the scores of the one before it.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqlib.data import files
from seqlib.data.identity import digest
from seqlib.evaluate import Predictions
from seqlib.models import registry
from seqlib.models.ranker import Ranker

from . import code, data, maker
from .piece import Piece
from .run import Run, beyond_neutral, predictions_of

FOLDER = Path(__file__).resolve().parents[1] / "cache"
Job = Run | Piece
_RECORD = "record"
_read: ContextVar[dict[str, Any] | None] = ContextVar("records read", default=None)


class StaleError(RuntimeError):
    """What is kept was made by other code than today's."""


@dataclass(frozen=True)
class State:
    """What is kept of a job.

    Attributes:
        is_there: arrays of this very recipe are kept.
        stale: why they are not what today's code makes; empty if they are.
        is_unclean: their maker's commit is unknown, or its tree held changes.
    """

    is_there: bool
    stale: str = ""
    is_unclean: bool = False


def state(job: Job) -> State:
    """What is kept of a job, held against its recipe and today's code."""
    kept = record(job.key)
    if kept is None or not _is_same(kept["recipe"], job.recipe):
        return State(is_there=False)
    changed = code.differing(kept["maker"]["code"]["modules"], code.modules(job.roots))
    stale = f"other code in {', '.join(changed)}" if changed else _outdated(kept)
    return State(True, stale, not kept["maker"]["clean"])


def obtain(job: Job, anew: bool = False, progress: bool = False) -> dict[str, np.ndarray]:
    """A job's arrays: those kept, or made now.

    Args:
        anew: make them again where other code made them, or an unclean tree.
        progress: show a training's bar.

    Raises:
        StaleError: other code made those that are kept, and ``anew`` is False.
    """
    now = state(job)
    if now.stale and not anew:
        raise StaleError(
            f"{job.key} is kept, but of {now.stale}; --fresh-code makes it again, "
            f"'python -m experiments stale' lists all such"
        )
    if not now.is_there or (anew and (now.stale or now.is_unclean)):
        make(job, progress)
    kept = record(job.key)
    assert kept is not None
    _note(job.key, kept)
    with np.load(path(job.key), allow_pickle=False) as z:
        return {name: z[name] for name in z.files if name != _RECORD}


def make(job: Job, progress: bool = False) -> None:
    """Make a job's arrays and keep them, whatever is there."""
    at_start = maker.state()
    started = time.process_time()
    with reading() as used:
        arrays, model = job.make(progress)
    seconds = time.process_time() - started
    kept = {
        "recipe": job.recipe,
        "maker": maker.maker(job.roots, at_start),
        "seconds": round(seconds, 1),
        "id": digest({k: v for k, v in arrays.items() if k != "train_seconds"}),
        "uses": {key: r["id"] for key, r in used.items()},
        "weights": None,
    }
    if model is not None:
        registry.save(model, weights_path(job.key))
        kept["weights"] = files.digest(weights_path(job.key))
    text = {_RECORD: np.array(json.dumps(kept))}
    with files.whole_file(path(job.key)) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays, **text)  # type: ignore[arg-type]


def execute(run: Run) -> Predictions:
    """Test predictions of a run, see ``obtain``."""
    return predictions_of(obtain(run))


def trained(run: Run) -> Ranker:
    """The run's model, ready for evaluation; trained again if its weights were lost."""
    obtain(run)
    kept = record(run.key)
    there = weights_path(run.key)
    if kept is None or not there.exists() or files.digest(there) != kept["weights"]:
        make(run)
    return registry.load(there, data.dataset(run.data).spec).eval()


def train_seconds(run: Run) -> float:
    """CPU seconds of the training alone."""
    return float(obtain(run)["train_seconds"])


def record(key: str) -> dict[str, Any] | None:
    """Recipe and maker of what is kept; None if nothing is, or it does not name its maker."""
    try:
        with np.load(path(key), allow_pickle=False) as z:
            return json.loads(str(z[_RECORD])) if _RECORD in z.files else None
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError, KeyError):
        return None


def keys() -> list[str]:
    """Of all that is kept."""
    return sorted(p.stem for p in FOLDER.glob("*.npz") if not p.name.startswith("."))


def path(key: str) -> Path:
    """The arrays and the record."""
    return FOLDER / f"{key}.npz"


def weights_path(key: str) -> Path:
    """The model."""
    return FOLDER / f"{key}.safetensors"


@contextmanager
def reading() -> Iterator[dict[str, Any]]:
    """Collects the records of all that is obtained inside, by key."""
    outer = _read.get()
    found: dict[str, Any] = {}
    token = _read.set(found)
    try:
        yield found
    finally:
        _read.reset(token)
        if outer is not None:
            outer.update(found)


def _note(key: str, kept: dict[str, Any]) -> None:
    """Tell the collector, also of what a piece was made from."""
    found = _read.get()
    if found is None:
        return
    found[key] = kept
    for used in kept["uses"]:
        if (below := record(used)) is not None:
            found[used] = below


def _is_same(kept: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether two recipes say the same; what neutral options one of them lacks does not matter."""
    if "piece" in kept or "piece" in asked:
        return kept == asked
    return beyond_neutral(kept) == beyond_neutral(asked)


def _outdated(kept: dict[str, Any]) -> str:
    """Why a piece is not made from what is kept today of the runs it uses."""
    for key, made in kept["uses"].items():
        below = record(key)
        if below is not None and below["id"] != made:
            return f"another {key} than the one that is kept now"
    return ""
