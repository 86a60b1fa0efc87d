"""ETA and SDIM: random hyperplanes in place of a learned search (arXiv:2108.04468, 2205.10249).

Both hash the model's own, current item vectors. ETA keeps the K events nearest in Hamming distance
and attends to them; SDIM keeps none, the collision itself is the attention:

    ETA    sig(e) = [h_i · e > 0]_i      K smallest popcount(sig(q) xor sig(s_j)) ─► attention
    SDIM   (1/G) Σ_g ℓ2norm( Σ_j 1[sig_g(s_j) = sig_g(q)] s_j )

The hash takes no gradient and is not learned; the search follows training because the vectors do.

Departures:
  * ETA's printed algorithm has the sign inside the sum; this is SimHash, the sign of the sum.
  * ETA: 32 bits (4 are printed); its attention is TWIN's ESU without cross features in the score,
    with the same tied start.
  * Hyperplanes are drawn once and saved; equal distances go to the newer event; padding is never
    found and is in no bucket. An empty bucket is zero, so a life without collisions gives zeros.
  * Events are item + action + age vectors; the hash sees the item alone.
  * The short branch is DIN with similarities on the newest 50 events, as for TWIN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import trace
from ..data.schema import DataSpec, Events, Items
from ..nn import EventEmbedding, ItemEmbedding, LogBucketEncoding
from ..nn.embedding import MINUTE
from ..search import (
    BUDGET,
    Hits,
    SimHash,
    bucket_attention,
    bucket_ids,
    bucket_tables,
    hamming_topk,
    pack,
)
from .din import DIN, DINConfig
from .registry import ModelCard, register
from .sim import behaviour


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


def _hash_flops(items: ItemEmbedding, simhash: SimHash, n_ids: int) -> int:
    return items.flops(n_ids) + simhash.flops(min(n_ids, items.n_rows))


@dataclass(frozen=True)
class EtaConfig:
    """Hash and attention of ETA.

    Attributes:
        n_bits: m. k: events kept. n_heads, d_k, d_v, d_out: of the attention.
        start: W^q = W^k = start · identity at first, as for TWIN.
        short: newest events of the short branch; 0 leaves it out.
        hash_seed: of the hyperplanes. budget: numbers held at a time while searching.
    """

    n_bits: int = 32
    k: int = 100
    n_heads: int = 4
    d_k: int = 32
    d_v: int = 32
    d_out: int = 64
    start: float = 4.0
    short: int = 50
    hash_seed: int = 0
    budget: int = BUDGET


class Eta(nn.Module):
    """Hamming search, multi-head target attention, short branch: a history encoder.

    Args:
        embed: event embedding. spec: the data set. config: see ``EtaConfig``.

    Cost: search O(B·C·L·m/32) integer operations, attention O(B·C·K). Built in chapter 04.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: EtaConfig) -> None:
        super().__init__()
        self.embed, self.items, self.config = embed, embed.items, config
        dim, a = embed.items.dim, config.n_heads
        self.hash = SimHash(dim, config.n_bits, config.hash_seed)
        self.age = LogBucketEncoding(42, dim, unit=MINUTE)
        self.w_q = nn.Linear(dim, a * config.d_k, bias=False)
        self.w_k = nn.Linear(dim, a * config.d_k, bias=False)
        self.w_v = nn.Linear(dim, a * config.d_v, bias=False)
        self.w_o = nn.Linear(a * config.d_v, config.d_out, bias=False)
        with torch.no_grad():
            eye = config.start * torch.eye(config.d_k, dim).repeat(a, 1)
            self.w_k.weight.mul_(0.1).add_(eye)
            self.w_q.weight.copy_(self.w_k.weight)
        self.short = DIN(embed, spec, DINConfig(similarity=True)) if config.short else None
        self.out_dim = config.d_out + (self.short.out_dim if self.short is not None else 0)

    def search(self, events: Events, items: Items, k: int | None = None) -> Hits:
        """GSU: (B, L) events, (B, C) candidates -> Hits (B, C, min(K, L)), no gradient."""
        k = self.config.k if k is None else k
        query = pack(item_bits(self.items, self.hash, items.id))
        keys = pack(item_bits(self.items, self.hash, events.item))
        return hamming_topk(query, keys, k, events.mask, self.config.budget)

    def forward(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, L), (B, C), (B,) -> (B, C, out_dim)."""
        c, found = self.config, self.search(events, items)
        trace.record("gsu.index", found.index)
        trace.record("gsu.mask", found.mask)
        action = found.gather(self.embed.action_id(events))
        e = behaviour(self.embed, found.gather(events.item), action)
        e = e + self.age(request_time[:, None, None] - found.gather(events.time))
        (b, n, k), heads = found.index.shape, c.n_heads
        q = self.w_q(self.items(items.id)).view(b, n, heads, c.d_k) / math.sqrt(c.d_k)
        s = torch.einsum("bcad,bckad->bcak", q, self.w_k(e).view(b, n, k, heads, c.d_k))
        real = found.mask[:, :, None]
        w = s.masked_fill(~real, torch.finfo(s.dtype).min).softmax(-1) * real
        trace.record("esu.weights", w)
        pooled = torch.einsum("bcak,bckad->bcad", w, self.w_v(e).view(b, n, k, heads, c.d_v))
        long = self.w_o(pooled.flatten(2))
        if self.short is None:
            return long
        return torch.cat([long, self.short(events[:, : c.short], items, request_time)], dim=-1)

    @torch.no_grad()
    def exact_scores(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """What the attention thinks of every event, found or not: (B, C, A, L), padding −inf."""
        c = self.config
        e = behaviour(self.embed, events.item, self.embed.action_id(events))
        e = e + self.age(request_time[:, None] - events.time)
        q = self.w_q(self.items(items.id)).unflatten(-1, (c.n_heads, c.d_k)) / math.sqrt(c.d_k)
        s = torch.einsum("bcad,blad->bcal", q, self.w_k(e).unflatten(-1, (c.n_heads, c.d_k)))
        return s.masked_fill(~events.mask[:, None, None], -torch.inf)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call; the search multiplies nothing but the hash."""
        c, items, pairs = self.config, self.items, n_requests * n_candidates
        k, wide = min(c.k, length), c.n_heads * (c.d_k + c.d_v)
        total = sum(_hash_flops(items, self.hash, n) for n in (pairs, n_requests * length))
        total += items.flops(pairs) + items.flops(pairs * k)
        total += 2 * pairs * (items.dim * c.n_heads * c.d_k + k * (items.dim + 1) * wide)
        total += 2 * pairs * c.n_heads * c.d_v * c.d_out
        if self.short is not None:
            total += self.short.flops(n_requests, n_candidates, min(c.short, length))
        return total


@dataclass(frozen=True)
class SdimConfig:
    """Hash tables of SDIM.

    Attributes:
        n_bits: m, in all tables together. width: τ, bits per table; m/τ tables of 2^τ buckets.
        short: newest events of the short branch; 0 leaves it out.
        hash_seed: of the hyperplanes. budget: numbers held at a time.
    """

    n_bits: int = 48
    width: int = 3
    short: int = 50
    hash_seed: int = 0
    budget: int = BUDGET


class Sdim(nn.Module):
    """Bucket attention and short branch: a history encoder.

    Args:
        embed: event embedding. spec: the data set. config: see ``SdimConfig``.

    Raises:
        ValueError: ``width`` does not divide ``n_bits``.

    Cost: tables O(B·L·G·2^τ·D) once per request, then O(G·D) per candidate, whatever L is.
    Built in chapter 04.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: SdimConfig) -> None:
        super().__init__()
        if config.width < 1 or config.n_bits % config.width:
            raise ValueError(f"width is {config.width}; it must divide n_bits, {config.n_bits}")
        self.embed, self.items, self.config = embed, embed.items, config
        self.hash = SimHash(embed.items.dim, config.n_bits, config.hash_seed)
        self.age = LogBucketEncoding(42, embed.items.dim, unit=MINUTE)
        self.short = DIN(embed, spec, DINConfig(similarity=True)) if config.short else None
        self.out_dim = embed.items.dim + (self.short.out_dim if self.short is not None else 0)

    def buckets(self, ids: Tensor) -> Tensor:
        """(…) item ids -> (…, G) bucket of the item in each table."""
        return bucket_ids(item_bits(self.items, self.hash, ids), self.config.width)

    def prefill(self, events: Events, request_time: Tensor) -> Tensor:
        """(B, L), (B,) -> (B, G, 2^τ, D): what a server keeps of a history, for all candidates."""
        e = behaviour(self.embed, events.item, self.embed.action_id(events))
        e = (e + self.age(request_time[:, None] - events.time)) * events.mask[..., None]
        return bucket_tables(self.buckets(events.item), e, 2**self.config.width, self.config.budget)

    def forward(self, events: Events, items: Items, request_time: Tensor) -> Tensor:
        """(B, L), (B, C), (B,) -> (B, C, out_dim)."""
        tables = self.prefill(events, request_time)
        long = bucket_attention(tables, self.buckets(items.id))
        if self.short is None:
            return long
        recent = self.short(events[:, : self.config.short], items, request_time)
        return torch.cat([long, recent], dim=-1)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        c, items, n_events = self.config, self.items, n_requests * length
        pairs = n_requests * n_candidates
        total = sum(_hash_flops(items, self.hash, n) for n in (pairs, n_events))
        total += items.flops(n_events)
        total += 2 * n_events * (c.n_bits // c.width) * 2**c.width * items.dim
        if self.short is not None:
            total += self.short.flops(n_requests, n_candidates, min(c.short, length))
        return total


_CARD = dict(
    length="10^4 here; the papers use about 10^3",
    chapter="04",
)
_OURS = "short branch: DIN with similarities on the newest 50"
register(
    ModelCard(
        name="eta",
        title="ETA",
        source="arXiv:2108.04468",
        token="item, action set and age of each found event, summed",
        attention="search: Hamming distance of 32-bit signatures; then target attention",
        reduction="search to 100 events, then one vector per candidate",
        computed="signatures per item stored; search and attention online, per candidate",
        departures=(
            "sign of the sum, not the printed sum of signs",
            "32 bits",
            "tied start of W^q and W^k",
            _OURS,
        ),
        **_CARD,
    ),
    EtaConfig,
    Eta,
)
register(
    ModelCard(
        name="sdim",
        title="SDIM",
        source="arXiv:2205.10249",
        token="item, action set and age, summed; hashed by item",
        attention="none: events in the candidate's hash bucket, mean of 16 tables of 8 buckets",
        reduction="L events to 16 · 8 bucket sums, then one vector per candidate",
        computed="bucket tables once per request (or kept per user); candidates only look up",
        departures=("an empty bucket gives zeros", _OURS),
        **_CARD,
    ),
    SdimConfig,
    Sdim,
)
