"""One paper, one file; ``build`` makes any of them inside the same ranker."""

from .baselines import no_history  # noqa: F401, I001  (importing registers, in this order)
from . import pooling  # noqa: F401
from .baselines import histogram  # noqa: F401
from . import din, transact  # noqa: F401
from .baselines import bst, recurrent  # noqa: F401
from . import sim, eta, sdim, twin  # noqa: F401
from .ranker import HistoryEncoder, Ranker, RankerConfig, StagedEncoder
from .registry import ModelCard, available, build, load, save

__all__ = [
    "HistoryEncoder",
    "ModelCard",
    "Ranker",
    "RankerConfig",
    "StagedEncoder",
    "available",
    "build",
    "load",
    "save",
]
