"""Complete Journey's products as an item table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..dataset import fingerprint
from ..schema import FIRST_ID, UNKNOWN, ItemTable
from .journey_tables import Purchases
from .journey_visits import TRAIN_WEEKS


def item_table(products: pd.DataFrame, bought: Purchases) -> tuple[ItemTable, dict[str, Any]]:
    """Fields, a fingerprint and three features of every product; names of the fields' values."""
    fields = {}
    sizes = {}
    names = {}
    for field, column in (
        ("type", "product_type"),
        ("category", "product_category"),
        ("department", "department"),
        ("brand", "brand"),
        ("manufacturer", "manufacturer_id"),
    ):
        # −1 where it is not known.
        code, values = pd.factorize(products[column], sort=True)
        ids = np.where(code >= 0, code + FIRST_ID, UNKNOWN)
        fields[field] = torch.from_numpy(np.r_[0, UNKNOWN, ids].astype(np.int64))
        sizes[field] = len(values) + FIRST_ID
        if field != "manufacturer":
            names[field] = ["", "unknown", *(str(v) for v in values)]
    n = len(products) + FIRST_ID
    table = ItemTable(
        fields=fields,
        sizes=sizes,
        content=fingerprint(fields["category"].numpy(), fields["type"].numpy()),
        dense=torch.from_numpy(_known_before_training(bought, len(products))),
        duration=torch.zeros(n),
    )
    return table.validate(), names


def _known_before_training(bought: Purchases, n: int) -> NDArray[np.float32]:
    """(n + 2, 3) what weeks 1–26 say of a product, scaled to about 0…1.

    log(1 + households that bought it), log(1 + mean dollars for one), share bought at a reduced
    price. Zero for what was not bought by then. Totals of the whole year would leak the test.
    """
    early = bought.week < TRAIN_WEEKS[0]
    product = bought.product[early]
    count = np.bincount(product, minlength=n)
    pairs = np.unique((bought.user[early].astype(np.int64) << 32) | product)
    buyers = np.bincount(pairs & (2**32 - 1), minlength=n)
    once = np.maximum(count, 1)
    price = np.bincount(product, weights=bought.price[early], minlength=n) / once
    discount = np.bincount(product, weights=bought.discount[early], minlength=n) / once
    out = np.stack([np.log1p(buyers) / 5, np.log1p(price) / 3, discount], axis=1)
    return np.concatenate([np.zeros((FIRST_ID, 3)), out]).astype(np.float32)
