"""Signatures of item vectors: random hyperplanes over the model's own, current embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from ..search.hashing import SimHash
from .embedding import ItemEmbedding


def item_bits(items: ItemEmbedding, simhash: SimHash, ids: Tensor) -> Tensor:
    """(…) ids -> (…, m) bool, in full precision and without gradient.

    Like ``ItemEmbedding``, it hashes the catalogue once when that is the smaller set. A server
    stores these bits beside the item vectors.
    """
    ids = items.known(ids)
    whole = ids.numel() > items.n_rows
    wanted = torch.arange(items.n_rows, device=ids.device) if whole else ids
    with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
        bits = simhash.bits(items(wanted))
    return bits[ids] if whole else bits


def item_bits_flops(items: ItemEmbedding, simhash: SimHash, n_ids: int) -> int:
    """Matrix-multiply FLOPs of ``item_bits`` on n ids."""
    return items.flops(n_ids) + simhash.flops(min(n_ids, items.n_rows))
