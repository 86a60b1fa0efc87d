"""What decides a training run, and what is noted of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol


class Loader(Protocol):
    """What ``fit`` needs of a loader of request batches; ``BatchLoader`` is one.

    ``__len__`` is exact. A loader may also have ``identity()``: its settings and a digest of its
    data, as plain values. A checkpoint then refuses other data of the same size.
    """

    def __iter__(self): ...
    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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
            An epoch whose value is not finite is not better.
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
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; it must be at least 1, or None")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it is a share of all steps, in [0, 1)")


@dataclass
class History:
    """What happened.

    Attributes:
        loss: one per step, the sum of all terms. terms: name -> one per step.
        valid: one validation value per epoch. best_epoch: from 0. seconds: in all.
    """

    loss: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    valid: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    seconds: float = 0.0


def learning_rate(step: int, total: int, config: FitConfig) -> float:
    """Linear warm-up to ``config.lr`` over ``warmup·total`` steps, then a cosine to 0."""
    warm = config.warmup * total
    if step < warm:
        return config.lr * (step + 1) / math.ceil(warm)
    done = (step - warm) / max(total - warm, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
