"""The store survives whatever happens to its writer; the served TWIN is TWIN."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import numpy as np
import pytest
import tiny
import torch
from test_twin import histories, many_items

import seqlib
from seqlib.data import dataset
from seqlib.data.world import make_world
from seqlib.models import registry
from seqlib.search import hits_at_k
from seqlib.serving import (
    KeyProjector,
    RowStore,
    StoreError,
    StoreFullError,
    TwinServer,
    VersionError,
    disk,
    manifest,
    twin_savings,
)
from seqlib.serving import __main__ as cli
from seqlib.serving import twin_keys as serving

IDS = np.arange(100)
BLOCKS = 7  # of 16 rows


def of_state(state: int):
    """Rows that tell which state they belong to: [id, state, state]."""
    return lambda ids: np.stack([ids, *[np.full(len(ids), state)] * 2], 1).astype(np.float32)


def write(keys: RowStore, state: int, ids=IDS, **options):
    options = {"shape": (3,), "catalogue": "c", "block_rows": 16, "at": float(state), **options}
    return keys.refresh(ids, of_state(state), version=f"v{state}", **options)


def state_of(keys: RowStore) -> int:
    """The one state that all rows, the manifest and the checksums agree on."""
    keys.verify()
    with keys.snapshot() as view:
        rows, found = view.get(torch.arange(100))
        assert found.all()
        assert (rows[:, 0] == torch.arange(100)).all()
        (state,) = rows[:, 1:].unique().tolist()
        assert view.manifest.versions == {f"v{state:.0f}"}
    return int(state)


def entries(keys: RowStore) -> int:
    return keys.disk.env.stat()["entries"]


@pytest.fixture
def path(tmp_path):
    """A store in state 1."""
    with RowStore.open(tmp_path / "keys", create=True) as keys:
        write(keys, 1)
    return tmp_path / "keys"


def forked(work) -> int:
    """Status of a child process that does ``work``; numpy only, torch's threads don't survive."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block_rows", [1, 16, 100, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_in_any_order_repeated_or_not(tmp_path, block_rows, dtype):
    with RowStore.open(tmp_path / "k", create=True) as keys:
        write(keys, 1, block_rows=block_rows, codec=dtype)
        want = torch.tensor([[7, 7, 99], [0, 100, -3]])
        with keys.snapshot() as view:
            rows, found = view.get(want)
        assert rows.dtype == torch.float32
        assert found.tolist() == [[True] * 3, [True, False, False]]
        assert torch.equal(rows[..., 0], torch.tensor([[7.0, 7, 99], [0, 0, 0]]))
        assert torch.equal(rows[..., 1], found.float())


def test_only_what_was_put_in_is_found():
    """Coverage: a popular head, holes between its ids."""
    seen = np.repeat([5, 9, 7, 30], [50, 30, 17, 3])
    assert serving.popular_head(seen, 0.97).tolist() == [0, 1, 5, 7, 9]
    assert serving.popular_head(seen, 0.971).tolist() == [0, 1, 5, 7, 9, 30]
    assert serving.popular_head(seen, 0.5).tolist() == [0, 1, 5]
    for share in (0, 1.1):
        with pytest.raises(ValueError, match=r"share is .*; it must be in \(0, 1\]"):
            serving.popular_head(seen, share)
    with pytest.raises(ValueError, match="seen is empty"):
        serving.popular_head(np.array([], int), 0.5)


def test_partial_store_reports_misses_and_has_no_table(tmp_path):
    with RowStore.open(tmp_path / "k", create=True) as keys:
        write(keys, 1, ids=np.array([9, 4, 2]))
        with keys.snapshot() as view:
            rows, found = view.get(torch.arange(12))
            assert found.nonzero()[:, 0].tolist() == [2, 4, 9]
            assert rows[found][:, 0].tolist() == [2, 4, 9]
            assert view.written(torch.tensor([4, 5])).isnan().tolist() == [False, True]
            assert view.table() is None


def test_a_whole_catalogue_is_read_without_a_copy(tmp_path):
    with RowStore.open(tmp_path / "k", create=True) as keys:
        write(keys, 1, block_rows=100)
        with keys.snapshot() as view:
            table = view.table()
            assert table.data_ptr() == view.table().data_ptr()
            assert table[:, 0].tolist() == list(range(100))
            maps = [m.split()[0] for m in Path("/proc/self/maps").read_text().splitlines()
                    if m.endswith("data.mdb")] if sys.platform == "linux" else []  # fmt: skip
            inside = [int(a, 16) <= table.data_ptr() < int(b, 16)
                      for a, b in (m.split("-") for m in maps)]  # fmt: skip
            assert any(inside) or not maps
            del table


def test_a_closed_snapshot_is_not_read(path):
    with RowStore.open(path) as keys:
        with keys.snapshot() as view:
            pass
        with pytest.raises(StoreError, match="the snapshot is closed; read inside its 'with'"):
            view.get(torch.arange(3))


def test_slices_grow_old_and_are_renewed_in_turn(path):
    with RowStore.open(path) as keys:
        for state in range(2, 14):  # more than nine generations: their order is that of numbers
            part = IDS[(state - 2) % 4 * 25 :][:25]
            keys.update(part, of_state(state), version=f"v{state}", at=float(state))
            keys.verify()
        with keys.snapshot() as view:
            rows, _ = view.get(torch.arange(100))
            assert torch.equal(rows[:, 1].double(), view.written(torch.arange(100)))
            assert rows[::25, 1].tolist() == [10, 11, 12, 13]
            assert view.manifest.versions == {"v10", "v11", "v12", "v13"}
        assert entries(keys) == 1 + len(keys.manifest().entries())
        with pytest.raises(StoreError, match="does not hold id 100; refresh it whole"):
            keys.update(np.array([3, 100]), of_state(3), version="v", at=0.0)


# --- errors ------------------------------------------------------------------------------------


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none holds no row store: build one first"):
        RowStore.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with (
        RowStore.open(tmp_path / "new", create=True) as keys,
        pytest.raises(StoreError, match="has no rows yet; its first build never finished"),
        keys.snapshot(),
    ):
        pass


@pytest.mark.parametrize("keep", [0, 100, 4096, 8192, 0.5, -4096, -1])
def test_a_truncated_file_is_named(path, keep):
    data = path / "data.mdb"
    size = data.stat().st_size
    os.truncate(data, int(keep * size) if isinstance(keep, float) else keep + size * (keep < 0))
    for readonly in (True, False):
        with pytest.raises(StoreError, match="keys is truncated: data.mdb has .*build it again"):
            RowStore.open(path, readonly=readonly)


def test_a_file_cut_under_a_reader_is_named(path):
    with RowStore.open(path) as keys:
        os.truncate(path / "data.mdb", 12_000)
        with pytest.raises(StoreError, match="truncated"), keys.snapshot():
            pass


def test_damage_is_found_by_its_checksum(path):
    raw = bytearray((path / "data.mdb").read_bytes())
    row = of_state(1)(np.array([50])).tobytes()
    raw[raw.index(row) + 1] ^= 0xFF
    (path / "data.mdb").write_bytes(raw)
    with RowStore.open(path) as keys, pytest.raises(StoreError, match="damaged: rows 3 of gen"):
        keys.verify()


def test_other_files_and_formats_are_named(path, monkeypatch):
    with RowStore.open(path) as keys:
        monkeypatch.setattr(manifest, "FORMAT", 3)
        with pytest.raises(StoreError, match="a row store of format 2; this seqlib reads format 3"):
            keys.manifest()
        monkeypatch.undo()
        with keys.disk.env.begin(write=True) as txn:
            head = json.loads(txn.get(b"manifest"))
            txn.put(b"manifest", json.dumps({**head, "shape": [4]}).encode())
        with pytest.raises(StoreError, match="has a damaged manifest"):
            keys.manifest()
        with keys.disk.env.begin(write=True) as txn:
            txn.put(b"manifest", b"{")
        with pytest.raises(StoreError, match="has no readable manifest"):
            keys.manifest()
    (path / "data.mdb").write_bytes(b"some other file " * 1000)
    with pytest.raises(StoreError, match="is no readable row store; delete it and build it again"):
        RowStore.open(path)


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"version": "v2"}, r"has rows of model \['v1'\], this model is 'v2': refresh the store"),
        ({"catalogue": "d"}, r"was built for catalogue 'c', this model knows 'd'.* other items"),
        ({"shape": (128,)}, r"has rows of shape \(3,\); this model needs \(128,\)"),
    ],
)
def test_rows_of_another_model_are_refused(path, expect, message):
    with RowStore.open(path) as keys:
        with pytest.raises(StoreError, match=message), keys.snapshot(**expect):
            pass
        with keys.snapshot(version="v1", catalogue="c", shape=(3,)):
            pass


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda ids: np.ones((len(ids), 2), np.float32), r"rows has shape \(16, 2\); .* \(16, 3\)"),
        (lambda ids: np.ones((len(ids), 3), int), r"rows is int64; it must hold floats"),
        (lambda ids: np.full((len(ids), 3), np.nan), r"rows has NaN or infinity"),
        (lambda ids: np.full((len(ids), 3), 7e4), r"rows reaches 70000; float16 ends at 65504"),
    ],
)
def test_bad_rows_are_named_and_the_old_state_stays(path, rows, message):
    with RowStore.open(path) as keys:
        with pytest.raises(StoreError, match=message):
            keys.refresh(IDS, rows, shape=(3,), version="v2", catalogue="c", at=2.0, codec="float16",
                         block_rows=16)  # fmt: skip
        assert state_of(keys) == 1


