"""One training run and its stored predictions; experiments are lists of runs.

A run is named by its settings. Its test predictions are cached under ``experiments/cache`` (not in
git), so an interrupted experiment resumes where it stopped and a new summary costs no training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seqlib
from seqlib import runtime
from seqlib.data.log import BatchLoader
from seqlib.evaluate import Predictions, predict
from seqlib.nn import EmbeddingConfig
from seqlib.train import FitConfig, fit

HERE = Path(__file__).parent
CACHE, RESULTS = HERE / "cache", HERE / "results"


@dataclass(frozen=True)
class Run:
    """Everything that decides a result, bit for bit on one machine.

    Attributes:
        data: "course", "control", "realistic" (seed 0 of each world) or "complete-journey".
        model: a registered name. length: L. seed: of weights, order of requests.
        epochs, lr, batch_size: the recipe.
        history: "own", or "other" to train and test on another user's history.
        sort: training batches of similar history length (in random order), to pad less.
        model_options, embedding: overrides.
    """

    data: str
    model: str
    length: int
    seed: int = 0
    epochs: int = 2
    lr: float = 5e-3
    batch_size: int = 32
    history: str = "own"
    sort: bool = False
    model_options: tuple[tuple[str, Any], ...] = ()
    embedding: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def key(self) -> str:
        """A readable name with a digest of all settings."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.data}-{self.model}-L{self.length}-s{self.seed}-{digest}"


@lru_cache(maxsize=1)
def dataset(name: str):
    """World or real data set by name."""
    if name == "complete-journey":
        from seqlib.data.public import complete_journey

        return complete_journey()
    from seqlib.data.world import make_world

    return make_world(name, seed=0)


def loaders(run: Run, data) -> tuple[BatchLoader, BatchLoader]:
    """Training batches (shuffled) and test batches (sorted by length, so that padding is rare)."""
    common: dict[str, Any] = {"length": run.length, "other_user": run.history == "other"}
    train = BatchLoader(
        data.log,
        data.train,
        batch_size=run.batch_size,
        shuffle=True,
        seed=run.seed,
        sort_by_length=run.sort,
        **common,
    )
    test = BatchLoader(data.log, data.test, batch_size=16, sort_by_length=True, **common)
    return train, test


def execute(run: Run, threads: int = 1, progress: bool = False) -> Predictions:
    """Train and predict, or take the stored predictions of the very same run."""
    path = CACHE / f"{run.key}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as z:
            fields: dict[str, Any] = {k: z[k] for k in z.files if k not in ("seconds", "loss")}
        return Predictions(**fields)
    runtime.setup(threads, run.seed)
    data = dataset(run.data)
    train, test = loaders(run, data)
    model = seqlib.build(
        run.model,
        data.spec,
        seed=run.seed,
        embedding=EmbeddingConfig(**dict(run.embedding)),
        **dict(run.model_options),
    )
    started = time.process_time()
    config = FitConfig(epochs=run.epochs, lr=run.lr, seed=run.seed)
    history = fit(model, train, config, device="cpu", progress=progress)
    seconds = time.process_time() - started
    predictions = predict(model, test)
    CACHE.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    arrays = {
        f.name: getattr(predictions, f.name)
        for f in dataclasses.fields(predictions)
        if getattr(predictions, f.name) is not None
    }
    np.savez_compressed(partial, seconds=seconds, loss=np.array(history.loss), **arrays)
    partial.replace(path)
    return predictions


def seconds(run: Run) -> float:
    """CPU seconds its training took."""
    with np.load(CACHE / f"{run.key}.npz", allow_pickle=False) as z:
        return float(z["seconds"])


def provenance(threads: int) -> dict[str, Any]:
    """Where numbers come from: commit, versions, machine."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads_per_run": threads,
        "device": "cpu",
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """``results/NAME.json``, written beside and renamed."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)
    return path
