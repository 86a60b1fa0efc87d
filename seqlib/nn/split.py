"""An event split in two: what belongs to its item, and what to this user's meeting with it.

Inherent features are the same for all users, so a projection of them is one row per item and can
be stored. Cross features are few and small; a projection of them is one row per value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.schema import DataSpec, Events
from .embedding import MINUTE, MOST_IN_A_TABLE, ActionIds, ItemEmbedding
from .time import log_bucket


def inherent(items: ItemEmbedding, ids: Tensor) -> Tensor:
    """(…) item ids -> (…, H): id features, scaled content and real features side by side."""
    ids = items.known(ids)
    parts = [e(items.get_buffer(f"field_{n}")[ids]) for n, e in items.embeddings.items()]
    return torch.cat([*parts, items.content_scale * items.content[ids], items.dense[ids]], dim=-1)


def project_once(items: ItemEmbedding, ids: Tensor, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """(n, out), ``K_h W`` of n items, and (…) the row of each of ``ids`` in it.

    When there are more ids than items, the whole catalogue is projected, no item twice: with
    20,000 items, 16 histories of 10,000 events cost an eighth.
    """
    ids = items.known(ids)
    if ids.numel() <= items.n_rows:
        row = torch.arange(ids.numel(), device=ids.device).view(ids.shape)
        return linear(inherent(items, ids.flatten())), row
    return linear(inherent(items, torch.arange(items.n_rows, device=ids.device))), ids


@torch.no_grad()
def tied_start(weight: Tensor, items: ItemEmbedding, key_field: str, gain: float) -> None:
    """Add gain · identity to (A, d_k, H): id features for even heads, frozen content for odd ones.

    Key and query started alike then match where items do. With embeddings of N(0, ½²) and cosines
    of .6 within a topic, equal topics score several units above others from the first step on;
    from a random start a search has to find first what it is trained on.
    """
    at = 0
    fields: list[int] = []
    for name, table in items.embeddings.items():
        block = list(range(at, at + table.embedding_dim))
        fields = block + fields if name == key_field else fields + block
        at += table.embedding_dim
    content = list(range(at, at + items.content.shape[1]))
    groups = [g for g in (fields, content) if g]
    for head in range(len(weight)):
        group = groups[head % len(groups)][: weight.shape[1]]
        weight[head, range(len(group)), group] += gain


class CrossFeatures(nn.Module):
    """J categorical features of an event: age at the request, recency rank, action, surface.

    Whatever a linear map does to a categorical feature is a table with one row per value. So
    projections run over tables of a few dozen rows (``project``), whose rows are then added up
    (``lookup``); the concatenation K_c (L × J·dim) never exists.

    Age (minutes) and rank are read in log buckets, two per doubling; an age is counted back from
    the request, so it can't see the future. Action is the bit set with the watch bucket above it.

    More than six actions are a feature each, and the watch bucket another: a row for every set of
    them would be too many.

    Args:
        spec: the data set.
        dim: width of every feature (8 in TWIN).

    Attributes:
        names: of the J features.
        sizes: values of each.
    """

    def __init__(self, spec: DataSpec, dim: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.action = ActionIds(spec)
        done = {"action": self.action.size}
        if self.action.n_actions > MOST_IN_A_TABLE:
            done = {**dict.fromkeys(spec.actions, 2), "watch": self.action.n_buckets}
        sizes = {"age": 42, "rank": 32, **done, "surface": len(spec.surfaces)}
        self.names = tuple(sizes)
        self.sizes = tuple(sizes.values())
        self.tables = nn.ParameterList(torch.randn(n, dim) * 0.5 for n in self.sizes)

    def forward(self, events: Events, request_time: Tensor) -> Tensor:
        """Events (B, L), (B,) seconds -> (J, B, L) int64: rows in the J tables, one below the
        other."""
        device = events.item.device
        age = log_bucket((request_time[:, None] - events.time) / MINUTE, self.sizes[0])
        rank = torch.arange(events.shape[1], device=device, dtype=torch.float32)
        rank = log_bucket(rank, self.sizes[1]).expand(events.shape)
        surface = events.surface.clamp(0, self.sizes[-1] - 1)
        first = torch.tensor((0, *self.sizes[:-1]), device=device).cumsum(0)
        return torch.stack([age, rank, *self._done(events), surface]) + first[:, None, None]

    def _done(self, events: Events) -> list[Tensor]:
        code = self.action(events)
        n = self.action.n_actions
        if n <= MOST_IN_A_TABLE:
            return [code]
        return [*(code >> bit & 1 for bit in range(n)), code >> n]

    def project(self, weight: Tensor) -> Tensor:
        """weight (J, dim, out) -> (n, out): ``E_j W_j`` for every value of every feature."""
        return torch.cat([table @ w for table, w in zip(self.tables, weight, strict=True)])

    def flops(self, out: int) -> int:
        """Matrix-multiply FLOPs of one ``project``."""
        return 2 * sum(self.sizes) * self.dim * out


def lookup(ids: Tensor, table: Tensor) -> Tensor:
    """ids (J, …), table (n, out) -> (…, out): ``Σ_j table[ids_j]``."""
    total = F.embedding(ids[0], table)
    for rows in ids[1:]:
        total = total + F.embedding(rows, table)
    return total
