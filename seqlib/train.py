"""``fit``: the one training loop of the course. It runs alone, or unchanged under ``torchrun``."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .checkpoint import Checkpoint, rng_state, set_rng_state
from .data.identity import contents_digest, name_of
from .data.schema import RequestBatch
from .objectives import Objective, checked, supervised
from .processes import (
    Processes,
    TrainingError,
    own_device,
    require_alike,
    require_equal_weights,
    saved_buffers,
    share_buffers,
)
from .processes import distributed as distributed  # its callers know it by this module
from .recipe import FitConfig, History, Loader, learning_rate


def fit(
    model: nn.Module,
    loader: Loader,
    config: FitConfig | None = None,
    objective: Objective | None = None,
    *,
    validate: Callable[[nn.Module], float] | None = None,
    before_step: Callable[[RequestBatch, float], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> History:
    """Train ``model`` on ``loader``; leave the best weights in it, and it in evaluation mode.

    AdamW, warm-up and cosine, clipped gradients. Under ``torchrun`` every process passes its own
    shard (``BatchLoader(rank=…, world_size=…)``) and gradients are averaged by DDP. What one
    process meets ends all of them, and all hold the same weights, buffers and history.

    Args:
        model: maps a ``Request`` to outputs (B, C, T).
        loader: batches; ``set_epoch`` reshuffles, ``state_dict`` makes resuming exact, and
            ``identity``, if it has one, tells its data and settings from others.
        config: the recipe.
        objective: (model, batch) -> named scalars, which are added up; the history keeps each. None
            is ``objectives.supervised``: one term per task of the model, by its kind.
        validate: called after every epoch with the model in evaluation mode; larger is better.
            With it, the weights of the best epoch are kept and ``patience`` stops early. A value
            that is not finite is never the best. Give it validation requests, never test requests;
            under torchrun the same to every process: each calls it, and process 0's value counts.
        before_step: called between backward and the optimiser's step with the batch and the
            learning rate; mini-batch aware regularisation hooks in here. Under torchrun it must
            change weights alike on all processes.
        checkpoint: file for everything that is needed to go on; written beside and renamed, every
            ``checkpoint_every`` steps and after each epoch. One run at a time may hold it.
        resume: go on from ``checkpoint`` if it exists, to the same result as an unbroken run. A
            run that had ended, early or not, gives its weights and history and trains nothing.
        device: "cpu", "cuda", …; None takes a GPU if there is one.
        progress: show a progress bar.

    Returns:
        Losses (under torchrun their mean over processes), validation values, seconds.

    Raises:
        TrainingError: loss or gradient is NaN or infinite; names the batch. The last good
            checkpoint stays as it was. Or no validation value was finite. Or, under torchrun,
            whatever another process met.
        ValueError: an empty loader; ``resume`` from a checkpoint that is damaged or of another
            recipe, model, objective or data; a checkpoint that another run holds; processes that differ.
    """
    config = config or FitConfig()
    for wrong, message in (
        (checkpoint_every < 1, f"checkpoint_every is {checkpoint_every}; it must be at least 1"),
        (resume and checkpoint is None, "resume=True needs checkpoint=PATH"),
        (config.patience is not None and validate is None, "patience needs validate=FUNCTION"),
    ):
        if wrong:
            raise ValueError(message)
    objective = objective or supervised(model.tasks)  # type: ignore[arg-type]
    run = _Run(
        model, loader, config, objective, validate, before_step, own_device(device), checkpoint
    )
    try:
        with run.alone():
            if resume:
                run.load()
            while not run.finished:
                model.train()
                for batch in run.batches(progress):
                    run.train_on(batch)
                    if run.step % checkpoint_every == 0:
                        run.save(within_epoch=True)
                run.end_epoch()
                run.save(within_epoch=False)
            run.best.take()
    finally:
        model.eval()
    return run.history


class _Run:
    """What a run holds between its steps, and what a checkpoint keeps of it."""

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        config: FitConfig,
        objective: Objective,
        validate: Callable[[nn.Module], float] | None,
        before_step: Callable[[RequestBatch, float], None] | None,
        device: torch.device,
        checkpoint: str | Path | None,
    ) -> None:
        self.model, self.loader, self.config = model.to(device), loader, config
        self.validate, self.before_step, self.device = validate, before_step, device
        self.processes = Processes()
        self.file: Checkpoint | None = None
        if checkpoint is not None or self.processes.count > 1:
            with self.processes.together("the recipe"):
                recipe = _recipe(self, objective)
            require_alike(recipe, loader, self.processes)
            self.file = Checkpoint(checkpoint, recipe) if checkpoint is not None else None
        if len(loader) == 0:
            raise ValueError("the loader has no batches; there is nothing to train on")
        torch.manual_seed(config.seed)
        self.objective = _wrapped(model, objective, config, device, self.processes)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.step, self.epoch, self.finished = 0, 0, False
        self.history = History()
        self.best = _Best(model, self.history, config.patience)
        self.loader_state: dict[str, Any] | None = None
        self._started = time.perf_counter()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the checkpoint against other runs, if there is one."""
        with ExitStack() as held:
            with self.processes.together("taking the checkpoint"):
                if self.file is not None and self.processes.rank == 0:
                    held.enter_context(self.file.alone())
            yield

    def batches(self, progress: bool) -> Iterator[RequestBatch]:
        """The batches that are left of the epoch, on every process as many.

        Raises:
            TrainingError: the loader gave more or fewer than its length.
        """
        with self.processes.together("the loader"):
            self.loader.set_epoch(self.epoch)
            if self.loader_state is not None:
                self.loader.load_state_dict(self.loader_state)
            n, given = len(self.loader), iter(self.loader)
        first = self.step - self.epoch * n
        rest = tqdm(
            range(first, n + 1),
            desc=f"epoch {self.epoch + 1}",
            total=n,
            initial=first,
            disable=not progress,
            leave=False,
        )
        for i in rest:
            with self.processes.together("the loader"):
                batch = next(given, None)
                if (batch is None) != (i == n):
                    was = f"ended after {i}" if batch is None else "did not end after its"
                    raise TrainingError(f"the loader {was} batches; its length is {n}")
                if batch is None:
                    return
                batch = batch.to(self.device, non_blocking=True)
            yield batch

    def train_on(self, batch: RequestBatch) -> None:
        """One optimiser step; notes the loss."""
        total = self.config.epochs * len(self.loader)
        lr = learning_rate(self.step, total, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with self.processes.together("the forward pass"):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
                terms = checked(self.objective(batch))
                loss = torch.stack(list(terms.values())).sum()
            values = {name: float(term.detach()) for name, term in terms.items()}
            self._require_finite("loss", float(loss.detach()), batch)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        with self.processes.together("before_step"):
            self._require_finite("gradient norm", norm, batch)
            if self.before_step is not None:
                self.before_step(batch, lr)
        self.optimizer.step()
        self.step += 1
        self._keep(values)

    def _keep(self, terms: dict[str, float]) -> None:
        """Note this step's terms and their sum, the mean over processes of each."""
        history = self.history
        if history.loss and history.terms.keys() != terms.keys():
            raise TrainingError(
                f"the objective gave the terms {sorted(terms)} at step {self.step - 1} and "
                f"{sorted(history.terms)} before; a run has the same at every step"
            )
        every = [self.processes.numbers(value) for value in terms.values()]
        means = [sum(values) / len(values) for values in every]
        for name, mean in zip(terms, means, strict=True):
            history.terms.setdefault(name, []).append(mean)
        history.loss.append(sum(means))

    def _require_finite(self, name: str, value: float, batch: RequestBatch) -> None:
        if math.isfinite(value):
            return
        kept = "no checkpoint was asked for"
        if self.file is not None:
            kept = f"the last good checkpoint is {self.file.path}"
        rows = batch.index[:4].tolist()
        raise TrainingError(
            f"{name} is {value} at step {self.step} (requests {rows}, …); stopped, {kept}"
        )

    def end_epoch(self) -> None:
        """Bring the processes' buffers together, validate, and decide whether the run goes on."""
        share_buffers(self.model, self.processes)
        require_equal_weights(self.model, self.processes)
        stop = False
        if self.validate is not None:
            self.model.eval()
            with self.processes.together("validate"), torch.no_grad():
                value = float(self.validate(self.model))
            stop = self.best.note(self.epoch, self.processes.from_first(value))
        self.epoch += 1
        self.loader_state = None
        self.finished = stop or self.epoch == self.config.epochs
        self._read_clock()

    def save(self, within_epoch: bool) -> None:
        """Write a checkpoint, if one was asked for; within an epoch with the loader's place."""
        if self.file is None:
            return
        self._read_clock()
        with self.processes.together("the loader"):
            place = self.loader.state_dict() if within_epoch else None
        own = {
            "loader": place,
            "rng": rng_state(self.device),
            "buffers": {name: b.cpu() for name, b in saved_buffers(self.model)},
        }
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best.weights,
            "history": dataclasses.asdict(self.history),
            "step": self.step,
            "epoch": self.epoch,
            "finished": self.finished,
            "processes": self.processes.gather(own),
        }
        with self.processes.together("writing the checkpoint"):
            if self.processes.rank == 0:
                self.file.write(state)

    def load(self) -> None:
        """Take up the checkpoint, if there is one; process 0 reads it for all.

        Raises:
            ValueError: it is damaged, or belongs to another recipe; the message names what differs.
        """
        assert self.file is not None
        state = None
        with self.processes.together("reading the checkpoint"):
            if self.processes.rank == 0:
                state = self.file.read()
        state = self.processes.from_first(state)
        if state is None:
            return
        own = state["processes"][self.processes.rank]
        self.model.load_state_dict({**state["model"], **own["buffers"]})
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        self.best = _Best(self.model, self.history, self.config.patience, state["best"])
        self.step, self.epoch, self.finished = state["step"], state["epoch"], state["finished"]
        self.loader_state = own["loader"]
        set_rng_state(own["rng"], self.device)
        self._started = time.perf_counter() - self.history.seconds

    def _read_clock(self) -> None:
        self.history.seconds = time.perf_counter() - self._started


