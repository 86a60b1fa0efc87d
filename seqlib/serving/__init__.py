"""Models behind a request: what was computed beforehand is fetched, the rest is computed now."""

from .store import KeyStore, Manifest, Snapshot, StoreError, StoreFullError, VersionError
from .twin import Answer, Report, TwinServer
from .twin_keys import KeyProjector
from .twin_savings import Savings

__all__ = [
    "Answer",
    "KeyProjector",
    "KeyStore",
    "Manifest",
    "Report",
    "Savings",
    "Snapshot",
    "StoreError",
    "StoreFullError",
    "TwinServer",
    "VersionError",
]
