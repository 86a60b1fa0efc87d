"""Blocks that two models or more share."""

from .dcn import CrossNetwork
from .embedding import EmbeddingConfig, EventEmbedding, ItemEmbedding, MiniBatchAwareL2
from .heads import MLP, TaskHeads
from .time import LogBucketEncoding, PeriodicEncoding, log_bucket

__all__ = [
    "MLP",
    "CrossNetwork",
    "EmbeddingConfig",
    "EventEmbedding",
    "ItemEmbedding",
    "LogBucketEncoding",
    "MiniBatchAwareL2",
    "PeriodicEncoding",
    "TaskHeads",
    "log_bucket",
]
