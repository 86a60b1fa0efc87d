"""Blocks that two models or more share."""

from .beside import Beside, BesideState
from .dcn import CrossNetwork
from .early_fusion import Encoder, EncoderLayer, SelfAttention, fuse
from .embedding import (
    ActionIds,
    EmbeddingConfig,
    EventEmbedding,
    ItemEmbedding,
    MiniBatchAwareL2,
    action_table,
)
from .heads import MLP, TaskHeads
from .time import LogBucketEncoding, PeriodicEncoding, log_bucket

__all__ = [
    "MLP",
    "ActionIds",
    "Beside",
    "BesideState",
    "CrossNetwork",
    "EmbeddingConfig",
    "Encoder",
    "EncoderLayer",
    "EventEmbedding",
    "ItemEmbedding",
    "LogBucketEncoding",
    "MiniBatchAwareL2",
    "PeriodicEncoding",
    "SelfAttention",
    "TaskHeads",
    "action_table",
    "fuse",
    "log_bucket",
]
