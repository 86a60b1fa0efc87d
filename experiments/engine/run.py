"""One training run: its recipe, its key, and the training itself."""

from __future__ import annotations

import dataclasses
import functools
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqlib import runtime
from seqlib.data.log import BatchLoader
from seqlib.data.schema import SECONDS_PER_DAY
from seqlib.evaluate import Predictions, predict
from seqlib.metrics import auc
from seqlib.models.ranker import Ranker, RankerConfig
from seqlib.models.registry import build, code_of, configuration
from seqlib.multitask import PINTEREST, LabelWeights, weighted_bce
from seqlib.nn import EmbeddingConfig
from seqlib.train import FitConfig, fit

from . import data, recipe
from .code import Root

EQUAL = "equal"
# What a hide of the same impression weighs in the click and the like-or-share head is what changes.
LABEL_WEIGHTS = {
    "pinterest": PINTEREST,
    "hides-count-once": LabelWeights(((100, 0, 1, 1), (0, 100, 1, 1), (1, 5, 10, 1))),
}
TEST_BATCH = 16


@dataclass(frozen=True)
class Run:
    """Everything that decides a result, bit for bit on one machine.

    Attributes:
        data: a name of ``engine.data``: "course", "control", "realistic", "drift" (seed 0 of each
            world), "complete-journey", or what a chapter registers.
        model: a registered name.
        length: L.
        seed: of weights, order of requests.
        epochs: passes over the training requests.
        lr: peak learning rate.
        batch_size: requests.
        history: "own", or "other" to train and test on another user's history.
        sort: training batches of similar history length (in random order), to pad less.
        candidates: so many of each training request's candidates, drawn anew every epoch; None
            takes all. Test requests are always scored whole.
        label_weights: "equal", "pinterest" or "hides-count-once", see ``multitask``.
        held_out: days before the end of training that choose the best epoch and are not trained
            on; 0 trains on all and takes the last epoch.
        model_options: what differs from the model's defaults.
        embedding: what differs from ``EmbeddingConfig``.
        name: what figures and tables call it; empty for the model and what differs from its
            defaults. Not part of recipe and key.
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
    label_weights: str = EQUAL
    held_out: float = 0.0
    model_options: tuple[tuple[str, Any], ...] = ()
    embedding: tuple[tuple[str, Any], ...] = field(default=())
    name: str = ""

    @property
    def label(self) -> str:
        """What a figure calls it: its name, or the model, what differs from its defaults, and whose
        history."""
        if self.name:
            return self.name
        options = ",".join(f"{k}={v}" for k, v in (*self.model_options, *self.embedding))
        name = self.model + (f"[{options}]" if options else "")
        return name if self.history == "own" else f"{name} (other user)"

    @property
    def recipe(self) -> dict[str, Any]:
        """Every option with its value, defaults resolved, as plain values."""
        return self._resolved(data.source(self.data).identity())

    @property
    def bare_recipe(self) -> dict[str, Any]:
        """The recipe of the run that sets nothing, without what identifies the data."""
        return Run(self.data, self.model, self.length, self.seed)._resolved({})

    def _resolved(self, identity: dict[str, Any]) -> dict[str, Any]:
        return recipe.plain(
            {
                "length": self.length,
                "seed": self.seed,
                "data": {
                    "name": self.data,
                    "settings": data.source(self.data).settings(),
                    "identity": identity,
                },
                "model": {
                    "name": self.model,
                    "options": dataclasses.asdict(
                        configuration(self.model, **dict(self.model_options))
                    ),
                },
                "embedding": dataclasses.asdict(self.embedding_config()),
                "ranker": dataclasses.asdict(RankerConfig()),
                "fit": {k: v for k, v in dataclasses.asdict(self.fit_config()).items()
                        if k != "seed"},
                "loader": {
                    "batch_size": self.batch_size,
                    "history": self.history,
                    "sort": self.sort,
                    "candidates": self.candidates,
                    "held_out": self.held_out,
                },
                "objective": {
                    "label_weights": self.label_weights,
                    "matrix": self._label_weights_matrix(),
                },
            }
        )  # fmt: skip

    @property
    def key(self) -> str:
        """A readable name with a digest of what is beyond neutral."""
        return key_of(self.recipe)

    @property
    def roots(self) -> list[Root]:
        """Where the code that makes it begins."""
        return roots_of(self.recipe)

    @property
    def homes(self) -> list[str]:
        """Modules that a worker imports first."""
        return [data.source(self.data).home]

    @property
    def uses(self) -> tuple[Run, ...]:
        """Other runs that it needs: none."""
        return ()

    def embedding_config(self) -> EmbeddingConfig:
        """Widths of the shared vectors."""
        return EmbeddingConfig(**dict(self.embedding))

    def fit_config(self) -> FitConfig:
        """How it is trained."""
        return FitConfig(epochs=self.epochs, lr=self.lr, seed=self.seed)

    def make(self, progress: bool = False) -> tuple[dict[str, np.ndarray], Ranker]:
        """Train and predict: arrays of the predictions, losses and CPU seconds; and the model."""
        model, seconds, losses = self._fit(progress)
        predictions = predict(model, loaders(self, data.dataset(self.data))[1])
        arrays = {"train_seconds": np.array(seconds), "loss": losses}
        for part in dataclasses.fields(predictions):
            if (value := getattr(predictions, part.name)) is not None:
                arrays[part.name] = value
        return arrays, model

    def _fit(self, progress: bool) -> tuple[Ranker, float, np.ndarray]:
        runtime.setup(1, self.seed)
        weights = self._label_weights()
        dataset = data.dataset(self.data)
        train, _, held_out = loaders(self, dataset)
        model = build(
            self.model,
            dataset.spec,
            seed=self.seed,
            embedding=self.embedding_config(),
            **dict(self.model_options),
        )
        started = time.process_time()
        history = fit(
            model,
            train,
            self.fit_config(),
            None if weights is None else weighted_bce(weights),
            validate=None if held_out is None else functools.partial(_auc, loader=held_out),
            device="cpu",
            progress=progress,
        )
        return model, time.process_time() - started, np.array(history.loss)

    def _label_weights(self) -> LabelWeights | None:
        if self.label_weights == EQUAL:
            return None
        if self.label_weights not in LABEL_WEIGHTS:
            raise ValueError(
                f"label_weights is {self.label_weights!r}; {EQUAL}, {', '.join(LABEL_WEIGHTS)}"
            )
        return LABEL_WEIGHTS[self.label_weights]

    def _label_weights_matrix(self) -> tuple | None:
        weights = self._label_weights()
        return None if weights is None else weights.matrix


def key_of(of: dict[str, Any]) -> str:
    """The key of a run by its recipe, also of one that was stored."""
    name, model = of["data"]["name"], of["model"]["name"]
    readable = f"{name}-{model}-L{of['length']}-s{of['seed']}"
    return f"{readable}-{recipe.digest(beyond_neutral(of))[:8]}"


def beyond_neutral(of: dict[str, Any]) -> dict[str, Any]:
    """Path -> value of what a run's key is made from."""
    named = Run(of["data"]["name"], of["model"]["name"], of["length"], of["seed"])
    return recipe.beyond_neutral(of, named.bare_recipe)