def test_bad_arguments_are_named(path):
    with RowStore.open(path) as keys:
        for options, message in (
            ({"codec": "bf16"}, "codec is 'bf16'; it is one of float32, float16, int8:LIMIT, int4"),
            ({"block_rows": 0}, "block_rows is 0; it must be at least 1"),
            ({"ids": np.array([], int)}, "ids has 0 ids"),
            ({"ids": np.array([-1, 3])}, "give at least one, from 0"),
        ):
            with pytest.raises(StoreError, match=message):
                write(keys, 2, **options)
        with pytest.raises(StoreError, match="is open in this process; share one RowStore"):
            RowStore.open(path)
    with (
        RowStore.open(path, readonly=True) as keys,
        pytest.raises(StoreError, match="opened read-only"),
    ):
        write(keys, 2)


# --- no room -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["refresh", "update"])
def test_a_full_map_keeps_the_old_state(tmp_path, step):
    """64 KB hold one state of 100 rows and not a second of 10,000."""
    fill = {
        "refresh": lambda: write(keys, 2, ids=np.arange(10_000)),
        "update": lambda: fill_map(keys),
    }[step]
    with RowStore.open(tmp_path / "k", create=True, map_size=2**16) as keys:
        write(keys, 1)
        for _ in range(3):  # what failed leaves no garbage that fills the map
            with pytest.raises(StoreFullError, match=r"no room for .* the old state is unchanged"):
                fill()
            assert state_of(keys) == 1
    with RowStore.open(tmp_path / "k") as keys:
        write(keys, 2)
        assert state_of(keys) == 2
        assert entries(keys) == 1 + len(keys.manifest().entries())


