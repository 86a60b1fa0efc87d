"""Complete Journey's three tables, read and brought to plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..schema import SchemaError

# Codes of the original; "0" is none.
DISPLAY = "0123456789A"
MAILER = "0ACDFHJLPXZ"
# Store, week and product are packed into one number, in so many bits.
PRODUCT_BITS = 17
WEEK_BITS = 6
TABLES = {
    "transactions": (
        "household_id",
        "store_id",
        "basket_id",
        "product_id",
        "quantity",
        "sales_value",
        "retail_disc",
        "coupon_disc",
        "coupon_match_disc",
        "week",
        "transaction_timestamp",
    ),
    "products": (
        "product_id",
        "manufacturer_id",
        "department",
        "brand",
        "product_category",
        "product_type",
    ),
    "promotions": ("product_id", "store_id", "display_location", "mailer_location", "week"),
}


class Purchases(NamedTuple):
    """One row per purchase, in order of time; all arrays (E,)."""

    user: NDArray
    store: NDArray  # row in ``stores``
    basket: NDArray
    product: NDArray  # row in ``products``
    week: NDArray
    time: NDArray  # seconds
    price: NDArray  # dollars for one
    discount: NDArray  # bool: shelf price reduced
    coupon: NDArray  # bool


class Promotions(NamedTuple):
    """Distinct (store, week, product), sorted; ``key`` is the three in one number."""

    key: NDArray
    display: NDArray
    mailer: NDArray


def _open(folder: Path, name: str) -> pq.ParquetFile:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise SchemaError(f"Complete Journey's table {name}.parquet is missing in {folder}")
    file = pq.ParquetFile(path)
    if lacking := sorted(set(TABLES[name]) - set(file.schema_arrow.names)):
        raise SchemaError(
            f"Complete Journey's table {name} lacks the columns {lacking}; this version of the "
            f"package is not the one the course knows (0.1.0)"
        )
    return file


def read_purchases(folder: Path) -> tuple[Purchases, pd.DataFrame, NDArray, int]:
    """Purchases, the products (also those bought but not listed), store ids, households."""
    file = _open(folder, "transactions")
    t = file.read(columns=list(TABLES["transactions"])).to_pandas()
    listed = _open(folder, "products").read(columns=list(TABLES["products"])).to_pandas()
    ids = np.union1d(listed["product_id"], t["product_id"])
    if len(ids) >= 2**PRODUCT_BITS:
        raise SchemaError(f"{len(ids)} products; at most {2**PRODUCT_BITS - 1} fit here")
    products = listed.set_index("product_id").reindex(ids).rename_axis("product_id").reset_index()
    t = t.sort_values(["transaction_timestamp", "household_id", "basket_id", "product_id"])
    users, user = np.unique(t["household_id"], return_inverse=True)
    stores, store = np.unique(t["store_id"], return_inverse=True)
    since = (t["transaction_timestamp"] - pd.Timestamp("2017-01-01")).dt.total_seconds()
    purchases = Purchases(
        user=user.astype(np.int32),
        store=store,
        basket=t["basket_id"].to_numpy(),
        product=np.searchsorted(ids, t["product_id"]),
        week=t["week"].to_numpy(),
        time=since.to_numpy(np.float64),
        price=(t["sales_value"] / t["quantity"].clip(lower=1)).to_numpy(),
        discount=(t["retail_disc"] > 0).to_numpy(),
        coupon=(t["coupon_disc"] + t["coupon_match_disc"] > 0).to_numpy(),
    )
    return purchases, products, stores, len(users)


def read_promotions(
    folder: Path, product_ids: NDArray, stores: NDArray, progress: bool
) -> Promotions:
    """Twenty million rows, packed into one sorted column of 64-bit numbers (160 MB)."""
    file = _open(folder, "promotions")
    key = np.empty(file.metadata.num_rows, np.int64)
    at = 0
    bar = tqdm(total=len(key), desc="promotions", unit=" rows", disable=not progress, leave=False)
    for batch in file.iter_batches(2**20, columns=list(TABLES["promotions"])):
        product = _rows_of(batch, "product_id", product_ids)
        store = _rows_of(batch, "store_id", stores)
        known = (product >= 0) & (store >= 0)
        packed = key_of(store, batch["week"].to_numpy(), product) << 8
        packed |= _codes(batch["display_location"], DISPLAY) << 4
        packed |= _codes(batch["mailer_location"], MAILER)
        packed = packed[known]
        key[at : at + len(packed)] = packed
        at += len(packed)
        bar.update(len(batch))
    bar.close()
    key = key[:at]
    key.sort()
    display = ((key >> 4) & 15).astype(np.uint8)
    mailer = (key & 15).astype(np.uint8)
    key >>= 8
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
    # Of a product that comes twice in a store and week, both promotions hold.
    if len(first) < len(key):
        display = np.maximum.reduceat(display, first)
        mailer = np.maximum.reduceat(mailer, first)
        key = key[first]
    return Promotions(key, display, mailer)


def _rows_of(batch, name: str, known: NDArray) -> NDArray[np.int64]:
    """Row of each id in the sorted ``known``, −1 where it is not in it."""
    ids = batch[name].to_numpy()
    rows = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[rows] == ids, rows, -1)


def _codes(column, alphabet: str) -> NDArray[np.int64]:
    coded = column.dictionary_encode()
    letters = coded.dictionary.to_pylist()
    if unknown := sorted(set(letters) - set(alphabet)):
        raise SchemaError(f"a promotion has the unknown code {unknown}; known are {alphabet!r}")
    place = np.array([alphabet.index(c) for c in letters], np.int64)
    return place[coded.indices.to_numpy()]


def key_of(store: NDArray, week: NDArray, product: NDArray | int) -> NDArray[np.int64]:
    group = (np.asarray(store, np.int64) << WEEK_BITS) | np.asarray(week, np.int64)
    return (group << PRODUCT_BITS) | product


def holds(keys: NDArray, wanted: NDArray) -> NDArray[np.bool_]:
    if len(keys) == 0:
        return np.zeros(len(wanted), bool)
    return keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted
