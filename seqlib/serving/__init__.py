"""Models behind a request: what was computed beforehand is fetched, the rest is computed now."""

from .manifest import Manifest, StoreError, StoreFullError, VersionError
from .rows import RowStore, Snapshot
from .twin import Answer, Report, TwinServer
from .twin_keys import KeyProjector
from .twin_savings import Savings

__all__ = [
    "Answer",
    "KeyProjector",
    "Manifest",
    "Report",
    "RowStore",
    "Savings",
    "Snapshot",
    "StoreError",
    "StoreFullError",
    "TwinServer",
    "VersionError",
]
