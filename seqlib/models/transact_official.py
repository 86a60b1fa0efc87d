"""The authors' public TransAct module, written anew so that their state dict loads as it is.

It is here to be compared with (``transact.py`` is the course's model), and registers nothing. Its
code is transformer_user_action of the paper's authors (arXiv:2306.00248).

Departures: none in what it computes. The encoder's weights are drawn layer by layer, where theirs
are copies of one another.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..nn import Encoder


class OfficialTransAct(nn.Module):
    """The authors' public module, tensor for tensor: its state dict loads here as it is.

    Its ways are kept, each a trap (tests/test_transact.py shows them): the smallest id of the
    vocabulary shares row 0 with padding; position 0 is attended whatever it is; hidden actions are
    hidden as keys only and still reach the output; the window T is drawn from Python's ``random``,
    once per forward for the whole batch, and drawn in evaluation too.

    The names are those of the authors' configuration. The paper used ``nhead=1`` and
    ``time_window_ms=86_400_000``.

    Args:
        seq_len: S, the newest actions that are read.
        time_window_ms: longest random window, in milliseconds.
        latest_n_emb: K, newest rows that are handed on; 0 hands on all.
        concat_candidate_emb: put the candidate into every token.
        concat_max_pool: put the maximum over rows, through a linear layer, in front.
        action_vocab: ids of actions, from −1 (padding) to 98.
        action_emb_dim: width of an action's vector.
        item_emb_dim: D, width of an item's vector.
        num_layer: of the encoder.
        nhead: of the encoder.
        dim_feedforward: of the encoder.
        dropout: of the encoder; theirs is fixed to 0.1.

    Raises:
        ValueError: an id outside the vocabulary's range.
    """

    action_type_lookup: Tensor

    def __init__(
        self,
        seq_len: int = 100,
        time_window_ms: int = 3_600_000,
        latest_n_emb: int = 10,
        concat_candidate_emb: bool = True,
        concat_max_pool: bool = True,
        action_vocab: Iterable[int] = range(20),
        action_emb_dim: int = 32,
        item_emb_dim: int = 32,
        num_layer: int = 2,
        nhead: int = 2,
        dim_feedforward: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        vocabulary = sorted(action_vocab)
        if not vocabulary or vocabulary[0] < -1 or vocabulary[-1] > 98:
            raise ValueError("action_vocab must hold ids from -1 to 98: the look-up has 100 slots")
        self.seq_len = seq_len
        self.time_window_ms = time_window_ms
        self.latest_n_emb = latest_n_emb
        self.pools = concat_max_pool
        self.fuses_early = concat_candidate_emb
        dim = action_emb_dim + item_emb_dim * (2 if concat_candidate_emb else 1)
        lookup = torch.zeros(100, dtype=torch.long)
        lookup[torch.tensor(vocabulary) + 1] = torch.arange(len(vocabulary))
        self.register_buffer("action_type_lookup", lookup)
        self.action_emb_module = nn.Embedding(len(vocabulary), action_emb_dim, padding_idx=0)
        self.transformer_encoder = Encoder(dim, nhead, dim_feedforward, dropout, num_layer)
        if concat_max_pool:
            self.out_linear = nn.Linear(dim, dim)

    def forward(
        self,
        action: Tensor,
        item: Tensor,
        time: Tensor,
        request_time: Tensor,
        candidate: Tensor,
    ) -> Tensor:
        """The authors' output, pooled vector first.

        Args:
            action: (B, ≥S) int64 ids, newest first.
            item: (B, ≥S, D).
            time: (B, ≥S) int64, milliseconds.
            request_time: (B,) int64, milliseconds.
            candidate: (B, D).

        Returns:
            (B, d + K·d); (B, K·d) without the pool; K = 0 reads all S rows.

        Raises:
            ValueError: fewer than S actions.
        """
        s = self.seq_len
        if action.shape[1] < s:
            raise ValueError(f"{action.shape[1]} actions; pad to seq_len = {s} with id -1")
        row = self.action_type_lookup[action[:, :s] + 1]
        u = torch.cat([self.action_emb_module(row), item[:, :s]], dim=-1)
        window = random.randint(0, self.time_window_ms)
        age = request_time[:, None] - time[:, :s]
        keys = (row > 0) & ~(age < (window if self.training else 0))
        keys[:, 0] = True
        o = self.transformer_encoder(u, candidate[:, None] if self.fuses_early else None, keys)
        parts = [self.out_linear(o.amax(dim=1))] if self.pools else []
        newest = o[:, : self.latest_n_emb] if self.latest_n_emb else o
        return torch.cat([*parts, newest.flatten(1)], dim=1)
