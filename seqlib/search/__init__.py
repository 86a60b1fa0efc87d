"""Finding the few events of a long history that matter: exact top-k, and hashing."""

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
from .topk import (
    BUDGET,
    Hits,
    by_candidates,
    hits_at_k,
    inner_product_topk,
    round_robin_topk,
    topk,
)

__all__ = [
    "BUDGET",
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
    "pack",
    "popcount",
    "round_robin_topk",
    "topk",
]
