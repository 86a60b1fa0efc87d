"""Explorers: widgets whose JavaScript does the work, so they run without a kernel on the website.

Each has a module of its own, beside its JavaScript. It takes plain numbers, draws nothing that it did
not compute from them, and has a Python reference that the browser tests compare it with.
"""

from ._base import MAX_STATE, pack, unpack
from ._head import HEAD_BITS, head_state
from .din import DINExplorer, din_logit, din_state, din_weights, unit_state
from .life import EVERYTHING, LENGTHS, LifeExplorer, life_filter, life_state
from .pooling import POOLS, PoolingExplorer, pooled_vector
from .transact import WINDOWS, TransActExplorer, transact_forward, transact_state
from .twin import K_STEPS, SEARCHES, TwinExplorer, twin_state, twin_view

__all__ = [
    "EVERYTHING",
    "HEAD_BITS",
    "K_STEPS",
    "LENGTHS",
    "MAX_STATE",
    "POOLS",
    "SEARCHES",
    "WINDOWS",
    "DINExplorer",
    "LifeExplorer",
    "PoolingExplorer",
    "TransActExplorer",
    "TwinExplorer",
    "din_logit",
    "din_state",
    "din_weights",
    "head_state",
    "life_filter",
    "life_state",
    "pack",
    "pooled_vector",
    "transact_forward",
    "transact_state",
    "twin_state",
    "twin_view",
    "unit_state",
    "unpack",
]
