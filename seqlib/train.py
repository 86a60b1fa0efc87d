"""``fit``: the one training loop of the course. It runs alone, or unchanged under ``torchrun``."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data.schema import RequestBatch


class Loader(Protocol):
    """What ``fit`` needs of a loader of request batches; ``BatchLoader`` is one."""

    def __iter__(self): ...
    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which batch and what is kept."""


@dataclass(frozen=True)
class FitConfig:
    """Recipe of one training run.

    Attributes:
        epochs: passes over the loader. lr: peak learning rate. weight_decay: AdamW's.
        warmup: share of all steps in which the learning rate rises from 0 to its peak (linear),
            before it falls back to 0 (cosine).
        clip: largest gradient norm. seed: of everything random inside the model (dropout).
        amp: bfloat16 autocast. compile: run the model through ``torch.compile``.
        patience: epochs without a better validation value before stopping; None never stops.
    """

    epochs: int = 1
    lr: float = 5e-3
    weight_decay: float = 1e-5
    warmup: float = 0.1
    clip: float = 5.0
    seed: int = 0
    amp: bool = False
    compile: bool = False
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of all steps, in [0, 1)")


@dataclass
class History:
    """What happened: one loss per step, one validation value per epoch, seconds in all."""

    loss: list[float] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    seconds: float = 0.0


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy summed over tasks, averaged over candidates: (B, C, T) twice -> ()."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    return loss.sum(-1).mean()


def auxiliary_loss(model: nn.Module, labels: Tensor) -> Tensor | int:
    """Losses that parts of a model have of their own, such as SIM's soft search; 0 if none has.

    A part that has one keeps what it needs in its forward and returns the loss for the labels
    (B, C, T) from a method ``auxiliary_loss(labels)``, once.
    """
    parts = [m for m in model.modules() if hasattr(m, "auxiliary_loss")]
    return sum(m.auxiliary_loss(labels) for m in parts)  # type: ignore[operator, misc]