def fill_map(keys):
    """An update while another reader's snapshot keeps every old page alive."""
    with keys.snapshot():
        for _ in range(100):
            keys.update(IDS, of_state(1), version="v1", at=1.0)


def test_a_disk_without_room_keeps_the_old_state(path, monkeypatch):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        with RowStore.open(path) as keys:
            with pytest.raises(StoreFullError, match="old state is unchanged"):
                write(keys, 2, ids=np.arange(10_000), block_rows=1000)
            assert state_of(keys) == 1  # the process goes on with it
            write(keys, 2)
            assert state_of(keys) == 2
            write(keys, 1)

    assert forked(limited) == 0

    for error in (OSError(28, "No space left on device"), lmdb.DiskError("mdb_txn_commit")):

        def full(stage, error=error):
            if stage.startswith("uncommitted rows 5"):
                raise error

        monkeypatch.setattr(disk, "_at", full)
        with RowStore.open(path) as keys:
            with pytest.raises(StoreFullError, match="free disk space or raise map_size"):
                write(keys, 2)
            assert state_of(keys) == 1


def test_room_that_was_freed_is_used_again(path):
    """A hundred refreshes need the disk of two states, also when some of them fail."""
    with RowStore.open(path) as keys:
        for state in range(2, 5):
            write(keys, state)
        size = (path / "data.mdb").stat().st_size
        for state in range(5, 50):
            write(keys, state)
            with pytest.raises(StoreError, match="NaN"):
                keys.refresh(IDS, lambda ids: np.full((len(ids), 3), np.nan if ids[0] else 0.0),
                             shape=(3,), version="v", catalogue="c", at=0.0, block_rows=16)  # fmt: skip
        assert (path / "data.mdb").stat().st_size <= size * 1.5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), lmdb.Error("strange")])
def test_an_interrupted_refresh_leaves_the_old_state_and_nothing_else(path, monkeypatch, error):
    def stop(stage):
        if stage == "rows 4 of generation 2":
            raise error

    monkeypatch.setattr(disk, "_at", stop)
    with RowStore.open(path) as keys:
        with pytest.raises((type(error), StoreError)):
            write(keys, 2)
        assert state_of(keys) == 1
        assert entries(keys) == 1 + 2 + BLOCKS


# --- killed ------------------------------------------------------------------------------------

STAGES = {
    "begin": 1,
    "uncommitted rows 0 of generation 2": 1,
    "rows 0 of generation 2": 1,
    "rows 3 of generation 2": 1,
    "uncommitted rows 6 of generation 2": 1,
    "slot 0": 1,
    "uncommitted stamp 0": 1,
    "before switch": 1,
    "uncommitted switch": 1,
    "switched": 2,
}


def killed_at(stage):
    def at(now):
        if now == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    disk._at = at


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_refresh_leaves_the_old_state_or_the_new(path, stage):
    def refresh():
        killed_at(stage)
        with RowStore.open(path) as keys:
            write(keys, 2)

    assert forked(refresh) == signal.SIGKILL
    with RowStore.open(path) as keys:
        assert state_of(keys) == STAGES[stage]
        write(keys, 3)  # no lock is left, and the leftovers go
        assert state_of(keys) == 3
        assert entries(keys) == 1 + 2 + BLOCKS


@pytest.mark.parametrize("stage", ["rows 1 of generation 2", "before switch", "switched"])
def test_a_killed_slice_leaves_the_old_rows_or_the_new(path, stage):
    def renew():
        killed_at(stage)
        with RowStore.open(path) as keys:
            keys.update(IDS[10:40], of_state(2), version="v2", at=2.0)

    assert forked(renew) == signal.SIGKILL
    with RowStore.open(path) as keys:
        keys.verify()
        with keys.snapshot() as view:
            got = set(view.get(torch.arange(10, 40))[0][:, 1].tolist())
        assert got == ({2.0} if stage == "switched" else {1.0})


def test_a_first_build_that_was_killed_is_no_store_yet(tmp_path):
    def build():
        killed_at("rows 3 of generation 1")
        with RowStore.open(tmp_path / "k", create=True) as keys:
            write(keys, 1)

    assert forked(build) == signal.SIGKILL
    with RowStore.open(tmp_path / "k", create=True) as keys:
        with pytest.raises(StoreError, match="its first build never finished"):
            keys.verify()
        write(keys, 1)
        assert state_of(keys) == 1


def test_killed_anywhere(path):
    """A writer that never rests is killed after so many of its steps, wherever it is by then."""
    seen = set()
    for n in [int(x) for x in torch.randint(5, 60, (25,), generator=torch.Generator())]:
        read, wrote = os.pipe()
        pid = os.fork()
        if pid == 0:
            disk._at = lambda stage, to=wrote: os.write(to, b".")
            with RowStore.open(path) as keys:
                for _ in range(1000):
                    write(keys, keys.manifest().generation + 1)
            os._exit(0)
        os.close(wrote)
        left = n
        while left:
            left -= len(os.read(read, left))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(read)
        with RowStore.open(path) as keys:
            seen.add(state_of(keys))
            assert keys.manifest().generation == max(seen)
    assert len(seen) > 3


# --- readers beside a writer -------------------------------------------------------------------


def test_a_reader_in_another_process_never_sees_a_mix(path):
    read, wrote = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = []
        try:
            with RowStore.open(path, readonly=True) as keys:
                while not seen or seen[-1] < 40:
                    with keys.snapshot() as view:
                        first = view.get(torch.arange(100))[0][:, 1]
                        again = view.get(torch.arange(99, -1, -1))[0][:, 1]
                    assert first.unique().numel() == 1
                    assert torch.equal(first, again)
                    seen.append(float(first[0]))
                    os.write(wrote, b".")
            assert seen == sorted(seen)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(wrote)
    with RowStore.open(path) as keys:
        for state in range(2, 41):
            os.read(read, 1)  # the reader has read since
            write(keys, state)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(read)


def test_threads_share_one_store(path):
    wrong, stop = [], threading.Event()
    with RowStore.open(path) as keys:

        def read():
            while not stop.is_set():
                with keys.snapshot() as view:
                    if view.get(torch.arange(100))[0][:, 1].unique().numel() != 1:
                        wrong.append(view.manifest.generation)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for r in readers:
            r.start()
        for state in range(2, 20):
            write(keys, state)
        stop.set()
        for r in readers:
            r.join()
    assert not wrong


