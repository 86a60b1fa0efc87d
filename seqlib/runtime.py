"""One place for what a process needs before it trains: threads, memory, seed."""

from __future__ import annotations

import ctypes
import platform

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def setup(threads: int = 2, seed: int = 0) -> None:
    """Fix the number of threads, keep freed memory, seed torch.

    Results of floating-point sums depend on the number of threads, so every chapter and experiment
    sets it here. glibc hands large blocks back to the system at every free; with activations of
    tens of megabytes a training step then spends half of its time in page faults. Keeping
    them makes long histories about twice as fast on a CPU.

    Args:
        threads: for torch's operations. seed: of torch's generator.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, size in (
            (_M_MMAP_THRESHOLD, 2**30),
            (_M_TRIM_THRESHOLD, 2**31 - 1),
            (_M_TOP_PAD, 2**26),
        ):
            libc.mallopt(option, size)
