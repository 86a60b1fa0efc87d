"""Random hyperplanes: signatures whose Hamming distance estimates an angle, and buckets of them.

SimHash (Charikar, STOC 2002) gives a vector m bits, ``[h_i · x > 0]`` for m random directions. Two
vectors at angle θ differ in each bit with probability θ/π, so their Hamming distance is m·θ/π on
average. ETA (arXiv:2108.04468) searches by that distance; SDIM (arXiv:2205.10249) lets the
collision of short signatures be the attention.

The hyperplanes are drawn once and saved with the model: two calls, and a call after loading,
agree. Scaling a vector changes no bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .topk import BUDGET, Hits, by_candidates

WORD = 32  # bits in one packed integer


def pack(bits: Tensor) -> Tensor:
    """(…, m) bool -> (…, ⌈m/32⌉) int32 words, the first bit lowest."""
    m = bits.shape[-1]
    words = math.ceil(m / WORD)
    full = torch.zeros(*bits.shape[:-1], words * WORD, dtype=torch.int64, device=bits.device)
    full[..., :m] = bits
    place = 2 ** torch.arange(WORD, device=bits.device)
    value = (full.view(*bits.shape[:-1], words, WORD) * place).sum(-1)
    return torch.where(value >= 2**31, value - 2**32, value).int()


def popcount(words: Tensor) -> Tensor:
    """Number of set bits of each int32, by adding neighbours: pairs, fours, bytes, all."""
    x = words - ((words >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101) >> 24


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """Distance of packed signatures (…, W), broadcast: ``popcount(a xor b)``, summed over words."""
    distance = popcount(a[..., 0] ^ b[..., 0])
    for word in range(1, a.shape[-1]):
        distance = distance + popcount(a[..., word] ^ b[..., word])
    return distance


class SimHash(nn.Module):
    """m random hyperplanes through the origin.

    Args:
        dim: width of the vectors.
        n_bits: m.
        seed: of the hyperplanes, apart from torch's own generator, so that they don't depend on
            what was built before.

    Raises:
        ValueError: ``dim`` or ``n_bits`` below 1.
    """

    planes: Tensor

    def __init__(self, dim: int, n_bits: int, seed: int = 0) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("n_bits", n_bits)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.n_bits = n_bits
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("planes", torch.randn(dim, n_bits, generator=generator))

    @torch.no_grad()
    def bits(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, m) bool. The sign of the sum, not the sum of signs."""
        with torch.autocast(x.device.type, enabled=False):  # a rounded sum could change its sign
            return x.to(self.planes.dtype) @ self.planes > 0

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, ⌈m/32⌉) int32, packed."""
        return pack(self.bits(x))

    def flops(self, n: int) -> int:
        """Matrix-multiply FLOPs for n vectors."""
        return 2 * n * self.planes.numel()


@torch.no_grad()
def hamming_topk(queries: Tensor, keys: Tensor, k: int, mask: Tensor, budget: int = BUDGET) -> Hits:
    """The k events nearest in Hamming distance; ties, which are the rule, go to the newer event.

    Distance and index make one integer, ``distance·L + index``, so no two are equal.

    Args:
        queries: (B, C, W) int32.
        keys: (B, L, W) int32.
        k: at least 1.
        mask: (B, L) bool.
        budget: see ``by_candidates``.

    Returns:
        Hits (B, C, min(k, L)). Cost O(B·C·L·W) integer operations, no multiplication of vectors.

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a search returns at least 1 event")
    b, length = mask.shape
    farther = WORD * keys.shape[-1] + 1  # than any signature can be
    index = torch.arange(length, device=keys.device)

    def select(part: slice) -> Hits:
        distance = hamming(queries[:, part, None], keys[:, None]).long()  # (B, c, L)
        code = distance.masked_fill(~mask[:, None], farther) * length + index
        best = code.topk(min(k, length), dim=-1, largest=False, sorted=True).values
        found = best < farther * length
        return Hits((best % length).where(found, 0), found)

    return by_candidates(select, queries.shape[1], 2 * b * length, budget)


def bucket_ids(bits: Tensor, width: int) -> Tensor:
    """(…, m) bits -> (…, m / width) int64 bucket of each hash table, in [0, 2^width).

    Raises:
        ValueError: ``width`` does not divide m.
    """
    m = bits.shape[-1]
    if width < 1 or m % width:
        raise ValueError(f"width is {width}; it must divide the {m} bits")
    place = 2 ** torch.arange(width, device=bits.device)
    return (bits.view(*bits.shape[:-1], m // width, width) * place).sum(-1)


def bucket_tables(ids: Tensor, x: Tensor, n_buckets: int, budget: int = BUDGET) -> Tensor:
    """Sum of the vectors in each bucket of each table, once per request: SDIM's stored state.

    Args:
        ids: (B, L, G) int64.
        x: (B, L, D); zero rows (padding) add nothing.
        n_buckets: 2^width.
        budget: largest number of indicators held at a time.

    Returns:
        (B, G, n_buckets, D). Cost O(L·G·n_buckets·D) as a product with the indicators.
    """
    b, length, g = ids.shape
    d = x.shape[-1]
    step = max(1, budget // (b * g * n_buckets))
    total = x.new_zeros(b, g * n_buckets, d)
    buckets = torch.arange(n_buckets, device=ids.device)
    for i in range(0, length, step):
        inside = ids[:, i : i + step, :, None] == buckets  # (B, l, G, n_buckets)
        total = total + inside.flatten(2).transpose(1, 2).to(x) @ x[:, i : i + step]
    return total.view(b, g, n_buckets, d)


def bucket_attention(tables: Tensor, ids: Tensor) -> Tensor:
    """``Attn(q, S) = (1/G) Σ_g ℓ2norm( Σ_j 1[sig_g(s_j) = sig_g(q)] s_j )`` (SDIM, section 4.2).

    Each table gives the normalised sum of the events in the candidate's bucket; an empty bucket
    gives zeros. The expected collision ``(1 − θ/π)^width`` stands in for exp(q·s).

    Args:
        tables: (B, G, n_buckets, D).
        ids: (B, C, G) of the candidates.

    Returns:
        (B, C, D). Cost O(C·G·D), independent of L.
    """
    at = ids.transpose(1, 2)[..., None].expand(-1, -1, -1, tables.shape[-1])  # (B, G, C, D)
    bucket = tables.gather(2, at)
    return torch.nn.functional.normalize(bucket, dim=-1).mean(1)