def test_a_snapshot_outlives_the_refreshes_after_it(path):
    with RowStore.open(path) as keys, keys.snapshot() as view:
        for state in range(2, 6):
            write(keys, state)
        assert view.get(torch.arange(100))[0][:, 1].eq(1).all()
        assert state_of(keys) == 5


def test_two_refreshes_at_once_are_refused(path, monkeypatch):
    with RowStore.open(path) as keys:

        def other(stage):
            if stage == "rows 2 of generation 2":
                with pytest.raises(StoreError, match="is being refreshed by another process"):
                    write(keys, 9)

        monkeypatch.setattr(disk, "_at", other)
        write(keys, 2)
        assert state_of(keys) == 2


# --- TWIN --------------------------------------------------------------------------------------

N = 300


@pytest.fixture
def model():
    return seqlib.build("twin", many_items(N), seed=0, k=20).eval()


@pytest.fixture
def keys(tmp_path):
    with RowStore.open(tmp_path / "twin", create=True) as opened:
        yield opened


def batch(*lengths, **options):
    return histories(*(lengths or (120, 90, 1, 0)), n_items=N, **options)


def moved(model, by=0.4):
    """The model some training steps later: everything has moved."""
    later = seqlib.build("twin", many_items(N), seed=0, k=20).eval()
    later.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in later.parameters():
            p.add_(tiny.ramp(*p.shape, scale=by))
    return later


@pytest.mark.parametrize("name", ["twin", "twin_evidence"])
@pytest.mark.parametrize("layout", ["table", "blocks", "half missing"])
def test_the_stored_path_equals_forward(keys, name, layout):
    model = seqlib.build(name, many_items(N), seed=0, k=20).eval()
    ids = np.arange(0, N + 2, 2) if layout == "half missing" else None
    KeyProjector(keys, ids, block_rows=1000 if layout == "table" else 64).refresh(model, 0.0)
    server, b = TwinServer(model, keys, stale=False), batch()
    with torch.no_grad():
        answer = server.answer(b, now=7.0)
        torch.testing.assert_close(answer.probability, model(b).sigmoid(), rtol=0, atol=1e-5)
    hits = [int(((i % 2 == 0) | (layout != "half missing"))[m].sum())
            for i, m in zip(b.events.item, b.events.mask, strict=True)]  # fmt: skip
    assert [r.hits for r in answer.reports] == hits
    assert [r.events for r in answer.reports] == [r.hits + r.misses for r in answer.reports]
    assert [r.events for r in answer.reports] == [120, 90, 1, 0]
    assert [r.mean_age == 7.0 for r in answer.reports] == [h > 0 for h in hits]
    assert all(r.fresh for r in answer.reports)


def test_half_precision_costs_less_than_a_thousandth(keys, model):
    """The ESU is exact; only which of two near events comes in may change."""
    KeyProjector(keys, codec="float16").refresh(model, 0.0)
    server, b = TwinServer(model, keys), batch()
    with torch.no_grad():
        want = model(b).sigmoid()
    torch.testing.assert_close(server.answer(b).probability, want, rtol=0, atol=1e-3)
    assert server.hits(b)[:2].float().mean() > 19.5


def test_dropped_events_are_as_if_they_were_not_searched(keys, model):
    KeyProjector(keys, np.arange(0, N + 2, 2)).refresh(model, 0.0)
    server, b = TwinServer(model, keys, missing="drop"), batch(60, 30)
    answer = server.answer(b)
    item = answer.found.gather(b.events.item)[answer.found.mask]
    assert (item % 2 == 0).all()
    report = answer.reports[1]
    assert int(answer.found.mask[1].sum(-1)[0]) == min(20, report.hits)
    assert report.misses > 0
    with torch.no_grad():
        assert not torch.allclose(answer.probability, model(b).sigmoid(), atol=1e-6)
    with pytest.raises(ValueError, match="missing is 'zero'; it is 'compute' or 'drop'"):
        TwinServer(model, keys, missing="zero")


