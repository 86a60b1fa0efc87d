"""Finding the few events of a long history that matter: exact top-k, hashing, clusters."""

from .hashing import (
    SimHash,
    bucket_attention,
    bucket_ids,
    bucket_tables,
    hamming,
    hamming_topk,
    pack,
    popcount,
)
from .kmeans import Clusters, kmeans
from .topk import (
    BUDGET,
    Hits,
    by_candidates,
    hits_at_k,
    inner_product_topk,
    round_robin_topk,
    same_field_topk,
    topk,
)

__all__ = [
    "BUDGET",
    "Clusters",
    "Hits",
    "SimHash",
    "bucket_attention",
    "bucket_ids",
    "bucket_tables",
    "by_candidates",
    "hamming",
    "hamming_topk",
    "hits_at_k",
    "inner_product_topk",
    "kmeans",
    "pack",
    "popcount",
    "round_robin_topk",
    "same_field_topk",
    "topk",
]
