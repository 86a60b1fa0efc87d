"""The processes of one run under ``torchrun``: what one of them meets, all of them learn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .data.identity import differences, digest


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which batch and what is kept."""


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


def own_device(device: torch.device | str | None) -> torch.device:
    """The device asked for; a GPU without a number is this process's own."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


class Processes:
    """This process among those of its run. Alone, every method is free and changes nothing.

    A collective operation waits for everybody. So no process may leave a run by itself: whatever
    it meets, it tells the others at the next point where all of them meet.

    Attributes:
        rank: of this process, from 0. count: of all processes.
    """

    def __init__(self) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.count = dist.get_world_size() if grouped else 1

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank; anything that can be pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The value of process 0, which decides; the others' are ignored."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def numbers(self, value: float) -> list[float]:
        """Everybody's number, by rank; ``gather`` for every step, without pickling."""
        if self.count == 1:
            return [value]
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        own = torch.tensor([value], dtype=torch.float64, device=device)
        every = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(every, own)
        return [float(x) for x in every]

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """What fails inside on one process ends all of them, with the same error.

        Alone, errors pass as they are. The block must hold no collective operation.

        Args:
            doing: names the block, for the message.

        Raises:
            TrainingError: some process failed; says which one, and how.
        """
        if self.count == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        if not any(self.numbers(error is not None)):
            return
        text = str(error) if isinstance(error, TrainingError) else f"{doing}: {error!r}"
        told = self.gather(None if error is None else text)
        rank = next(rank for rank, text in enumerate(told) if text is not None)
        raise TrainingError(f"process {rank} of {self.count}: {told[rank]}") from error


def require_alike(recipe: dict[str, Any], loader: Any, processes: Processes) -> None:
    """Under torchrun, one recipe for all and a shard for each.

    Raises:
        ValueError: a process has another recipe, or the shard of another.
    """
    if processes.count == 1:
        return
    recipes = processes.gather(recipe)
    for rank, other in enumerate(recipes):
        if differs := differences(recipes[0], other):
            told = ", ".join(differs)
            raise ValueError(f"process {rank} (here) differs from process 0 (there) in {told}")
    shards = processes.gather(getattr(loader, "rank", None))
    of = (recipe["loader"] or {}).get("world_size", processes.count)
    if None not in shards and (shards != list(range(processes.count)) or of != processes.count):
        raise ValueError(
            f"the loaders give the shards {shards} of {of} to {processes.count} processes; each "
            f"needs its own: BatchLoader(…, rank=rank, world_size=world_size)"
        )


@torch.no_grad()
def share_buffers(model: nn.Module, processes: Processes) -> None:
    """Give every process the mean over processes of each buffer that a checkpoint would hold.

    Such are Dice's moving averages, which each process takes over its own batches. They are linear
    in what they average, so the mean at an epoch's end is the same as one taken after every step.
    What is equal everywhere stays as it is, bit for bit. What holds no floats is process 0's.
    """
    if processes.count == 1:
        return
    own = dict(saved_buffers(model))
    every = processes.gather({name: b.cpu() for name, b in own.items()})
    for name, buffer in own.items():
        values = [of_rank[name] for of_rank in every]
        if all(torch.equal(v, values[0]) for v in values):
            continue
        floats = buffer.is_floating_point()
        buffer.copy_(torch.stack(values).double().mean(0) if floats else values[0])


def saved_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and buffers that the state dict of a model holds."""
    saved = model.state_dict().keys()
    return ((name, b) for name, b in model.named_buffers() if name in saved)


def require_equal_weights(model: nn.Module, processes: Processes) -> None:
    """Every process must hold the same parameters, bit for bit.

    Raises:
        TrainingError: they do not; the processes train different models.
    """
    if processes.count == 1:
        return
    digests = processes.gather(digest(dict(model.named_parameters())))
    differs = [rank for rank, d in enumerate(digests) if d != digests[0]]
    if differs:
        raise TrainingError(
            f"the weights of process {differs[0]} are not those of process 0: before_step changed "
            f"them by its own batch; it must do the same on every process"
        )