def roots_of(of: dict[str, Any]) -> list[Root]:
    """Where the code of a run of this recipe begins: the training, the model, the data set."""
    return [
        (__name__, None),
        *((module, None) for module in code_of(of["model"]["name"])),
        *data.source(of["data"]["name"]).roots,
    ]


def loaders(run: Run, dataset: Any) -> tuple[BatchLoader, BatchLoader, BatchLoader | None]:
    """Training batches (shuffled), test batches and held-out ones (sorted: padding is rare)."""
    common: dict[str, Any] = {"length": run.length, "other_user": run.history == "other"}
    calm: dict[str, Any] = {**common, "batch_size": TEST_BATCH, "sort_by_length": True}
    requests = dataset.train
    held_out = None
    if run.held_out:
        cut = float(requests.time.max()) - run.held_out * SECONDS_PER_DAY
        held_out = BatchLoader(dataset.log, requests.between(cut, np.inf), **calm)
        requests = requests.between(-np.inf, cut)
    train = BatchLoader(
        dataset.log,
        requests,
        batch_size=run.batch_size,
        shuffle=True,
        seed=run.seed,
        candidates=run.candidates,
        sort_by_length=run.sort,
        **common,
    )
    return train, BatchLoader(dataset.log, dataset.test, **calm), held_out


def _auc(model: Ranker, loader: BatchLoader) -> float:
    """AUC of the main task on held-out requests, by their drawn labels."""
    p = predict(model, loader)
    return auc(p.score[..., 0], p.label[..., 0])


def predictions_of(arrays: dict[str, np.ndarray]) -> Predictions:
    """Predictions from what ``Run.make`` returned."""
    names = [f.name for f in dataclasses.fields(Predictions)]
    fields: dict[str, Any] = {n: arrays[n] for n in names if n in arrays}
    return Predictions(**fields)