def test_after_a_sync_only_the_stored_keys_are_old(keys, model):
    """Fresh W^q, w^c, β and the whole ESU; stale K_h W^h in the search (trap: hiding it)."""
    projector = KeyProjector(keys)
    projector.refresh(model, 0.0)
    server, later, b = TwinServer(model, keys), moved(model, 0.2), batch(120, 90)
    table = serving.twin_of(model).project_items().detach()
    server.sync(later)
    with torch.no_grad():
        state = later.encoder.prefill(b, keys=table)
        want = later.rank(b, later.encoder.score(state, b.items)).sigmoid()
        fresh = later(b).sigmoid()
    answer = server.answer(b, now=3.0)
    torch.testing.assert_close(answer.probability, want, rtol=0, atol=1e-5)
    assert not torch.allclose(answer.probability, fresh, atol=1e-3)
    assert not answer.reports[0].fresh
    assert answer.reports[0].max_age == 3.0
    assert server.hits(b).float().mean() < 20
    projector.refresh(later, 3.0)
    assert server.hits(b).eq(20).all()
    answer = server.answer(b, now=3.0)
    assert answer.reports[0].fresh
    with torch.no_grad():
        torch.testing.assert_close(answer.probability, later(b).sigmoid(), rtol=0, atol=1e-5)


def test_the_older_the_keys_the_fewer_of_the_hundred_are_found(keys):
    """T-C2 on a toy: W^h walks on, the store stays where it was."""
    data = many_items(N)
    model = seqlib.build("twin", data, seed=0).eval()
    b = batch(400, 350)
    KeyProjector(keys).refresh(model, 0.0)
    server, curve = TwinServer(model, keys), []
    weight = serving.twin_of(model).relevance.w_h.weight
    for _ in range(6):
        server.sync(model)
        curve.append(float(server.hits(b).float().mean()))
        with torch.no_grad():
            weight.add_(tiny.ramp(*weight.shape, scale=0.3))
    assert curve[0] == 100
    assert all(a > c for a, c in zip(curve, curve[1:], strict=False)), curve
    assert curve[-1] < 80


def test_a_cycle_of_slices_makes_the_store_fresh(keys, model):
    later, b = moved(model), batch(120, 90)
    projector = KeyProjector(keys, slices=3, block_rows=101)
    assert projector.refresh_slice(model, 0.0).generation == 1  # an empty store is filled whole
    server, found, ages = TwinServer(model, keys), [], []
    server.sync(later)
    for t in range(1, 4):
        projector.refresh_slice(later, float(t))
        found.append(float(server.hits(b).float().mean()))
        ages.append(server.answer(b, now=float(t)).reports[0])
    assert found[-1] == 20
    assert found[0] < 20
    assert [a.max_age for a in ages] == [1.0, 2.0, 2.0]
    assert 0 < ages[-1].mean_age < 2
    assert [a.fresh for a in ages] == [False, False, True]
    assert keys.manifest().version == serving.key_digest(later)


def test_what_does_not_fit_is_refused(keys, model, tmp_path):
    KeyProjector(keys).refresh(model, 0.0)
    with pytest.raises(VersionError, match="refresh the store, or allow stale keys"):
        TwinServer(moved(model), keys, stale=False)
    TwinServer(moved(model), keys)
    other = seqlib.build("twin", tiny.spec(), seed=0, k=20)
    with pytest.raises(VersionError, match="its ids mean other items"):
        TwinServer(other, keys)
    with pytest.raises(VersionError, match="was built for another catalogue; refresh it whole"):
        KeyProjector(keys, slices=2).refresh_slice(other, 1.0)
    with pytest.raises(StoreError, match=r"has rows of shape \(128,\); this model needs \(16,\)"):
        TwinServer(seqlib.build("twin", many_items(N), seed=0, n_heads=2, d_k=8), keys)
    with pytest.raises(ValueError, match="the model's encoder is .*; TWIN is served here"):
        TwinServer(seqlib.build("din", tiny.spec()), keys)
    with pytest.raises(ValueError, match="slices is 0; it must be at least 1"):
        KeyProjector(keys, slices=0)
    with pytest.raises(StoreError, match="ids reaches 900; the catalogue ends at 301"):
        KeyProjector(keys, np.array([900])).refresh(model, 0.0)
    server = TwinServer(model, keys)
    with pytest.raises(ValueError, match="the new model knows another catalogue; serve it anew"):
        server.sync(other)
    with pytest.raises(ValueError, match=r"the new model differs in \['encoder"):
        server.sync(seqlib.build("twin", many_items(N), seed=0, d_k=8, k=20))


