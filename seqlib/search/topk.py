"""Exact top-k over a history, with masks, a rule for ties, and no tensor of B × C × L × D.

Ties are broken by recency: of two equal scores the lower index wins, since histories are newest
first. Without such a rule a search may return other events on another machine, and two correct
searches can't be compared event by event.

    scores (…, L)    ──── topk ────────────────►  Hits: index (…, K), mask (…, K)
    scores (…, A, L) ──── round_robin_topk ────►  one list for all A heads
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BUDGET = 2**22  # numbers that one group of candidates may hold at a time: 16 MB of float32


@dataclass(frozen=True, eq=False)
class Hits:
    """What a search found, best first.

    Attributes:
        index: (…, K) int64, positions in the history; 0 where ``mask`` is False.
        mask: (…, K) bool. False where the history had no more events: always at the end.
    """

    index: Tensor
    mask: Tensor

    def gather(self, x: Tensor) -> Tensor:
        """x (B, L) of a request's events -> (B, C, K) of each candidate's finalists."""
        b, c, k = self.index.shape
        return x.gather(1, self.index.reshape(b, c * k)).view(b, c, k)


def topk(scores: Tensor, k: int, mask: Tensor | None = None) -> Hits:
    """The k best along the last axis; equal scores in order of their index.

    Padding is −inf *before* ranking: a score of 0 would outrank every real event with a negative
    one. Shorter histories give all they have.

    Args:
        scores: (…, L) floats, −inf where nothing may be found.
        k: at least 1.
        mask: (…, L) bool, True = real, broadcast against scores.

    Returns:
        Hits of width min(k, L).

    Raises:
        ValueError: k below 1.

    Cost O(L) per row.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a search returns at least 1 event")
    scores = scores.detach()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    length = scores.shape[-1]
    k = min(k, length)
    # One more than asked for, to see whether the last place is shared with an event left out.
    value, index = scores.topk(min(k + 1, length), dim=-1)
    same = (value[..., 1:] == value[..., :-1]) & (value[..., 1:] > -torch.inf)
    edge = same[..., k - 1] if length > k else torch.zeros_like(value[..., 0], dtype=torch.bool)
    value = value[..., :k]
    index = index[..., :k]
    if edge.any():
        index = index.clone()
        index[edge] = _first_at_the_edge(scores[edge], value[edge], index[edge])
    if same.any():
        value, index = _by_recency(value, index)
    found = value > -torch.inf
    return Hits(index.where(found, 0), found)


