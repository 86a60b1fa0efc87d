"""Data of the course: schema, event log, request batches, the synthetic world, real data sets.

Names are found when first used, so that ``import seqlib.data`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "DataSpec": "schema",
    "Events": "schema",
    "ItemTable": "schema",
    "Items": "schema",
    "RequestBatch": "schema",
    "SchemaError": "schema",
    "BatchLoader": "loader",
    "EventLog": "event_log",
    "Requests": "requests",
    "history_end": "requests",
    "Dataset": "dataset",
    "describe": "dataset",
    "complete_journey": "public",
    "true_probability": "public",
    "week_start": "public",
    "GitError": "public",
    "git_history": "public",
    "make_world": "world",
}

if TYPE_CHECKING:
    from .dataset import Dataset, describe
    from .event_log import EventLog
    from .loader import BatchLoader
    from .public.git import GitError, git_history
    from .public.journey import complete_journey, true_probability, week_start
    from .requests import Requests, history_end
    from .schema import DataSpec, Events, Items, ItemTable, RequestBatch, SchemaError
    from .world import make_world

__all__ = [
    "BatchLoader",
    "DataSpec",
    "Dataset",
    "EventLog",
    "Events",
    "GitError",
    "ItemTable",
    "Items",
    "RequestBatch",
    "Requests",
    "SchemaError",
    "complete_journey",
    "describe",
    "git_history",
    "history_end",
    "make_world",
    "true_probability",
    "week_start",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
