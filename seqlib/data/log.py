"""The names that chapters import together: the log, its requests, and the loader of batches.

Inside the library each comes from its own file: ``event_log``, ``requests``, ``loader``.
"""

from .event_log import EventLog
from .loader import BatchLoader
from .requests import Requests, history_end

__all__ = ["BatchLoader", "EventLog", "Requests", "history_end"]