def _by_recency(value: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """What was found, (…, k) each, with equal scores in order of their index."""
    index, order = index.sort(dim=-1)
    value, order = value.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return value, index.gather(-1, order)


def _first_at_the_edge(scores: Tensor, value: Tensor, index: Tensor) -> Tensor:
    """Rows (r, L) where the k-th score is shared with events left out: the newest of these come in.

    Args:
        scores: (r, L).
        value: (r, k), any k best.
        index: (r, k), where they stand.

    Returns:
        (r, k) indices; those above the k-th score stay.
    """
    k = value.shape[1]
    row, at = (scores == value[:, -1:]).nonzero(as_tuple=True)  # by row, then newest first
    n_at = torch.bincount(row, minlength=len(scores))
    place = torch.arange(len(row), device=row.device) - (n_at.cumsum(0) - n_at)[row]
    above = (value > value[:, -1:]).sum(1)
    fits = place < (k - above)[row]
    index = index.clone()
    index[row[fits], (above[row] + place)[fits]] = at[fits]
    return index


def round_robin_topk(scores: Tensor, k: int, mask: Tensor | None = None) -> Hits:
    """One list of k events for all heads: rank 1 of every head, then rank 2, …, no event twice.

    Entry i of head a's own list gets the key ``i·A + a``; an event's priority is its smallest key
    over heads; the k smallest priorities are the list, in the order of collection. It equals the
    walk down the A rankings in turn, without the walk (TWIN, arXiv:2302.02352, section 3.3).

    Args:
        scores: (…, A, L).
        k: at least 1.
        mask: (…, L) bool.

    Returns:
        Hits of width min(k, L).

    Cost: a top-k per head, then O(A·k·log(A·k)), independent of L. Built in chapter 04.
    """
    n_heads, length = scores.shape[-2:]
    own = topk(scores, k, None if mask is None else mask[..., None, :])
    depth = own.index.shape[-1]
    n = n_heads * depth
    rank = torch.arange(depth, device=scores.device)
    head = torch.arange(n_heads, device=scores.device)
    key = rank * n_heads + head[:, None]  # (A, depth)
    event = own.index.where(own.mask, length)  # places that found nothing go last
    # Sorted by event and then by key, an event's first entry carries its smallest key.
    code = (event * n + key).flatten(-2).sort(dim=-1).values
    event = code // n
    first = torch.ones_like(event, dtype=torch.bool)
    first[..., 1:] = event[..., 1:] != event[..., :-1]
    priority = (code % n).where(first & (event < length), n)
    best = priority.topk(depth, dim=-1, largest=False, sorted=True)
    found = best.values < n
    return Hits(event.gather(-1, best.indices).where(found, 0), found)


def by_candidates(
    select: Callable[[slice], Hits],
    n_candidates: int,
    per_candidate: int,
    budget: int = BUDGET,
) -> Hits:
    """Search for a few candidates at a time, so that scores of all never exist together.

    Args:
        select: candidates of a slice -> Hits (B, c, K).
        n_candidates: C.
        per_candidate: numbers that ``select`` holds for one candidate.
        budget: largest number of them at a time; one candidate is always allowed.

    Returns:
        Hits (B, C, K), the same for every budget.
    """
    step = max(1, budget // max(per_candidate, 1))
    parts = [select(slice(i, i + step)) for i in range(0, n_candidates, step)]
    return Hits(torch.cat([p.index for p in parts], 1), torch.cat([p.mask for p in parts], 1))


@torch.no_grad()
def inner_product_topk(
    queries: Tensor,
    keys: Tensor,
    k: int,
    mask: Tensor,
    budget: int = BUDGET,
) -> Hits:
    """Exact maximum inner product search in each request's own history.

    Args:
        queries: (B, C, D).
        keys: (B, L, D).
        k: at least 1.
        mask: (B, L) bool.
        budget: see ``by_candidates``.

    Returns:
        Hits (B, C, min(k, L)). Cost O(B·C·L·D), memory O(budget).
    """
    b, length = mask.shape
    turned = keys.transpose(1, 2)

    def select(part: slice) -> Hits:
        return topk(queries[:, part] @ turned, k, mask[:, None])

    return by_candidates(select, queries.shape[1], b * length, budget)


@torch.no_grad()
def same_field_topk(
    candidate: Tensor,
    event: Tensor,
    mask: Tensor,
    k: int,
    fill: bool = False,
    budget: int = BUDGET,
) -> Hits:
    """Hard search: events whose field equals the candidate's, newest first.

    Args:
        candidate: (B, C) values of the field.
        event: (B, L).
        mask: (B, L) bool.
        k: at least 1.
        fill: put the newest other events behind the matches.

    Returns:
        Hits (B, C, min(k, L)). Cost O(B·C·L) comparisons; it depends on the value alone, so a
        server stores one list per user and value.
    """
    b, length = event.shape
    newest = -torch.arange(length, device=event.device, dtype=torch.float32)  # exact up to 2^24
    others = newest - length if fill else torch.full_like(newest, -torch.inf)

    def select(part: slice) -> Hits:
        match = candidate[:, part, None] == event[:, None]
        return topk(torch.where(match, newest, others), k, mask[:, None])

    return by_candidates(select, candidate.shape[1], b * length, budget)


def hits_at_k(found: Hits, oracle: Hits) -> Tensor:
    """(…) int64: how many of the oracle's events a search found.

    With an oracle of 100 events this is the consistency that TWIN reports (40 for SIM hard, 94 for
    TWIN with its delay). ``found`` may be of another width than ``oracle``.

    Raises:
        ValueError: the two belong to different requests or candidates.
    """
    if found.index.shape[:-1] != oracle.index.shape[:-1]:
        raise ValueError(
            f"found is {tuple(found.index.shape)} and oracle {tuple(oracle.index.shape)}; "
            "they must agree in all axes but the last"
        )
    length = 1 + int(max(found.index.max(), oracle.index.max()))
    seen = found.mask.new_zeros(*found.index.shape[:-1], length + 1)
    seen.scatter_(-1, found.index.where(found.mask, length), True)
    return (seen.gather(-1, oracle.index) & oracle.mask).sum(-1)