def _recipe(run: _Run, objective: Objective) -> dict[str, Any]:
    """Everything that decides the run, as plain values; a run of another may not go on."""
    model, identity = run.model, getattr(run.loader, "identity", None)
    return {
        "fit": dataclasses.asdict(run.config),
        "model": getattr(model, "recipe", {}) or name_of(model),
        "shapes": {k: f"{v.dtype} {list(v.shape)}" for k, v in model.state_dict().items()},
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "batches": len(run.loader),
        "loader": identity() if identity is not None else None,
        "objective": {"name": name_of(objective), "contents": contents_digest(objective)},
        "validate": name_of(run.validate),
        "before_step": name_of(run.before_step),
        "processes": run.processes.count,
    }


class _Best:
    """The best epoch's weights, and when to stop looking for better ones."""

    def __init__(
        self,
        model: nn.Module,
        history: History,
        patience: int | None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        self.model, self.history, self.patience = model, history, patience
        self.weights = weights

    def note(self, epoch: int, value: float) -> bool:
        """Keep the best weights; True when patience has run out."""
        best = self.history.best_epoch
        self.history.valid.append(value)
        if math.isfinite(value) and (best is None or value > self.history.valid[best]):
            self.history.best_epoch = best = epoch
            self.weights = copy.deepcopy(self.model.state_dict())
        without_better = epoch - (-1 if best is None else best)
        return self.patience is not None and without_better >= self.patience

    def take(self) -> None:
        """Put the best epoch's weights into the model.

        Raises:
            TrainingError: there was validation, and no epoch had a finite value.
        """
        if self.weights is not None:
            self.model.load_state_dict(self.weights)
        elif self.history.valid:
            raise TrainingError(
                f"validate gave no finite value in {len(self.history.valid)} epochs "
                f"({self.history.valid[-1]} in the last), so none is the best; the model has the "
                f"last epoch's weights. Look for a metric without positives or without negatives"
            )


class _Training(nn.Module):
    """Model and objective as one module: DDP must see all that gradients flow through."""

    def __init__(self, model: Any, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: RequestBatch) -> dict[str, Tensor]:
        """The terms of a batch."""
        return self.objective(self.model, batch)


def _wrapped(
    model: nn.Module,
    objective: Objective,
    config: FitConfig,
    device: torch.device,
    processes: Processes,
) -> nn.Module:
    """The model with its objective as it is called in training: compiled, and in DDP if there are
    several processes."""
    training = _Training(torch.compile(model) if config.compile else model, objective)
    if processes.count == 1:
        return training
    # Both switches also keep collective operations out of the forward pass, where one process may
    # fail: buffers are brought together after each epoch, gradients in the backward pass. Some
    # models have a parameter that no batch of a run uses; where none has, DDP says so once.
    return nn.parallel.DistributedDataParallel(
        training,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        find_unused_parameters=True,
    )