def test_multiply_adds_removed_are_counted(keys, model):
    """T-E3: all of K_h W^h in the search; a stale store's finalists cost theirs in the ESU."""
    width, h, c, k = 4 * 32, model.items.n_inputs, 3, 20
    b = batch(120, n_candidates=c)
    KeyProjector(keys).refresh(model, 0.0)
    server = TwinServer(model, keys)
    fresh = server.savings(b)
    assert fresh.projection == 120 * h * width
    assert fresh.projection_cached == 0
    assert fresh.bias == sum(serving.twin_of(model).cross.sizes) * 8 * 4
    assert fresh.share == fresh.projection / (fresh.projection + fresh.bias)
    assert fresh.request == model.flops(1, c, 120) // 2
    assert fresh.request_cached == fresh.request - fresh.removed
    server.sync(moved(model))
    stale = server.savings(b)
    in_the_esu = c * k * (h + 1) * width  # the finalists' keys, and their scores
    assert stale.request_cached == stale.request - stale.removed + in_the_esu
    KeyProjector(keys, np.arange(0, N + 2, 2)).refresh(model, 0.0)
    missing = b.events.item[b.events.item % 2 == 1].unique().numel()
    assert server.savings(b).projection_cached == missing * h * width


def test_rate_formula_gives_the_papers_number_at_a_rate_it_does_not_state():
    rate = twin_savings.break_even(
        twin_savings.PAPER_POOL, twin_savings.PAPER_CYCLE, reduction=0.993
    )
    assert round(rate) == 126_984
    assert twin_savings.rate_reduction(8e9, 900, rate) == pytest.approx(0.993)
    assert twin_savings.rate_reduction(20_000, 900, 1) == pytest.approx(0.9978, abs=1e-4)
    assert twin_savings.rate_reduction(8e9, 900, 100) < 0  # too few requests for such a pool
    assert twin_savings.rate_reduction(
        8e9, 900, twin_savings.break_even(8e9, 900)
    ) == pytest.approx(0)
    with pytest.raises(ValueError, match="cycle is 0; it must be positive"):
        twin_savings.rate_reduction(1, 0, 1)
    with pytest.raises(ValueError, match="reduction is 1; it must be below 1"):
        twin_savings.break_even(1, 1, reduction=1)


def test_the_server_owns_its_parameters(keys, model):
    KeyProjector(keys).refresh(model, 0.0)
    server, b = TwinServer(model, keys), batch(30)
    before = server.answer(b).probability
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(server.answer(b).probability, before)
    found = server.answer(b).found
    assert hits_at_k(found, found).eq(20).all()


