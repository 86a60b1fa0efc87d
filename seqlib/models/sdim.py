"""SDIM: hash collisions in place of attention (arXiv:2205.10249).

    (1/G) Σ_g ℓ2norm( Σ_j 1[sig_g(s_j) = sig_g(q)] s_j )

No event is searched for and none is weighed: those in the candidate's own bucket are summed. The
hash takes no gradient; it follows training because it reads the model's own vectors.

Departures:
  * Hyperplanes are drawn once and saved; padding is in no bucket. An empty bucket is zero, so a
    life without collisions gives zeros.
  * Events are item + action + age vectors; the hash sees the item alone.
  * The short branch is DIN with similarities on the newest 50 events, as for TWIN.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..data.schema import DataSpec, Items, Request
from ..data.tensors import Tensors
from ..nn import EventEmbedding, LogBucketEncoding
from ..nn.embedding import MINUTE
from ..nn.signature import item_bits, item_bits_flops
from ..search import BUDGET, SimHash, bucket_attention, bucket_ids, bucket_tables
from .din import beside_recent
from .registry import WITH_THE_RANKER, ModelCard, register
from .sim import behaviour


@dataclass(frozen=True)
class SdimConfig:
    """Hash tables of SDIM.

    Attributes:
        n_bits: m, in all tables together.
        width: τ, bits per table; m/τ tables of 2^τ buckets.
        short: newest events of the short branch; 0 leaves it out.
        hash_seed: of the hyperplanes.
        budget: numbers held at a time.
    """

    n_bits: int = 48
    width: int = 3
    short: int = 50
    hash_seed: int = 0
    budget: int = BUDGET


@dataclass(frozen=True, eq=False)
class SdimState(Tensors):
    """(B, G, 2^τ, D) sums of event vectors per bucket: what a server keeps of a history."""

    tables: Tensor


class Sdim(nn.Module):
    """Bucket attention: a history encoder in two stages.

    Args:
        embed: event embedding.
        spec: the data set.
        config: see ``SdimConfig``.

    Raises:
        ValueError: ``width`` does not divide ``n_bits``.

    Cost: tables O(B·L·G·2^τ·D) once per request, then O(G·D) per candidate, whatever L is.
    Built in chapter 04.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: SdimConfig) -> None:
        super().__init__()
        if config.width < 1 or config.n_bits % config.width:
            raise ValueError(f"width is {config.width}; it must divide n_bits, {config.n_bits}")
        self.embed = embed
        self.items = embed.items
        self.config = config
        self.hash = SimHash(embed.items.dim, config.n_bits, config.hash_seed)
        self.age = LogBucketEncoding(42, embed.items.dim, unit=MINUTE)
        self.out_dim = embed.items.dim

    def buckets(self, ids: Tensor) -> Tensor:
        """(…) item ids -> (…, G) bucket of the item in each table."""
        return bucket_ids(item_bits(self.items, self.hash, ids), self.config.width)

    def prefill(self, request: Request) -> SdimState:
        """Every event added to its bucket in each table."""
        events = request.events
        e = behaviour(self.embed, events.item, self.embed.action_id(events))
        e = (e + self.age(request.time[:, None] - events.time)) * events.mask[..., None]
        n_buckets = 2**self.config.width
        buckets = self.buckets(events.item)
        return SdimState(bucket_tables(buckets, e, n_buckets, self.config.budget))

    def score(self, state: SdimState, items: Items) -> Tensor:
        """Candidates look up their own buckets: (B, C, out_dim)."""
        return bucket_attention(state.tables, self.buckets(items.id))

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        c = self.config
        items = self.items
        n_events = n_requests * length
        pairs = n_requests * n_candidates
        total = sum(item_bits_flops(items, self.hash, n) for n in (pairs, n_events))
        total += items.flops(n_events)
        total += 2 * n_events * (c.n_bits // c.width) * 2**c.width * items.dim
        return total


def sdim(embed: EventEmbedding, spec: DataSpec, config: SdimConfig) -> nn.Module:
    """SDIM with its short branch."""
    return beside_recent(Sdim(embed, spec, config), embed, spec, config.short)


register(
    ModelCard(
        name="sdim",
        title="SDIM",
        source="arXiv:2205.10249",
        length="10^4 here; the papers use about 10^3",
        token="item, action set and age, summed; hashed by item",
        attention="none: events in the candidate's hash bucket, mean of 16 tables of 8 buckets",
        reduction="L events to 16 · 8 bucket sums, then one vector per candidate",
        computed="bucket tables once per request (or kept per user); candidates only look up",
        trained=WITH_THE_RANKER,
        departures=(
            "an empty bucket gives zeros",
            "short branch: DIN with similarities on the newest 50",
        ),
        chapter="04",
    ),
    SdimConfig,
    sdim,
)
