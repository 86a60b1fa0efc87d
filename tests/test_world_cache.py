"""A world from disk is the drawn one, bit for bit, or it is drawn."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from seqlib.data import files
from seqlib.data.world import cache as disk
from seqlib.data.world import make, make_world

SMALL = {
    "n_users": 3,
    "n_items": 400,
    "n_authors": 200,
    "days": 500,
    "train_from": 200.0,
    "test_from": 400.0,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of kept worlds, empty at first."""
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(disk, "FEWEST_EVENTS", 0)
    return tmp_path / "worlds"


@pytest.fixture
def drawn(monkeypatch):
    """Seeds that were drawn, and not read, in order."""
    seeds = []
    draw = make.draw

    def counted(config, catalogue, pi, step, seed):
        seeds.append(seed)
        return draw(config, catalogue, pi, step, seed)

    monkeypatch.setattr(make, "draw", counted)
    return seeds


def arrays_of(value, name=""):
    """Every array of a world by name, in order; plain values as they are."""
    if dataclasses.is_dataclass(value):
        of = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, dict):
        of = value
    else:
        return {name: value.numpy() if hasattr(value, "numpy") else value}
    out = {}
    for key, part in of.items():
        out |= arrays_of(part, f"{name}.{key}")
    return out


def assert_same(a, b):
    a, b = arrays_of(a), arrays_of(b)
    assert list(a) == list(b)
    for name, x in a.items():
        y = b[name]
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, name
            assert x.shape == y.shape, name
            assert x.tobytes() == y.tobytes(), name
            assert x.flags.writeable == y.flags.writeable, name
        else:
            assert x == y, name


@pytest.mark.parametrize("preset", ["course", "drift"])
def test_a_world_from_disk_is_the_drawn_one_bit_for_bit(preset, drawn, folder):
    first = make_world(preset, seed=7, **SMALL)
    again = make_world(preset, seed=7, **SMALL)
    assert drawn == [7]
    assert len(list(folder.iterdir())) == 1
    assert_same(first, again)
    assert_same(first, make_world(preset, seed=7, cache=False, **SMALL))
    assert drawn == [7, 7]


def test_other_arguments_other_code_or_other_libraries_are_drawn_anew(drawn, monkeypatch):
    make_world(seed=1, **SMALL)
    make_world(seed=2, **SMALL)
    make_world(seed=1, **SMALL, gT=1.7)
    make_world("control", seed=1, **SMALL)
    assert drawn == [1, 2, 1, 1]
    make_world(seed=1, **SMALL)
    assert len(drawn) == 4
    monkeypatch.setattr(disk, "_code", lambda: "of another day")
    make_world(seed=1, **SMALL)
    assert len(drawn) == 5
    monkeypatch.setattr(disk.importlib.metadata, "version", lambda name: "99")
    make_world(seed=1, **SMALL)
    assert len(drawn) == 6


def test_the_code_of_every_module_counts(tmp_path, monkeypatch):
    before = disk._code.__wrapped__()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in disk.Path(disk.__file__).parent.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(disk, "__file__", str(copy / "cache.py"))
    assert disk._code.__wrapped__() == before
    with (copy / "kernels.py").open("a") as f:
        f.write("\n")
    assert disk._code.__wrapped__() != before


def shortened(path):
    path.write_bytes(path.read_bytes()[:-100])


def nothing_in_it(path):
    path.write_bytes(b"")


def one_bit_turned(path):
    raw = bytearray(path.read_bytes())
    raw[-1000] ^= 1
    path.write_bytes(bytes(raw))


def of_another_recipe(path):
    with safe_open(path, "np") as f:
        head = f.metadata()
    save_file(load_file(path), str(path), metadata=head | {"recipe": "{}"})


def without_a_head(path):
    save_file(load_file(path), str(path))


def lacking_a_column(path):
    with safe_open(path, "np") as f:
        head = f.metadata()
    arrays = load_file(path)
    del arrays["log.item"]
    save_file(arrays, str(path), metadata=head)


def a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    shortened,
    nothing_in_it,
    one_bit_turned,
    of_another_recipe,
    without_a_head,
    lacking_a_column,
    a_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_drawn_anew(damage, drawn, folder):
    first = make_world(seed=1, **SMALL)
    (path,) = folder.iterdir()
    damage(path)
    assert_same(first, make_world(seed=1, **SMALL))
    assert drawn == [1, 1]
    if damage is not a_folder:
        make_world(seed=1, **SMALL)
        assert drawn == [1, 1]


def test_where_nothing_can_be_written_a_world_is_drawn(tmp_path, monkeypatch, drawn):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("SEQLIB_CACHE", str(blocked))
    assert_same(make_world(seed=1, **SMALL), make_world(seed=1, **SMALL))
    assert drawn == [1, 1]
    assert blocked.read_text() == "in the way"


def test_a_killed_writer_leaves_nothing_that_is_read(drawn, folder, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(disk, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            make_world(seed=1, **SMALL)
    assert list(folder.iterdir()) == []
    make_world(seed=1, **SMALL)
    assert drawn == [1, 1]


def test_the_folder_stays_within_its_limit_and_keeps_what_was_read_last(folder, monkeypatch):
    places = []
    for seed in range(3):
        make_world(seed=seed, **SMALL)
        (place,) = set(folder.iterdir()) - set(places)
        places.append(place)
        os.utime(place, (seed, seed))
    make_world(seed=0, **SMALL)
    size = sum(p.stat().st_size for p in places)
    monkeypatch.setattr(disk, "LIMIT", size)
    make_world(seed=3, **SMALL)
    left = set(folder.iterdir())
    assert places[0] in left
    assert places[1] not in left
    assert sum(p.stat().st_size for p in left) <= size
    monkeypatch.setattr(disk, "LIMIT", 1)
    make_world(seed=4, **SMALL)
    assert len(list(folder.iterdir())) == 1


def test_small_worlds_are_not_kept(folder, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("SEQLIB_CACHE", str(folder.parent))
    make_world(seed=1, **SMALL)
    assert not folder.exists()


def _log_item_sum(path: str) -> int:
    os.environ["SEQLIB_CACHE"] = path
    disk.FEWEST_EVENTS = 0
    return sum(int(make_world(seed=s, **SMALL).log.item.sum()) for s in (1, 2, 1))


def test_several_processes_may_draw_and_read_one_world(folder, drawn):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        sums = list(pool.map(_log_item_sum, [str(folder.parent)] * 2))
    assert len(set(sums)) == 1
    assert len(list(folder.iterdir())) == 2
    assert_same(make_world(seed=1, **SMALL), make_world(seed=1, cache=False, **SMALL))
    assert drawn == [1]


def test_the_folder_follows_the_environment_or_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path / "here"))
    assert files.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("SEQLIB_CACHE")
    monkeypatch.setattr(files.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "seqlib"
    monkeypatch.setattr(files.sys, "platform", "darwin")
    monkeypatch.setattr(files.Path, "home", lambda: tmp_path)
    assert files.cache_dir() == tmp_path / "Library" / "Caches" / "seqlib"
