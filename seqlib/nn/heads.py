"""The multi-layer perceptron and the task heads every ranker ends in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..data.schema import Task


class MLP(nn.Module):
    """Linear layers with an activation after each.

    Args:
        dims: (in, hidden…, out), at least two.
        activation: makes the activation module of one layer.
    """

    def __init__(self, dims: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        if len(dims) < 2:
            raise ValueError(f"dims is {tuple(dims)}; an MLP needs (in, …, out)")
        self.dims = tuple(dims)
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise(dims):
            layers += [nn.Linear(d_in, d_out), activation()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.layers(x)

    def flops(self, n: int) -> int:
        """Matrix-multiply FLOPs for n rows."""
        return 2 * n * sum(a * b for a, b in pairwise(self.dims))


class TaskHeads(nn.Module):
    """One output per task: ``W_deep h + W_wide x + b``, where b starts at the tasks' base rates.

    A bias that starts at ``logit(mean label)`` saves the first hundreds of steps, which would
    otherwise be spent on learning that clicks are rare. A real-valued task starts at its mean.

    Args:
        deep_dim: width of the MLP's output.
        wide_dim: width of the raw features (a linear skip).
        base_rates: mean label of each task; of a binary one in (0, 1).
        tasks: their kinds; empty takes all for binary.
    """

    def __init__(
        self,
        deep_dim: int,
        wide_dim: int,
        base_rates: Sequence[float],
        tasks: Sequence[Task] = (),
    ) -> None:
        super().__init__()
        kinds = [task.kind for task in tasks] or ["binary"] * len(base_rates)
        start = [_logit(r) if k == "binary" else r for r, k in zip(base_rates, kinds, strict=True)]
        self.deep = nn.Linear(deep_dim, len(base_rates))
        self.wide = nn.Linear(wide_dim, len(base_rates), bias=False)
        with torch.no_grad():
            self.deep.bias.copy_(torch.tensor(start))
            self.wide.weight.zero_()

    def forward(self, deep: Tensor, wide: Tensor) -> Tensor:
        """(…, deep_dim), (…, wide_dim) -> (…, T), logits of binary tasks."""
        return self.deep(deep) + self.wide(wide)

    def flops(self, n: int) -> int:
        """Matrix-multiply FLOPs for n rows."""
        return 2 * n * (self.deep.weight.numel() + self.wide.weight.numel())


def predictions(outputs: Tensor, tasks: Sequence[Task] = ()) -> Tensor:
    """Outputs of the heads (…, T) -> probabilities of binary tasks, real ones as they are.

    Args:
        tasks: their kinds; empty takes all for binary.
    """
    if all(task.kind == "binary" for task in tasks):
        return outputs.sigmoid()
    binary = torch.tensor([task.kind == "binary" for task in tasks], device=outputs.device)
    return torch.where(binary, outputs.sigmoid(), outputs)


def _logit(rate: float) -> float:
    if not 0 < rate < 1:
        raise ValueError(f"a base rate is {rate}; of a binary task it must lie between 0 and 1")
    return math.log(rate / (1 - rate))
