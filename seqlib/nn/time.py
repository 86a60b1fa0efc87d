"""Two ways to give a model the time: log buckets for ages, sines for the calendar."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HOUR = 3_600.0
DAY = 86_400.0
WEEK = 604_800.0


def log_bucket(x: Tensor, n_buckets: int, per_doubling: float = 2.0) -> Tensor:
    """Bucket of a non-negative quantity on a logarithmic scale: fine when recent, coarse when old.

    ``bucket = min(floor(per_doubling · log2(1 + x)), n_buckets − 1)``. With minutes and two buckets
    per doubling, 42 buckets reach 2.4 years.

    Args:
        x: any shape, ≥ 0 (values below 0 are read as 0).
        n_buckets: number of buckets, at least 1.

    Returns:
        int64, the shape of ``x``, in [0, n_buckets).

    Built in chapter 01.
    """
    if n_buckets < 1:
        raise ValueError(f"n_buckets is {n_buckets}; at least 1 is needed")
    bucket = per_doubling * torch.log2(1 + x.clamp_min(0))
    return bucket.clamp_max(n_buckets - 1).long()  # cut first: infinity as an integer is negative


class LogBucketEncoding(nn.Module):
    """A learned vector per log bucket of an age or a rank.

    Args:
        n_buckets: number of buckets.
        dim: width of the vectors.
        unit: what one step of ``x`` is divided by, e.g. 60 for seconds read as minutes.
    """

    def __init__(self, n_buckets: int, dim: int, unit: float = 1.0, std: float = 0.1) -> None:
        super().__init__()
        self.n_buckets = n_buckets
        self.unit = unit
        self.table = nn.Embedding(n_buckets, dim)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """(…) seconds or ranks -> (…, dim)."""
        return self.table(log_bucket(x / self.unit, self.n_buckets))


class PeriodicEncoding(nn.Module):
    """Sines and cosines of the calendar, so that 23:59 is next to 00:00.

    For each period P and harmonic h = 1…H: ``sin(2πht/P), cos(2πht/P)``, then a linear layer.

    Args:
        dim: width of the result.
        periods: seconds; a day and a week by default.
        harmonics: H, per period.
    """

    def __init__(
        self,
        dim: int,
        periods: tuple[float, ...] = (DAY, WEEK),
        harmonics: int = 3,
    ) -> None:
        super().__init__()
        self.periods = periods
        self.harmonics = harmonics
        self.n_waves = 2 * harmonics * len(periods)
        self.proj = nn.Linear(self.n_waves, dim)

    def waves(self, time: Tensor) -> Tensor:
        """(…) float64 seconds -> (…, 2·H·len(periods)); computed in float64, then rounded once."""
        out = []
        for period in self.periods:
            phase = torch.remainder(time.double(), period) * (2 * math.pi / period)
            for h in range(1, self.harmonics + 1):
                out += [torch.sin(h * phase), torch.cos(h * phase)]
        return torch.stack(out, dim=-1).to(self.proj.weight.dtype)

    def forward(self, time: Tensor) -> Tensor:
        """(…) float64 seconds -> (…, dim)."""
        return self.proj(self.waves(time))

    def flops(self, n: int) -> int:
        """Matrix-multiply FLOPs for n times."""
        return 2 * n * self.n_waves * self.proj.out_features
