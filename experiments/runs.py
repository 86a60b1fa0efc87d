"""One training run and its stored predictions; experiments are lists of runs.

A run is named by its settings. Its test predictions and weights are cached under
``experiments/cache`` (not in git), so an interrupted experiment resumes where it stopped and a new
summary costs no training.
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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seqlib
from seqlib import runtime
from seqlib.data.log import BatchLoader
from seqlib.data.schema import SECONDS_PER_DAY
from seqlib.evaluate import Interval, Predictions, predict
from seqlib.metrics import auc
from seqlib.models.ranker import Ranker
from seqlib.multitask import PINTEREST, LabelWeights, weighted_bce
from seqlib.nn import EmbeddingConfig
from seqlib.train import FitConfig, fit

HERE = Path(__file__).parent
CACHE, RESULTS = HERE / "cache", HERE / "results"


@dataclass(frozen=True)
class Run:
    """Everything that decides a result, bit for bit on one machine.

    Attributes:
        data: "course", "control", "realistic" (seed 0 of each world), "complete-journey" or "git" (see
            ``git_twin``).
        model: a registered name. length: L. seed: of weights, order of requests.
        epochs, lr, batch_size: the recipe.
        history: "own", or "other" to train and test on another user's history.
        sort: training batches of similar history length (in random order), to pad less.
        candidates: so many of each training request's candidates, drawn anew every epoch; None
            takes all. Test requests are always scored whole.
        label_weights: "equal", "pinterest" or "hides-count-once", see ``multitask``.
        held_out: days before the end of training that choose the best epoch and are not trained
            on; 0 trains on all and takes the last epoch.
        name: what figures and tables call it; empty for the model and what differs from its
            defaults. Not part of the key.
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
    candidates: int | None = None
    label_weights: str = "equal"
    held_out: float = 0.0
    model_options: tuple[tuple[str, Any], ...] = ()
    embedding: tuple[tuple[str, Any], ...] = field(default=())
    name: str = ""

    @property
    def key(self) -> str:
        """A readable name with a digest of all settings."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.data}-{self.model}-L{self.length}-s{self.seed}-{digest}"


@lru_cache(maxsize=1)
def dataset(name: str):
    """World or real data set by name."""
    if name == "complete-journey":
        from seqlib.data.public import complete_journey

        return complete_journey()
    if name == "git":
        from .git_twin import history

        return history()
    from seqlib.data.world import make_world

    return make_world(name, seed=0)


# What a hide of the same impression weighs in the click and the like-or-share head is what changes.
LABEL_WEIGHTS = {
    "pinterest": PINTEREST,
    "hides-count-once": LabelWeights(((100, 0, 1, 1), (0, 100, 1, 1), (1, 5, 10, 1))),
}


def loaders(run: Run, data) -> tuple[BatchLoader, BatchLoader, BatchLoader | None]:
    """Training batches (shuffled), test batches and held-out ones (sorted: padding is rare)."""
    common: dict[str, Any] = {"length": run.length, "other_user": run.history == "other"}
    calm: dict[str, Any] = {**common, "batch_size": 16, "sort_by_length": True}
    requests, held_out = data.train, None
    if run.held_out:
        cut = float(requests.time.max()) - run.held_out * SECONDS_PER_DAY
        held_out = BatchLoader(data.log, requests.between(cut, np.inf), **calm)
        requests = requests.between(-np.inf, cut)
    train = BatchLoader(
        data.log,
        requests,
        batch_size=run.batch_size,
        shuffle=True,
        seed=run.seed,
        candidates=run.candidates,
        sort_by_length=run.sort,
        **common,
    )
    return train, BatchLoader(data.log, data.test, **calm), held_out


def execute(run: Run, threads: int = 1, progress: bool = False) -> Predictions:
    """Train and predict, or take the stored predictions of the very same run."""
    path = CACHE / f"{run.key}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as z:
            fields: dict[str, Any] = {k: z[k] for k in z.files if k not in ("seconds", "loss")}
        return Predictions(**fields)
    model, seconds, loss = _fit(run, threads, progress)
    predictions = predict(model, loaders(run, dataset(run.data))[1])
    beside = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    arrays = {
        f.name: getattr(predictions, f.name)
        for f in dataclasses.fields(predictions)
        if getattr(predictions, f.name) is not None
    }
    np.savez_compressed(beside, seconds=seconds, loss=loss, **arrays)
    beside.replace(path)
    return predictions


def trained(run: Run, threads: int = 1) -> Ranker:
    """The run's model, ready for evaluation; trained again if only predictions were stored."""
    path = CACHE / f"{run.key}.safetensors"
    if not path.exists():
        return _fit(run, threads)[0].eval()
    return seqlib.models.registry.load(path, dataset(run.data).spec).eval()


def _fit(run: Run, threads: int, progress: bool = False) -> tuple[Ranker, float, np.ndarray]:
    """Train and store the weights; model, CPU seconds, losses."""
    runtime.setup(threads, run.seed)
    data = dataset(run.data)
    train, _, held_out = loaders(run, data)
    model = seqlib.build(
        run.model,
        data.spec,
        seed=run.seed,
        embedding=EmbeddingConfig(**dict(run.embedding)),
        **dict(run.model_options),
    )
    started = time.process_time()
    config = FitConfig(epochs=run.epochs, lr=run.lr, seed=run.seed)
    weights = LABEL_WEIGHTS.get(run.label_weights)
    if weights is None and run.label_weights != "equal":
        raise ValueError(
            f"label_weights is {run.label_weights!r}; equal, {', '.join(LABEL_WEIGHTS)}"
        )
    history = fit(
        model,
        train,
        config,
        None if weights is None else weighted_bce(weights),
        validate=None if held_out is None else partial(_auc, loader=held_out),
        device="cpu",
        progress=progress,
    )
    seconds = time.process_time() - started
    CACHE.mkdir(exist_ok=True)
    seqlib.models.registry.save(model, CACHE / f"{run.key}.safetensors")
    return model, seconds, np.array(history.loss)


def _auc(model, loader: BatchLoader) -> float:
    """AUC of the main task on held-out requests, by their drawn labels."""
    p = predict(model, loader)
    return auc(p.score[..., 0], p.label[..., 0])


def seconds(run: Run) -> float:
    """CPU seconds its training took."""
    with np.load(CACHE / f"{run.key}.npz", allow_pickle=False) as z:
        return float(z["seconds"])


def cell(i: Interval) -> dict[str, Any]:
    """A difference as results hold it, with what its interval is over."""
    return {k: round(float(getattr(i, k)), 5) for k in ("delta", "low", "high")} | {"over": i.over}


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
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)
    return path
