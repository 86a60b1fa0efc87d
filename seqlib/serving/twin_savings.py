"""What stored keys save: multiply-adds of a request, and the rate at which a store pays."""

from __future__ import annotations

from dataclasses import dataclass

PAPER_POOL = 8e9
PAPER_CYCLE = 900.0
PAPER_LENGTH = 10_000
PAPER_REDUCTION = 0.993


@dataclass(frozen=True)
class Savings:
    """Multiply-adds, as PyTorch counts them (claim T-E3).

    Attributes:
        projection: of ``K_h W^h`` in the GSU.
        projection_cached: what is left of it with stored keys, the misses'.
        bias: of ``K_c w^c β``, needed in both cases.
        request, request_cached: of everything from the events to the scores. With stale keys the
            ESU projects its finalists anew, which for many candidates is as much as was saved.
    """

    projection: int
    projection_cached: int
    bias: int
    request: int
    request_cached: int

    @property
    def removed(self) -> int:
        """Multiply-adds of the GSU's projection that the store makes unnecessary."""
        return self.projection - self.projection_cached

    @property
    def share(self) -> float:
        """Of the projection stage, inherent and cross part together."""
        return self.removed / (self.projection + self.bias)


def rate_reduction(
    pool: float, cycle: float, users_per_second: float, length: float = PAPER_LENGTH
) -> float:
    """``1 − (N_pool / T_refresh) / (R_users · L)``: rows projected per second, with and without.

    The paper states 99.3 % and no derivation. With its pool of 8·10^9 items and its cycle of 15
    minutes this formula gives that value at 1.27·10^5 requests per second (``break_even`` at .993),
    a rate that the paper does not state.

    Args:
        pool: items.
        cycle: seconds of one refresh.
        users_per_second: requests.
        length: L.

    Returns:
        Negative when refreshing costs more than projecting at every request would.

    Raises:
        ValueError: an argument that is not positive.
    """
    given = {"pool": pool, "cycle": cycle, "users_per_second": users_per_second, "length": length}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive")
    return 1 - pool / cycle / (users_per_second * length)


def break_even(
    pool: float, cycle: float, length: float = PAPER_LENGTH, reduction: float = 0.0
) -> float:
    """Requests per second from which on a store saves at least ``reduction`` (0: anything)."""
    if not reduction < 1:
        raise ValueError(f"reduction is {reduction}; it must be below 1")
    return pool / cycle / ((1 - reduction) * length)
