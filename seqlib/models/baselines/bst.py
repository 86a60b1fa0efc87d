"""BST: a transformer over the clicked items with the candidate as one more token (arXiv:1905.06874).

The behaviour sequence transformer is TransAct's closest relative and its baseline: the candidate is
**appended** to the sequence, positions are time differences, there are no action types, and every
output row is read. It is TransAct's encoder with other settings, so this file holds only those.

Departures:
  * Positions are log buckets of the time to the request, added; the paper concatenates them.
  * ReLU in place of LeakyReLU, one head in place of eight: as the other chapters' encoders.
"""

from __future__ import annotations

from ..registry import WITH_THE_RANKER, ModelCard, register, variant
from ..transact import TransActConfig, transact

register(
    ModelCard(
        name="bst",
        title="BST, all actions",
        source="arXiv:1905.06874, as baseline of arXiv:2306.00248",
        token="item ⊕ time difference; the candidate is one more token",
        length="the newest 100",
        attention="self-attention over history and candidate",
        reduction="all L + 1 rows, flattened, through a linear layer",
        computed="online, once per candidate",
        trained=WITH_THE_RANKER,
        chapter="03",
        departures=("positions added, not concatenated", "ReLU, one head"),
    ),
    TransActConfig,
    transact,
    d_action=0,
    fusion="append",
    position="age",
    n_layers=1,
    rows="all",
    pool=False,
    window=0.0,
)
variant(
    "bst",
    "bst_positive",
    "BST, positive actions",
    card={"length": "the newest 100 with a positive action"},
    positive_only=True,
)