def learning_rate(step: int, total: int, config: FitConfig) -> float:
    """Linear warm-up to ``config.lr`` over ``warmup·total`` steps, then a cosine to 0."""
    warm = config.warmup * total
    if step < warm:
        return config.lr * (step + 1) / math.ceil(warm)
    done = (step - warm) / max(total - warm, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def fit(
    model: nn.Module,
    loader: Loader,
    config: FitConfig | None = None,
    *,
    validate: Callable[[nn.Module], float] | None = None,
    before_step: Callable[[RequestBatch, float], None] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = bce,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> History:
    """Train ``model`` on ``loader`` and leave the best weights in it.

    AdamW, warm-up and cosine, clipped gradients. Under ``torchrun`` every process passes its own
    shard (``BatchLoader(rank=…, world_size=…)``) and gradients are averaged by DDP.

    Args:
        model: maps a ``RequestBatch`` to logits (B, C, T).
        loader: batches; ``set_epoch`` reshuffles, ``state_dict`` makes resuming exact.
        config: the recipe.
        validate: called after every epoch with the model in evaluation mode; larger is better.
            With it, the weights of the best epoch are kept and ``patience`` stops early. Give it
            validation requests, never test requests.
        before_step: called between backward and the optimiser's step with the batch and the
            learning rate; mini-batch aware regularisation hooks in here.
        loss: maps logits and labels, both (B, C, T), to a scalar.
        checkpoint: file for everything that is needed to go on; written beside and renamed, every
            ``checkpoint_every`` steps and after each epoch.
        resume: go on from ``checkpoint`` if it exists, to the same result as an unbroken run.
        device: "cpu", "cuda", …; None takes a GPU if there is one.
        progress: show a progress bar.

    Returns:
        Losses, validation values, seconds.

    Raises:
        TrainingError: loss or gradient is NaN or infinite; names the batch. The last good
            checkpoint stays as it was.
        ValueError: ``resume`` from a checkpoint of another recipe or model; an empty loader.
    """
    config = config or FitConfig()
    if len(loader) == 0:
        raise ValueError("the loader has no batches; there is nothing to train on")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device)
    torch.manual_seed(config.seed)
    runner = _wrap(model, config, device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    run = _Run(model, optimizer, loader, config, Path(checkpoint) if checkpoint else None)
    if resume:
        run.load()
    started = time.perf_counter() - run.history.seconds
    total = config.epochs * len(loader)

    for epoch in range(run.epoch, config.epochs):
        loader.set_epoch(epoch)
        if resume and epoch == run.epoch and run.loader_state is not None:
            loader.load_state_dict(run.loader_state)
        model.train()
        for batch in tqdm(loader, desc=f"epoch {epoch + 1}", disable=not progress, leave=False):
            lr = learning_rate(run.step, total, config)
            for group in optimizer.param_groups:
                group["lr"] = lr
            value = _step(runner, batch.to(device, non_blocking=True), optimizer, config, run.step,
                          lr, loss, before_step, run.path)  # fmt: skip
            run.history.loss.append(value)
            run.step += 1
            if run.path and run.step % checkpoint_every == 0:
                run.history.seconds = time.perf_counter() - started
                run.save(epoch, loader.state_dict())
        run.history.seconds = time.perf_counter() - started
        stop = validate is not None and run.note(epoch, _validate(model, validate), config.patience)
        if run.path:
            run.save(epoch + 1, None)
        if stop:
            break
    if run.best is not None:
        model.load_state_dict(run.best)
    return run.history


def _wrap(model: nn.Module, config: FitConfig, device: torch.device) -> nn.Module:
    """The model as it is called in training: compiled, and under torchrun inside DDP."""
    runner: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        ids = [device.index or 0] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(runner, device_ids=ids)
    return runner


def _step(
    runner: nn.Module,
    batch: RequestBatch,
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    step: int,
    lr: float,
    criterion: Callable[[Tensor, Tensor], Tensor],
    before_step: Callable[[RequestBatch, float], None] | None,
    path: Path | None,
) -> float:
    """One optimiser step; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=config.amp):
        loss = criterion(runner(batch), batch.labels) + auxiliary_loss(runner, batch.labels)
    value = float(loss.detach())
    if math.isfinite(value):
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(runner.parameters(), config.clip))
    if not (math.isfinite(value) and math.isfinite(norm)):
        what = f"loss is {value}" if not math.isfinite(value) else f"gradient norm is {norm}"
        kept = f"the last good checkpoint is {path}" if path else "no checkpoint was asked for"
        rows = batch.index[:4].tolist()
        raise TrainingError(f"{what} at step {step} (requests {rows}, …); stopped, {kept}")
    if before_step is not None:
        before_step(batch, lr)
    optimizer.step()
    return value


def _validate(model: nn.Module, validate: Callable[[nn.Module], float]) -> float:
    model.eval()
    with torch.no_grad():
        return float(validate(model))


class _Run:
    """State of a run that a checkpoint holds."""

    def __init__(self, model, optimizer, loader, config: FitConfig, path: Path | None) -> None:
        self.model, self.optimizer, self.path = model, optimizer, path
        self.step, self.epoch, self.history = 0, 0, History()
        self.best: dict[str, Tensor] | None = None
        self.loader_state: dict[str, Any] | None = None
        shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
        recipe = {"fit": dataclasses.asdict(config), "model": getattr(model, "recipe", {})}
        self.recipe = {**recipe, "shapes": shapes, "batches": len(loader)}

    def note(self, epoch: int, value: float, patience: int | None) -> bool:
        """Keep the best weights; True when patience has run out."""
        self.history.valid.append(value)
        best = self.history.best_epoch
        if best is None or value > self.history.valid[best]:
            self.history.best_epoch = best = epoch
            self.best = copy.deepcopy(self.model.state_dict())
        return patience is not None and epoch - best >= patience

    def save(self, epoch: int, loader_state: dict[str, Any] | None) -> None:
        """Write everything under a temporary name, then rename: never half a file."""
        if self.path is None or (dist.is_initialized() and dist.get_rank() != 0):
            return
        rng: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            rng["cuda"] = torch.cuda.get_rng_state_all()
        state = {
            "recipe": self.recipe,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "history": dataclasses.asdict(self.history),
            "step": self.step,
            "epoch": epoch,
            "loader": loader_state,
            "rng": rng,
        }
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def load(self) -> None:
        """Take up a checkpoint, if there is one.

        Raises:
            ValueError: it belongs to another recipe; the message names what differs.
        """
        if self.path is None:
            raise ValueError("resume=True needs checkpoint=PATH")
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if _digest(state["recipe"]) != _digest(self.recipe):
            differs = ", ".join(_differences(state["recipe"], self.recipe))
            raise ValueError(f"{self.path} is a checkpoint of another run; it differs in {differs}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.history = state["best"], History(**state["history"])
        self.step, self.epoch, self.loader_state = state["step"], state["epoch"], state["loader"]
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])


def _digest(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _differences(a: dict[str, Any], b: dict[str, Any], at: str = "") -> list[str]:
    out = []
    for key in sorted(set(a) | set(b)):
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            out += _differences(x, y, f"{at}{key}.")
        elif _plain(x) != _plain(y):
            out.append(f"{at}{key} ({x} there, {y} here)")
    return out


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def distributed() -> tuple[int, int]:
    """Join the group that ``torchrun`` started: (rank, world size); (0, 1) without torchrun.

    gloo on a CPU, nccl on GPUs. Each process must then load its own shard:
    ``BatchLoader(…, rank=rank, world_size=world_size)``.
    """
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(backend)
    return dist.get_rank(), dist.get_world_size()
