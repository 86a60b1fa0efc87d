"""The hidden chain of every (user, topic) pair: rates, stationary law, transitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from .config import WorldConfig
from .kernels import TICKS_PER_DAY


def generator_matrix(config: WorldConfig) -> NDArray[np.float64]:
    """Rate matrix Q (4, 4) per day, rows sum to 0, states in the order of ``STATES``."""
    n, a, d, f = range(4)
    q = np.zeros((4, 4))
    q[n, f] = config.r_NF
    q[n, a] = config.r_NA
    q[a, n] = config.r_AN
    q[f, d] = config.r_FD
    q[d, f] = config.r_DF
    q[d, n] = config.r_DN
    q[f, n] = config.r_FN
    np.fill_diagonal(q, -q.sum(1))
    return q


def stationary(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The law π with π Q = 0, (4,); states that can't be reached get 0."""
    a = np.vstack([q.T, np.ones(len(q))])
    pi = np.linalg.lstsq(a, np.r_[np.zeros(len(q)), 1.0], rcond=None)[0]
    pi = np.where(np.abs(pi) < 1e-14, 0.0, pi)
    return pi / pi.sum()


def transition_table(q: NDArray[np.float64], n_ticks: int) -> NDArray[np.float64]:
    """P[d] = expm(Q d / 64) for d = 0 … n_ticks − 1: (n_ticks, 4, 4).

    By binary splitting: P[i + 2^b] = P[i] P[2^b], each power from a fresh matrix exponential, so
    that errors don't pile up over 46,000 steps.
    """
    table = np.empty((n_ticks, 4, 4))
    table[0] = np.eye(4)
    done = 1
    while done < n_ticks:
        more = min(done, n_ticks - done)
        table[done : done + more] = table[:more] @ expm(q * done / TICKS_PER_DAY)
        done += more
    return table
