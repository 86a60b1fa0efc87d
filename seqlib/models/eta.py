"""ETA: a Hamming search over signatures of the model's own vectors (arXiv:2108.04468).

    sig(e) = [h_i · e > 0]_i      K smallest popcount(sig(q) xor sig(s_j)) ─► attention

The hash takes no gradient and is not learned; the search follows training because the vectors do.

Departures:
  * The printed algorithm has the sign inside the sum; this is SimHash, the sign of the sum.
  * 32 bits (4 are printed); the attention is TWIN's ESU without cross features in the score, with
    the same tied start.
  * Hyperplanes are drawn once and saved; equal distances go to the newer event; padding is never
    found.
  * Events are item + action + age vectors; the hash sees the item alone.
  * The short branch is DIN with similarities on the newest 50 events, as for TWIN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import trace
from ..data.schema import DataSpec, Items, Request
from ..data.tensors import Tensors
from ..nn import EventEmbedding, LogBucketEncoding
from ..nn.embedding import MINUTE
from ..nn.signature import item_bits, item_bits_flops
from ..search import BUDGET, Hits, SimHash, hamming_topk, pack
from .din import beside_recent
from .registry import WITH_THE_RANKER, ModelCard, register
from .sim import behaviour


@dataclass(frozen=True)
class EtaConfig:
    """Hash and attention of ETA.

    Attributes:
        n_bits: m.
        k: events kept.
        n_heads: A, of the attention.
        d_k: width of a key per head.
        d_v: width of a value per head.
        d_out: width of the long branch.
        start: W^q = W^k = start · identity at first, as for TWIN.
        short: newest events of the short branch; 0 leaves it out.
        hash_seed: of the hyperplanes.
        budget: numbers held at a time while searching.
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


@dataclass(frozen=True, eq=False)
class EtaState(Tensors):
    """What a request's candidates share.

    Attributes:
        item: (B, L) ids.
        action: (B, L) ids.
        age: (B, L) seconds before the request.
        mask: (B, L).
        signature: (B, L, m/32) packed bits of the items.
    """

    item: Tensor
    action: Tensor
    age: Tensor
    mask: Tensor
    signature: Tensor


class Eta(nn.Module):
    """Hamming search and multi-head target attention: a history encoder in two stages.

    Args:
        embed: event embedding.
        spec: the data set.
        config: see ``EtaConfig``.

    Cost: search O(B·C·L·m/32) integer operations, attention O(B·C·K). Built in chapter 04.
    """

    def __init__(self, embed: EventEmbedding, spec: DataSpec, config: EtaConfig) -> None:
        super().__init__()
        self.embed = embed
        self.items = embed.items
        self.config = config
        dim = embed.items.dim
        a = config.n_heads
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
        self.out_dim = config.d_out

    def prefill(self, request: Request) -> EtaState:
        """Everything that does not depend on a candidate."""
        events = request.events
        age = request.time[:, None] - events.time
        signature = pack(item_bits(self.items, self.hash, events.item))
        return EtaState(events.item, self.embed.action_id(events), age, events.mask, signature)

    def search(self, state: EtaState, items: Items, k: int | None = None) -> Hits:
        """GSU: the K events nearest in Hamming distance, Hits (B, C, min(K, L)), no gradient."""
        k = self.config.k if k is None else k
        query = pack(item_bits(self.items, self.hash, items.id))
        return hamming_topk(query, state.signature, k, state.mask, self.config.budget)

    def score(self, state: EtaState, items: Items, found: Hits | None = None) -> Tensor:
        """ESU: attention over what was found.

        Args:
            state: from ``prefill``.
            items: (B, C).
            found: from ``search``; None searches.

        Returns:
            (B, C, out_dim).
        """
        found = self.search(state, items) if found is None else found
        trace.record("gsu.index", found.index)
        trace.record("gsu.mask", found.mask)
        item = found.gather(state.item)
        action = found.gather(state.action)
        age = found.gather(state.age)
        e = self._tokens(item, action, age)
        keys = self.w_k(e).unflatten(-1, (self.config.n_heads, -1))  # (B, C, K, A, d_k)
        values = self.w_v(e).unflatten(-1, (self.config.n_heads, -1))
        s = torch.einsum("bcad,bckad->bcak", self._query(items), keys)
        real = found.mask[:, :, None]
        w = s.masked_fill(~real, torch.finfo(s.dtype).min).softmax(-1) * real
        trace.record("esu.weights", w)
        return self.w_o(torch.einsum("bcak,bckad->bcad", w, values).flatten(2))

    def _query(self, items: Items) -> Tensor:
        q = self.w_q(self.items(items.id)).unflatten(-1, (self.config.n_heads, -1))
        return q / math.sqrt(self.config.d_k)

    def _tokens(self, item: Tensor, action: Tensor, age: Tensor) -> Tensor:
        return behaviour(self.embed, item, action) + self.age(age)

    def forward(self, request: Request) -> Tensor:
        """B requests of C candidates -> (B, C, out_dim)."""
        return self.score(self.prefill(request), request.items)

    @torch.no_grad()
    def exact_scores(self, state: EtaState, items: Items) -> Tensor:
        """What the attention thinks of every event, found or not: (B, C, A, L), padding −inf."""
        keys = self.w_k(self._tokens(state.item, state.action, state.age))
        keys = keys.unflatten(-1, (self.config.n_heads, -1))
        s = torch.einsum("bcad,blad->bcal", self._query(items), keys)
        return s.masked_fill(~state.mask[:, None, None], -torch.inf)

    def flops(self, n_requests: int, n_candidates: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call; the search multiplies nothing but the hash."""
        c = self.config
        items = self.items
        pairs = n_requests * n_candidates
        k = min(c.k, length)
        wide = c.n_heads * (c.d_k + c.d_v)
        total = sum(item_bits_flops(items, self.hash, n) for n in (pairs, n_requests * length))
        total += items.flops(pairs) + items.flops(pairs * k)
        total += 2 * pairs * (items.dim * c.n_heads * c.d_k + k * (items.dim + 1) * wide)
        total += 2 * pairs * c.n_heads * c.d_v * c.d_out
        return total


def eta(embed: EventEmbedding, spec: DataSpec, config: EtaConfig) -> nn.Module:
    """ETA with its short branch."""
    return beside_recent(Eta(embed, spec, config), embed, spec, config.short)


register(
    ModelCard(
        name="eta",
        title="ETA",
        source="arXiv:2108.04468",
        length="10^4 here; the papers use about 10^3",
        token="item, action set and age of each found event, summed",
        attention="search: Hamming distance of 32-bit signatures; then target attention",
        reduction="search to 100 events, then one vector per candidate",
        computed="signatures per item stored; search and attention online, per candidate",
        trained=WITH_THE_RANKER,
        departures=(
            "sign of the sum, not the printed sum of signs",
            "32 bits",
            "tied start of W^q and W^k",
            "short branch: DIN with similarities on the newest 50",
        ),
        chapter="04",
    ),
    EtaConfig,
    eta,
)