# --- command line ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a small world in it, and two models of it."""
    folder = tmp_path_factory.mktemp("serving")
    data = make_world("course", 0, 2)
    dataset.save(data, folder / "w")
    for seed in (0, 1):
        registry.save(seqlib.build("twin", data.spec, seed=seed), folder / f"m{seed}.safetensors")
    registry.save(seqlib.build("din", data.spec, seed=0), folder / "din.safetensors")
    raw = (folder / "m0.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(raw[: len(raw) // 2])
    return folder


def run(capsys, world, command, *args):
    """(exit code, standard output, error lines)."""
    code = cli.main(["twin", command, str(world / "w"), *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.replace("\r", "\n").split("\n") if line[:6] == "error:"]


def test_build_serve_and_bench(capsys, world, tmp_path):
    given = ("--model", world / "m0.safetensors")
    at = ("--store", tmp_path / "k")
    code, out, _ = run(capsys, world, "build", *given, *at)
    assert code == 0
    assert "rows           20,002 of 20,002 items, 128 x float32" in out
    assert "covers         100.0% of the log's events" in out
    code, out, _ = run(capsys, world, "serve", *given, *at, "--rows", 0, 2, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [t["row"] for t in told] == [0, 2]
    assert told[0]["report"]["misses"] == 0
    assert told[0]["report"]["fresh"]
    data = dataset.Dataset.load(world / "w")
    one = (
        seqlib.data.log.BatchLoader(data.log, data.test, length=10_000).batch(np.array([2])).request
    )
    with torch.no_grad():
        want = registry.load(world / "m0.safetensors", data.spec).eval()(one).sigmoid()[0]
    torch.testing.assert_close(torch.tensor(told[1]["probability"]), want, rtol=0, atol=1e-5)
    # another model: refused, then accepted, then half of the items renewed
    newer = ("--model", world / "m1.safetensors")
    code, _, errors = run(capsys, world, "serve", *newer, *at)
    assert code == 2
    assert "refresh the store, or allow stale keys" in errors[0]
    code, out, _ = run(capsys, world, "serve", *newer, *at, "--stale")
    assert (code, "keys of another model" in out) == (0, True)
    code, out, _ = run(capsys, world, "build", *newer, *at, "--slices", 2)
    assert (code, "generation     2" in out) == (0, True)
    args = ("--length", 500, "--candidates", 1, 3, "--rounds", 2)
    code, out, _ = run(capsys, world, "bench", *given, *args)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:10]] == ["1"] * 4 + ["3"] * 4
    assert "multiply-adds removed" in out
    assert "99.3% without a derivation" in out


def test_a_head_of_the_catalogue_in_half_precision(capsys, world, tmp_path):
    given = ("--model", world / "m0.safetensors", "--store", tmp_path / "k")
    code, out, _ = run(capsys, world, "build", *given, "--cover", 0.8, "--codec", "float16")
    assert code == 0
    assert "x float16" in out
    assert "covers         80." in out
    for missing in ("compute", "drop"):
        code, out, _ = run(capsys, world, "serve", *given, "--json", "--missing", missing)
        assert json.loads(out)["report"]["misses"] > 0


def test_a_model_is_trained_where_there_is_none(capsys, world, tmp_path, monkeypatch):
    small = dataset.Dataset.load(world / "w")
    keep = slice(0, 8)
    train = dataclasses.replace(
        small.train,
        **{k: getattr(small.train, k)[keep]
           for k in ("user", "time", "surface", "position", "items", "labels")},
        truth=None, extra={},
    )  # fmt: skip
    dataset.save(dataclasses.replace(small, train=train), tmp_path / "w")
    given = ("--model", tmp_path / "m.safetensors", "--store", tmp_path / "k", "--length", 50)
    assert run(capsys, tmp_path, "build", *given)[0] == 2
    code, out, _ = run(capsys, tmp_path, "build", *given, "--train")
    assert code == 0
    registry.load(tmp_path / "m.safetensors", small.spec)
    again = run(capsys, tmp_path, "build", *given, "--train")[1]
    assert again.splitlines()[0] == out.splitlines()[0]  # loaded, not trained again


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("build", {"model": "none.safetensors"}, "does not exist; train it: twin build --train"),
        ("build", {"model": "half.safetensors"}, "holds no saved model; it may be truncated"),
        ("build", {"model": "din.safetensors"}, "encoder is DIN; TWIN is served here"),
        ("build", {"cover": 0}, "share is 0.0; it must be in (0, 1]"),
        ("serve", {"store": "nowhere"}, "nowhere holds no row store: build one first"),
        ("serve", {"rows": 999}, "row 999 is not in test: it has rows 0.."),
        ("bench", {"length": 10**7}, "--length 10,000,000 needs as many"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, world, tmp_path, command, args, message):
    options = {"model": world / "m0.safetensors", "store": tmp_path / "k"}
    options |= {k: {"model": world / str(v), "store": tmp_path / str(v)}.get(k, v)
                for k, v in args.items()}  # fmt: skip
    if command == "bench":
        del options["store"]
    code, out, errors = run(
        capsys, world, command, *(a for k, v in options.items() for a in (f"--{k}", v))
    )
    assert (code, out, len(errors)) == (2, "", 1)
    assert message in errors[0]


def test_an_interruption_and_a_full_disk_leave_the_store(capsys, world, tmp_path, monkeypatch):
    given = ("--model", world / "m0.safetensors", "--store", tmp_path / "k", "--block-rows", 5000)
    assert run(capsys, world, "build", *given)[0] == 0

    def stop(stage):
        if stage == "rows 2 of generation 2":
            raise error

    monkeypatch.setattr(disk, "_at", stop)
    error: BaseException = KeyboardInterrupt()
    assert run(capsys, world, "build", *given)[0] == 130
    error = OSError(28, "No space left on device")
    code, _, errors = run(capsys, world, "build", *given)
    assert (code, "the old state is unchanged" in errors[0]) == (2, True)
    assert run(capsys, world, "serve", *given[:4])[0] == 0


def test_it_runs_as_a_program(tmp_path):
    command = [sys.executable, "-m", "seqlib.serving", "twin", "serve", str(tmp_path)]
    command += ["--model", "m", "--store", "s"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
