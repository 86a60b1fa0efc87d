"""One of two processes under torchrun: runs every scenario and stores what it saw of each."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import tiny
import tiny_data
import torch
from test_train import Loader, weights

import seqlib
from seqlib.evaluate import evaluate, predict
from seqlib.train import FitConfig, distributed, fit

rank, world_size = distributed()
assert world_size == 2
folder = Path(sys.argv[1])
SHARD = {"rank": rank, "world_size": world_size, "batch_size": 2}


def build(name: str = "din", **options) -> torch.nn.Module:
    return seqlib.build(name, tiny.spec(), seed=0, **options)


def log_loss(model) -> float:
    """Of all requests, the same ones on every process."""
    every = predict(model, tiny_data.loader(shuffle=False))
    return evaluate(every, tiny.spec().tasks)["click"]["log_loss"]


def joined_batch() -> torch.Tensor:
    """Two processes, each with its half of one batch."""
    loader = Loader(1)
    loader.batches = [tiny.batch(lengths=(3, 5, 2, 7), n_candidates=3)[2 * rank : 2 * rank + 2]]
    model = build("mean_pooling")
    fit(model, loader, FitConfig(epochs=3), device="cpu")
    return weights(model)


def unused_parameter() -> float:
    """Sum pooling's vector for no history is used by no batch."""
    history = fit(build("sum_pooling"), tiny_data.loader(**SHARD), FitConfig(epochs=2))
    return history.loss[-1]


def patience() -> dict:
    """By its own values, process 1 would stop after three epochs and keep the first one."""
    told = iter(((0.1, 0.3, 0.2, 0.2, 0.9), (0.3, 0.2, 0.1, 0.2, 0.9))[rank])
    losses, states = [], []

    def validate(model):
        losses.append(log_loss(model))
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(told)

    model, config = build(), FitConfig(epochs=5, patience=2)
    history = fit(model, tiny_data.loader(**SHARD), config, validate=validate, device="cpu")
    told = dataclasses.asdict(history) | {"seconds": 0}
    return {"history": told, "log_losses": losses, "states": states, "kept": model.state_dict()}


def error(call) -> str:
    """What a call raised."""
    try:
        call()
    except Exception as caught:
        return f"{type(caught).__name__}: {caught}"
    return "nothing was raised"


class Failing(Loader):
    """Raises when the third batch is asked for."""

    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == 2:
                raise OSError("the disk is gone")
            yield batch


def errors() -> dict[str, str]:
    """What every process says when process 1 alone meets something."""

    def raise_on_one(*_) -> float:
        if rank == 1:
            raise ValueError("only one class")
        return 0.5

    def move_by_rank(batch, lr) -> None:
        with torch.no_grad():
            models["weights"].heads.deep.bias += rank

    models = {"weights": build()}
    one = {"device": "cpu", "config": FitConfig(epochs=2)}
    return {
        "nan": error(lambda: fit(build(), Loader(poison=2 if rank else None), **one)),
        "validate": error(lambda: fit(build(), Loader(), validate=raise_on_one, **one)),
        "before_step": error(lambda: fit(build(), Loader(), before_step=raise_on_one, **one)),
        "loader": error(lambda: fit(build(), (Failing if rank else Loader)(), **one)),
        "batches": error(lambda: fit(build(), Loader(4 - rank), **one)),
        "model": error(lambda: fit(build("din_code" if rank else "din"), Loader(), **one)),
        "shard": error(lambda: fit(build(), tiny_data.loader(), **one)),
        "seed": error(lambda: fit(build(), tiny_data.loader(**SHARD, seed=rank), **one)),
        "weights": error(lambda: fit(models["weights"], Loader(), before_step=move_by_rank, **one)),
        "disk": error(lambda: fit(build(), Loader(), checkpoint="/dev/null/run.pt", **one)),
    }


class Stop(Exception):
    pass


class Interrupted:
    """The first batches of a loader, and then an error; it can't be told from the loader."""

    def __init__(self, loader, steps: int) -> None:
        self.loader, self.steps = loader, steps

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            if self.steps == 0:
                raise Stop
            self.steps -= 1
            yield batch


def resumed(name: str, **options) -> dict:
    """Interrupted within the second epoch, and unbroken."""
    path, config = folder / f"{name}.pt", FitConfig(epochs=3, patience=3)
    given = {"config": config, "device": "cpu", "validate": lambda m: -log_loss(m)}
    kept = {**given, "checkpoint": path, "checkpoint_every": 3}
    whole, again = build(name, **options), build(name, **options)
    unbroken = fit(whole, tiny_data.loader(**SHARD), **given)
    stopped = error(
        lambda: fit(build(name, **options), Interrupted(tiny_data.loader(**SHARD), 13), **kept)
    )
    torch.manual_seed(99)  # generators must come from the file
    history = fit(again, tiny_data.loader(**SHARD), resume=True, **kept)
    return {
        "stopped": stopped,
        "unbroken": (unbroken.loss, unbroken.valid, whole.state_dict()),
        "resumed": (history.loss, history.valid, again.state_dict()),
        "finished": fit(
            build(name, **options), tiny_data.loader(**SHARD), resume=True, **kept
        ).loss,
    }


if __name__ == "__main__":
    seen = {
        "joined": joined_batch(),
        "unused": unused_parameter(),
        "patience": patience(),
        "errors": errors(),
        "din": resumed("din"),
        "transact": resumed("transact", **{**tiny.SMALL_TRANSACT, "dropout": 0.1}),
    }
    torch.save(seen, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()
