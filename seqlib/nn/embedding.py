"""Vectors for items and events, with ids 0 (padding) and 1 (unknown) reserved everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.schema import PAD, UNKNOWN, DataSpec, Events
from .time import LogBucketEncoding

WATCH_EDGES = (0.1, 0.25, 0.5, 0.8, 1.2)  # watch ratios between the six watch buckets
NEGATIVE_ACTIONS = ("hide",)  # everything else that a user does to an item counts for it
MOST_IN_A_TABLE = 6  # actions whose 2^A sets get a row each
MINUTE = 60.0


@dataclass(frozen=True)
class EmbeddingConfig:
    """Widths of the shared item and event vectors.

    Attributes:
        dim: D, width of item and event vectors.
        key_dim: width of the key field's own embedding (topic, product type, …).
        field_dim: width of other fields; those with over 1,000 values get half of it.
        id_dim: width of a per-item id embedding; 0 leaves it out (the worlds need none).
        content_scale: factor on the frozen content vectors before the projection.
        use_action: an event token holds what was done.
        use_time: an event token holds its age.
        use_rank: an event token holds its recency rank.
        time_buckets: log buckets of age in minutes.
        rank_buckets: log buckets of recency rank.
    """

    dim: int = 32
    key_dim: int = 16
    field_dim: int = 8
    id_dim: int = 0
    content_scale: float = 3.0
    use_action: bool = True
    use_time: bool = True
    use_rank: bool = True
    time_buckets: int = 42
    rank_buckets: int = 32


class ItemEmbedding(nn.Module):
    """Item id -> vector: a linear map of its fields' embeddings, frozen content and real features.

    ``x_i = W [E_1[f_1(i)], …, E_F[f_F(i)], s·content_i, dense_i]`` without a bias, so that padding,
    whose inputs are all zero, is exactly the zero vector.

    When a call asks for more ids than the catalogue holds, the whole catalogue is projected once
    and rows are gathered: with 20,000 items, a batch of 32 histories of 10,000 events costs
    20,000 projections in place of 320,000. The result is the same.

    Args:
        spec: the data set, for its item table.
        config: widths.
    """

    content: Tensor
    dense: Tensor

    def __init__(self, spec: DataSpec, config: EmbeddingConfig) -> None:
        super().__init__()
        table = spec.items
        self.dim = config.dim
        self.n_rows = len(table)
        self.content_scale = config.content_scale
        self.tables = nn.ModuleDict()  # keys "of_…": a field may be called like a method ("type")
        for name, size in table.sizes.items():
            width = config.key_dim if name == spec.key_field else config.field_dim
            large = size > 1000 and name != spec.key_field
            self.tables[f"of_{name}"] = self._table(size, width // 2 if large else width, large)
            self.register_buffer(f"field_{name}", table.fields[name], persistent=False)
        if config.id_dim:
            self.tables["of_id"] = self._table(len(table), config.id_dim, large=True)
            self.register_buffer("field_id", torch.arange(len(table)), persistent=False)
        self.register_buffer("content", table.content, persistent=False)
        self.register_buffer("dense", table.dense, persistent=False)
        self.n_inputs = sum(e.embedding_dim for e in self.embeddings.values())
        self.n_inputs += table.content.shape[1] + table.dense.shape[1]
        self.proj = nn.Linear(self.n_inputs, config.dim, bias=False)

    @staticmethod
    def _table(size: int, width: int, large: bool) -> nn.Embedding:
        table = nn.Embedding(size, width, padding_idx=PAD)
        with torch.no_grad():
            table.weight.normal_(std=0.1 if large else 0.5)[PAD].zero_()
        return table

    @property
    def embeddings(self) -> dict[str, nn.Embedding]:
        """Field name -> its embedding table."""
        return {key[3:]: table for key, table in self.tables.items()}  # type: ignore[misc]

    def field_ids(self, name: str, ids: Tensor) -> Tensor:
        """Value ids of one field for item ids, any shape; an id beyond the table is unknown."""
        return self.get_buffer(f"field_{name}")[self.known(ids)]

    def known(self, ids: Tensor) -> Tensor:
        """The same ids, with those beyond the table replaced by 1 (unknown)."""
        return torch.where(ids < self.n_rows, ids, UNKNOWN)

    def _rows(self, ids: Tensor) -> Tensor:
        parts = [e(self.get_buffer(f"field_{n}")[ids]) for n, e in self.embeddings.items()]
        parts += [self.content_scale * self.content[ids], self.dense[ids]]
        return self.proj(torch.cat(parts, dim=-1))

    def forward(self, ids: Tensor) -> Tensor:
        """(…) int64 -> (…, D). Padding gives zeros."""
        ids = self.known(ids)
        if ids.numel() <= self.n_rows:
            return self._rows(ids)
        return F.embedding(ids, self._rows(torch.arange(self.n_rows, device=ids.device)))

    def flops(self, n_ids: int) -> int:
        """Matrix-multiply FLOPs of one call with ``n_ids`` ids."""
        return 2 * min(n_ids, self.n_rows) * self.n_inputs * self.dim


class ActionIds(nn.Module):
    """What was done to an impression as one id: the action bit set, and the watch bucket above it.

    Args:
        spec: the data set, for its actions and whether watching means something.

    Attributes:
        n_actions: A.
        n_sets: number of bit sets, 2^A.
        n_buckets: of watching, 1 without it.
        size: number of ids.
        positive_bits: bits of all actions but ``NEGATIVE_ACTIONS``.
    """

    edges: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.watch = spec.watch
        self.n_actions = len(spec.actions)
        self.n_sets = 2**self.n_actions
        self.n_buckets = len(WATCH_EDGES) + 1 if spec.watch else 1
        self.size = self.n_sets * self.n_buckets
        self.positive_bits = sum(
            2**bit for bit, name in enumerate(spec.actions) if name not in NEGATIVE_ACTIONS
        )
        self.register_buffer("edges", torch.tensor(WATCH_EDGES), persistent=False)

    def forward(self, events: Events) -> Tensor:
        """Events (B, L) -> (B, L) int64 in [0, size)."""
        ids = events.action.clamp(0, self.n_sets - 1)
        if self.watch:
            ratio = events.watch / events.duration.clamp_min(1e-6)
            ids = ids + self.n_sets * torch.bucketize(ratio, self.edges.to(ratio.dtype))
        return ids

    def positive(self, events: Events) -> Tensor:
        """(B, L) bool: some action was done, and not only a negative one."""
        return (events.action & self.positive_bits) > 0


class ActionSets(nn.Module):
    """Action ids -> vectors where a table of all sets would be too large: a row per action, summed.

    Args:
        ids: what the ids mean.
        dim: D.
        first: the smallest id; below it is padding, the zero vector.
    """

    def __init__(self, ids: ActionIds, dim: int, first: int = 0) -> None:
        super().__init__()
        self.n_actions = ids.n_actions
        self.first = first
        self.action = nn.Parameter(torch.randn(ids.n_actions, dim) * 0.1)
        self.watch = nn.Parameter(torch.randn(ids.n_buckets, dim) * 0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """(…) int64 -> (…, D)."""
        code = (ids - self.first).clamp_min(0)
        bits = code[..., None] >> torch.arange(self.n_actions, device=ids.device) & 1
        vectors = bits.to(self.action.dtype) @ self.action
        vectors = vectors + F.embedding(code >> self.n_actions, self.watch)
        return vectors * (ids >= self.first)[..., None]


def action_table(ids: ActionIds, dim: int, padding: bool = False) -> nn.Module:
    """Action ids -> vectors: one row per set of up to six actions, beyond that a sum of rows.

    With its own row, a like together with a share may mean something else than both in turn.

    Args:
        ids: what the ids mean.
        dim: D.
        padding: ids are one higher, and 0 is padding with the zero vector.
    """
    if ids.n_actions > MOST_IN_A_TABLE:
        return ActionSets(ids, dim, int(padding))
    table = nn.Embedding(ids.size + padding, dim, padding_idx=PAD if padding else None)
    nn.init.normal_(table.weight[1:] if padding else table.weight, std=0.1)
    return table


class EventEmbedding(nn.Module):
    """Event -> token: ``e_j = x_item + a_action + t_age + r_rank``, zero where there is no event.

    ``a`` is looked up by the action bit set (and the watch bucket where watching means
    something), ``t`` by the log bucket of the age at request time, ``r`` by that of the recency
    rank (0 is the newest). An item id says *what*, the other three say *how* and *when*.

    Args:
        items: the shared item embedding.
        spec: the data set.
        config: widths and switches.
    """

    def __init__(self, items: ItemEmbedding, spec: DataSpec, config: EmbeddingConfig) -> None:
        super().__init__()
        self.items = items
        self.config = config
        self.ids = ActionIds(spec)
        if config.use_action:
            self.action = action_table(self.ids, config.dim)
        if config.use_time:
            self.age = LogBucketEncoding(config.time_buckets, config.dim, unit=MINUTE)
        if config.use_rank:
            self.rank = LogBucketEncoding(config.rank_buckets, config.dim)

    def action_id(self, events: Events) -> Tensor:
        """(B, L) row of the action table."""
        return self.ids(events)

    def forward(self, events: Events, request_time: Tensor, x: Tensor | None = None) -> Tensor:
        """Events (B, L), (B,) seconds -> tokens (B, L, D).

        ``x`` (B, L, D) are the events' item vectors, for a caller that has them already.
        """
        x = self.items(events.item) if x is None else x
        if self.config.use_action:
            x = x + self.action(self.action_id(events))
        if self.config.use_time:
            x = x + self.age(request_time[:, None] - events.time)
        if self.config.use_rank:
            rank = torch.arange(events.shape[1], device=x.device, dtype=torch.float32)
            x = x + self.rank(rank)
        return x * events.mask[..., None]

    def flops(self, n_requests: int, length: int) -> int:
        """Matrix-multiply FLOPs of one call."""
        return self.items.flops(n_requests * length)


class MiniBatchAwareL2:
    """DIN's mini-batch aware regularisation: decay only the rows that this batch touches.

    Eq. 7: ``w_j ← w_j − η [ ∂L/∂w_j + λ (α_mj / n_j) w_j ]`` where α_mj says whether batch m holds
    feature j and n_j is the number of training samples that do (arXiv:1706.06978, Eq. 4–7). Rare
    rows decay hardest each time they are seen; rows that are not seen are not touched at all,
    unlike the optimiser's ``weight_decay``, which shrinks every row at every step.

    Args:
        items: the embedding whose field tables are to decay.
        counts: field name -> (size,) number of training samples with each value.
        strength: λ.

    Raises:
        ValueError: a field without a table, a count of the wrong size, a negative λ.
    """

    def __init__(
        self,
        items: ItemEmbedding,
        counts: Mapping[str, Tensor],
        strength: float = 0.01,
    ) -> None:
        if strength < 0:
            raise ValueError(f"strength is {strength}; λ must not be negative")
        for name, n in counts.items():
            if name not in items.embeddings:
                raise ValueError(f"no field {name!r}; there are {list(items.embeddings)}")
            size = items.embeddings[name].num_embeddings
            if n.shape != (size,):
                raise ValueError(f"counts[{name!r}] has shape {tuple(n.shape)}, not ({size},)")
        self.items = items
        self.counts = dict(counts)
        self.strength = strength

    @torch.no_grad()
    def step(self, item_ids: Iterable[Tensor], lr: float) -> None:
        """Decay the rows of the given item ids once. Call between backward and optimiser step."""
        ids = torch.cat([i.flatten() for i in item_ids]).unique()
        for name, n in self.counts.items():
            rows = self.items.field_ids(name, ids).unique()
            rows = rows[rows != PAD]
            table = self.items.embeddings[name].weight
            rate = lr * self.strength / n.to(table)[rows].clamp_min(1)
            table[rows] -= rate[:, None] * table[rows]
