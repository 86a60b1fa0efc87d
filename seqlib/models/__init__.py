"""One paper, one file; ``build`` makes any of them inside the same ranker."""

from . import pooling  # noqa: F401, I001  (importing registers: in the order of the course)
from . import din  # noqa: F401
from . import transact  # noqa: F401
from . import bst  # noqa: F401
from . import recurrent  # noqa: F401
from . import sim, hashed, twin  # noqa: F401
from .ranker import HistoryEncoder, Ranker, RankerConfig
from .registry import ModelCard, available, build, load, save

__all__ = [
    "HistoryEncoder",
    "ModelCard",
    "Ranker",
    "RankerConfig",
    "available",
    "build",
    "load",
    "save",
]
