"""k-means: items that lie together become one cluster.

start      k-means++: each next centre is a point drawn by its squared distance to the nearest
repeat     every point to its nearest centre, every centre to the mean of its points
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .topk import BUDGET


@dataclass(frozen=True, eq=False)
class Clusters:
    """What ``kmeans`` found.

    Attributes:
        centre: (k, D).
        label: (N,) int64, the nearest centre of every point.
        inertia: mean squared distance of a point to its centre.
    """

    centre: Tensor
    label: Tensor
    inertia: float


@torch.no_grad()
def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 10,
    seed: int = 0,
    budget: int = BUDGET,
) -> Clusters:
    """k clusters of N points by Lloyd's algorithm from a k-means++ start.

    A centre that loses its last point moves to the point farthest from its own centre, so no
    cluster is empty while there are k different points.

    Args:
        x: (N, D) floats.
        k: 1 … N.
        iterations: at most so many; fewer if no label changes.
        seed: of the start.
        budget: numbers held at a time.

    Raises:
        ValueError: ``k`` outside 1 … N, or a number in ``x`` that is not finite.

    Cost O(iterations · N · k · D), memory O(budget + N + k · D).
    """
    n = len(x)
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; with {n} points it must lie in 1 … {n}")
    if not torch.isfinite(x).all():
        raise ValueError("x has NaN or infinity; clusters need finite numbers")
    # ‖c‖² − 2 x·c is a small difference of large numbers where all points lie far from 0. Centred
    # points have the same clusters; others stay as they are, to the last bit.
    offset = x.mean(0)
    far = offset.norm() > 10 * (x - offset).norm(dim=-1).mean()
    offset = offset.where(far, 0.0)
    x = x - offset
    centre = _spread(x, k, torch.Generator(x.device).manual_seed(seed))
    label, distance = _nearest(x, centre, budget)
    for _ in range(iterations):
        count = torch.bincount(label, minlength=k)
        total = torch.zeros_like(centre).index_add_(0, label, x)
        centre = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centre)
        lost = (count == 0).nonzero()[:, 0]
        if lost.numel():
            centre[lost] = x[distance.topk(len(lost)).indices]
        before = label
        label, distance = _nearest(x, centre, budget)
        if torch.equal(label, before):
            break
    return Clusters(centre + offset, label, float(distance.double().mean()))


def _spread(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007): (k, D) points of x, far from each other."""
    first = torch.randint(len(x), (1,), generator=generator, device=x.device)
    chosen = [first]
    distance = torch.full_like(x[:, 0], torch.inf)
    for _ in range(k - 1):
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(-1))
        # All points stand on a centre: any will do.
        weight = distance if distance.any() else torch.ones_like(distance)
        at = torch.rand(1, generator=generator, device=x.device, dtype=torch.float64)
        share = weight.double().cumsum(0)
        chosen.append(torch.searchsorted(share, at * share[-1], right=True).clamp_max(len(x) - 1))
    return x[torch.cat(chosen)].clone()


def _nearest(x: Tensor, centre: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """Label (N,) and squared distance (N,) of the nearest centre; the lower one of equals."""
    step = max(1, budget // len(centre))
    norm = centre.square().sum(-1)
    label = torch.cat([(norm - 2 * part @ centre.T).argmin(-1) for part in x.split(step)])
    return label, (x - centre[label]).square().sum(-1)
