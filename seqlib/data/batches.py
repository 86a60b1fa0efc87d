"""Which requests make a batch, in which order, and in which process."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# With ``shuffle`` and ``sort_by_length``, so many batches of every process are sorted together.
WINDOW = 50


def shard(n: int, batch_size: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """Bounds of one process's batches in its share of n requests: as many in every process.

    Raises:
        ValueError: the requests can't be shared out so. Every process raises it, whatever its own
            share, or the others would wait for ever.
    """
    n_batches = -(-n // (batch_size * world_size))
    if n_batches == 0:
        return np.zeros(1, np.int64)
    smallest_share = n // world_size
    lacks_a_batch = smallest_share == (n_batches - 1) * batch_size
    # A process that lacks its last batch lends it a request of the batch before, which must exist
    # and must keep one itself.
    if lacks_a_batch and (n_batches == 1 or batch_size == 1):
        raise ValueError(
            f"{n} requests in batches of {batch_size} don't give {world_size} processes the same "
            f"number of batches; use fewer processes or a larger batch_size"
        )
    share = len(range(rank, n, world_size))
    bounds = np.minimum(np.arange(n_batches + 1) * batch_size, share)
    if bounds[-2] == bounds[-1]:
        bounds[-2] -= 1
    return bounds


def plan(
    bounds: NDArray[np.int64],
    n: int,
    rng: np.random.Generator,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    shuffle: bool,
    sizes: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """Indices of the requests in each batch of one process.

    Args:
        bounds: (batches + 1,) from ``shard``.
        n: requests of all processes.
        rng: dice of the order, the same in every process.
        batch_size: requests of a full batch.
        rank: this process.
        world_size: number of processes.
        shuffle: draw the order.
        sizes: (n,) lengths of the histories, to put similar ones together; None doesn't.
    """
    order = rng.permutation(n) if shuffle else np.arange(n)
    if sizes is not None:
        window = WINDOW * batch_size * world_size if shuffle else max(n, 1)
        order = order[np.lexsort((sizes[order], np.arange(n) // window))]
    mine = order[rank::world_size]
    batches = [mine[a:b] for a, b in pairwise(bounds)]
    if shuffle and sizes is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches
