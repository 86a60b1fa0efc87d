"""A stored number names its maker: it is kept, returned, listed and refused by what made it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import toy

from experiments import __main__ as command
from experiments.engine import cache, code, maker, store
from experiments.engine.cache import StaleError
from experiments.engine.piece import Piece
from experiments.engine.summary import Plan, Study
from seqlib import results

CLEAN = {"commit": "c" * 40, "clean": True}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache and results of its own, in a tree that is said to be clean."""
    toy.use(tmp_path, monkeypatch)
    monkeypatch.setattr(maker, "state", lambda: dict(CLEAN))
    monkeypatch.setattr(results, "folder", lambda: store.FOLDER)
    return tmp_path


def written(draft: bool = False, plan: Plan | None = None) -> dict:
    """The result of a plan of two models, two seeds each."""
    plan = plan or Plan(lambda: [*toy.runs(), *toy.runs("mean_pooling")], ("item_only",))
    command._summarise("toy-plan", plan, draft)
    return store.read("toy-plan")


def other_code(monkeypatch, module: str) -> None:
    """As if somebody had changed what a module does."""
    real = code.digest_of
    changed = lambda name: "0" * 12 if name == module else real(name)  # noqa: E731
    monkeypatch.setattr(code, "digest_of", changed)


# --- what is kept ----------------------------------------------------------------------------


def test_a_run_keeps_recipe_commit_code_seconds_and_machine(kept):
    run = toy.run()
    cache.execute(run)
    found = cache.record(run.key)
    assert found["recipe"] == run.recipe
    assert found["recipe"]["fit"]["clip"] == 5.0
    assert found["recipe"]["ranker"]["hidden"] == [96, 48]
    assert found["recipe"]["data"]["settings"] == toy.SETTINGS
    assert found["seconds"] >= 0  # rounded to a tenth
    made = found["maker"]
    assert {k: made[k] for k in CLEAN} == CLEAN
    assert {"cpu", "cores", "threads_per_run", "torch", "numpy"} <= made["machine"].keys()
    assert made["machine"]["threads_per_run"] == 1
    modules = made["code"]["modules"]
    assert {"seqlib.train", "seqlib.models.ranker", "experiments.engine.run"} <= modules.keys()
    assert "seqlib.models.twin" not in modules
    assert not [m for m in modules if m.startswith(("seqlib.viz", "seqlib.checks"))]


def test_what_is_kept_is_returned_without_training(kept, monkeypatch):
    first = cache.execute(toy.run())
    monkeypatch.setattr(cache, "make", lambda *_: pytest.fail("trained again"))
    assert (cache.execute(toy.run()).score == first.score).all()


def test_a_recorded_recipe_that_is_another_one_is_made_again(kept):
    run = toy.run()
    right = cache.execute(run)
    with np.load(cache.path(run.key)) as z:
        arrays = {k: z[k] for k in z.files}
    record = json.loads(str(arrays["record"]))
    record["recipe"]["fit"]["lr"] = 0.5
    arrays["record"] = np.array(json.dumps(record))
    arrays["score"] = 0 * arrays["score"]
    np.savez_compressed(cache.path(run.key), **arrays)
    assert not cache.state(run).is_there
    assert (cache.execute(run).score == right.score).all()
    assert cache.record(run.key)["recipe"] == run.recipe


def test_scores_without_a_maker_are_made_again(kept):
    run = toy.run()
    right = cache.execute(run)
    np.savez_compressed(cache.path(run.key), score=0 * right.score)
    assert (cache.execute(run).score == right.score).all()
    cache.path(run.key).write_bytes(b"half a file")
    assert (cache.execute(run).score == right.score).all()


def test_a_broken_model_is_not_covered_by_the_scores_before_it(kept, monkeypatch):
    run = toy.run()
    cache.execute(run)
    other_code(monkeypatch, "seqlib.models.ranker")
    with pytest.raises(StaleError, match=r"other code in seqlib\.models\.ranker; --fresh-code"):
        cache.execute(run)
    cache.obtain(run, anew=True)
    assert cache.record(run.key)["maker"]["code"]["modules"]["seqlib.models.ranker"] == "0" * 12
    cache.execute(run)


def test_code_that_has_no_part_in_a_run_does_not_matter(kept, monkeypatch):
    cache.execute(toy.run())
    for module in ("seqlib.models.twin", "seqlib.viz.theme", "seqlib.nn", "seqlib.models"):
        other_code(monkeypatch, module)
    assert cache.state(toy.run()) == cache.State(is_there=True)


def test_what_an_unclean_tree_made_is_made_again_on_demand_only(kept, monkeypatch):
    run = toy.run()
    monkeypatch.setattr(maker, "state", lambda: {**CLEAN, "clean": False})
    cache.execute(run)
    monkeypatch.setattr(maker, "state", lambda: dict(CLEAN))
    cache.execute(run)
    assert cache.state(run).is_unclean
    cache.obtain(run, anew=True)
    assert not cache.state(run).is_unclean


def test_lost_or_exchanged_weights_are_trained_again(kept):
    cache.execute(toy.run(seed=0))
    cache.execute(toy.run(seed=1))
    mine = cache.weights_path(toy.run(seed=0).key)
    right = cache.trained(toy.run(seed=0)).state_dict()
    mine.write_bytes(cache.weights_path(toy.run(seed=1).key).read_bytes())
    again = cache.trained(toy.run(seed=0)).state_dict()
    assert all(torch.equal(right[name], again[name]) for name in right)


def scores_twice(seed: int) -> dict[str, np.ndarray]:
    """A piece: made from a run."""
    return {"twice": 2 * cache.execute(toy.run(seed=seed)).score}


def piece(seed: int = 0) -> Piece:
    return Piece("toy-piece", scores_twice, {"seed": seed}, {"factor": 2}, (toy.run(seed=seed),))


def test_a_piece_is_kept_and_goes_with_the_runs_it_was_made_from(kept):
    twice = cache.obtain(piece())["twice"]
    with cache.reading() as records:
        assert (cache.obtain(piece())["twice"] == twice).all()
    assert records.keys() == {piece().key, toy.run().key}
    record = cache.record(toy.run().key)
    assert cache.record(piece().key)["uses"] == {toy.run().key: record["id"]}
    with np.load(cache.path(toy.run().key)) as z:
        arrays = {k: z[k] for k in z.files}
    arrays["record"] = np.array(json.dumps({**record, "id": "another"}))
    np.savez_compressed(cache.path(toy.run().key), **arrays)
    with pytest.raises(StaleError, match="another toy-item_only"):
        cache.obtain(piece())


# --- code ------------------------------------------------------------------------------------

BEFORE = '''
"""A module."""
CARD = ModelCard(name="a", title="A title")
def f(x):
    """It doubles."""
    return 2 * x  # twice
'''


def test_a_digest_sees_what_code_does_and_not_how_it_is_written():
    before = code.source_digest(BEFORE)
    formatted = BEFORE.replace("return 2 * x  # twice", "return (2 *\n        x)")
    described = BEFORE.replace("It doubles.", "It multiplies by two.").replace("A title", "B")
    assert code.source_digest(formatted) == before
    assert code.source_digest(described) == before
    assert code.source_digest(BEFORE.replace('    """It doubles."""\n', "")) == before
    assert code.source_digest(BEFORE.replace("2 * x", "3 * x")) != before
    assert code.source_digest(BEFORE.replace("2 * x", "2.0 * x")) != before
    assert code.source_digest(BEFORE.replace("2 * x", "x * 2")) != before


def test_names_are_followed_to_where_they_are_defined():
    assert code._defining("seqlib.nn", "Beside") == ["seqlib.nn.beside"]
    assert code._defining("seqlib", "build") == ["seqlib.models.registry"]
    assert code._defining("seqlib.data", "schema") == ["seqlib.data.schema"]
    din = code.modules(toy.run("din").roots)
    assert "seqlib.models.din" in din
    assert {"seqlib.nn.heads", "seqlib.data.log", "seqlib.evaluate"} <= din.keys()
    assert not {"seqlib.models.sim", "seqlib.data.world"} & din.keys()


# --- git -------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A clone with one commit, taken for this project's."""
    root = tmp_path / "clone"
    (root / "seqlib").mkdir(parents=True)
    (root / "experiments" / "results").mkdir(parents=True)
    (root / "seqlib" / "a.py").write_text("A = 1\n")
    (root / "experiments" / "results" / "r.json").write_text("{}\n")
    git(root, "init", "-q")
    commit(root)
    monkeypatch.setattr(maker, "ROOT", root.resolve())
    return root


def git(root: Path, *args: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *args], cwd=root, capture_output=True, check=True)
    return done.stdout.decode().strip()


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--no-verify", "-m", "x")


def test_a_clean_tree_names_its_commit_and_results_do_not_count(repository):
    clean = {"commit": git(repository, "rev-parse", "HEAD"), "clean": True}
    assert maker.state() == clean
    (repository / "experiments" / "results" / "r.json").write_text('{"a": 1}\n')
    (repository / "notes.txt").write_text("untracked, and no code\n")
    assert maker.state() == clean


@pytest.mark.parametrize("hide", ["nothing", "config", "assume", "skip", "environment"])
def test_a_change_is_seen_whatever_the_users_settings(repository, hide, tmp_path, monkeypatch):
    if hide == "config":
        git(repository, "config", "status.showUntrackedFiles", "no")
        git(repository, "config", "core.fsmonitor", "true")
    if hide == "assume":
        git(repository, "update-index", "--assume-unchanged", "seqlib/a.py")
    if hide == "skip":
        git(repository, "update-index", "--skip-worktree", "seqlib/a.py")
    if hide == "environment":
        git(tmp_path, "init", "-q", "elsewhere")
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere" / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "elsewhere"))
    (repository / "seqlib" / "a.py").write_text("A = 2\n")
    assert maker.state()["clean"] is False
    assert maker.uncommitted() == ["seqlib/a.py"]


def test_a_module_that_no_commit_holds_is_unclean_even_if_ignored(repository):
    (repository / ".gitignore").write_text("b.py\n")
    commit(repository)
    assert maker.state()["clean"]
    (repository / "seqlib" / "b.py").write_text("B = 1\n")
    assert maker.uncommitted() == ["seqlib/b.py"]


def test_without_git_or_outside_of_a_clone_the_commit_is_unknown(repository, monkeypatch):
    unknown = {"commit": "unknown", "clean": False}
    monkeypatch.setattr(maker, "ROOT", (repository / "seqlib").resolve())
    assert maker.state() == unknown  # a copy inside another project's clone
    monkeypatch.setattr(maker, "ROOT", repository.resolve())
    monkeypatch.setenv("PATH", "")
    assert maker.state() == unknown
    with pytest.raises(store.ResultError, match="git does not say which commit"):
        command._require_clean()


def test_a_source_edited_since_the_process_began_is_unclean(kept, monkeypatch):
    assert maker.maker(toy.run().roots, CLEAN)["clean"]
    monkeypatch.setattr(maker, "_BEGAN", 0.0)
    assert not maker.maker(toy.run().roots, CLEAN)["clean"]


# --- results ---------------------------------------------------------------------------------


def test_every_row_is_traced_to_its_makers(kept):
    found = written()
    assert store.faults(found) == store.stale(found) == []
    assert results.document("toy-plan") == found
    for row in found["rows"]:
        assert len(row["runs"]) == row["seeds"] == 2
        for seed, key in enumerate(row["runs"]):
            assert store.recipe_of(key, found) == toy.run(row["model"], seed).recipe
            assert store.maker_of(key, found)["commit"] == CLEAN["commit"]
    (difference,) = found["differences"]
    loaded = results.load("toy-plan")
    assert loaded.runs(difference) == [r.key for r in (*toy.runs("mean_pooling"), *toy.runs())]
    assert found["commit"] == CLEAN["commit"]
    assert found["summary"] in found["makers"]


def altered(found: dict, path: list[str], value: object) -> dict:
    """A copy with one value changed, and with the digest of its new contents."""
    new = json.loads(json.dumps(found))
    part = new
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return {**new, "digest": results.digest_of(new)}


def section_of(found: dict, key: str, name: str) -> str:
    return found["runs"][key]["recipe"][name].removeprefix("@")


def test_an_altered_recipe_is_refused(kept):
    found = written()
    key = toy.run().key
    fit = ["sections", section_of(found, key, "fit"), "lr"]
    for new in (
        altered(found, fit, 0.5),
        altered(found, ["runs", key, "recipe", "seed"], 7),
        altered(found, ["sections", section_of(found, key, "data"), "settings", "shift"], 9),
    ):
        assert any("its recipe is that of" in fault for fault in store.faults(new))
        with pytest.raises(store.ResultError, match="its recipe is that of"):
            store.write("toy-plan", new)
    assert store.read("toy-plan") == found


def test_an_altered_file_is_refused_by_chapters(kept, capsys):
    found = written()
    found["rows"][0]["click"]["auc"]["mean"] = 0.99
    store.put(store.path("toy-plan"), found)
    with pytest.raises(ValueError, match="was altered since it was written"):
        results.load("toy-plan")
    assert command.main(["check", "toy-plan"]) == 1
    assert "toy-plan: its digest is not that of its contents" in capsys.readouterr().out


def test_an_altered_code_digest_is_listed(kept, capsys):
    found = written()
    table = found["makers"][found["runs"][toy.run().key]["maker"]]["code"]
    new = altered(found, ["code", table, "seqlib.models.ranker"], "f" * 12)
    store.put(store.path("toy-plan"), new)
    assert command.main(["stale", "toy-plan"]) == 1
    listed = capsys.readouterr().out
    assert "toy-plan: 2 of 4 runs: other code in seqlib.models.ranker" in listed
    assert any("different code in seqlib.models.ranker" in fault for fault in store.faults(new))


def test_what_todays_code_would_not_make_is_listed(kept, monkeypatch):
    found = written()
    other_code(monkeypatch, "seqlib.models.pooling")
    assert store.stale(found) == ["2 of 4 runs: other code in seqlib.models.pooling"]
    assert store.faults(found) == []  # it was right when it was made


def test_unclean_makers_are_refused_unless_it_is_a_draft(kept, monkeypatch):
    monkeypatch.setattr(maker, "state", lambda: {**CLEAN, "clean": False})
    cache.execute(toy.run())
    monkeypatch.setattr(maker, "state", lambda: dict(CLEAN))
    with pytest.raises(store.ResultError, match="which is not clean: toy-item_only-L12-s0"):
        written()
    assert not store.path("toy-plan").exists()
    assert written(draft=True)["draft"] is True
    with pytest.raises(ValueError, match="is a draft, of unclean makers"):
        results.document("toy-plan")


def test_makers_of_different_code_are_refused(kept, monkeypatch):
    cache.execute(toy.run())
    with monkeypatch.context() as changed:
        other_code(changed, "seqlib.models.ranker")
        others = [*toy.runs()[1:], *toy.runs("mean_pooling")]
        with cache.reading() as records:
            for run in others:
                cache.execute(run)
    records[toy.run().key] = cache.record(toy.run().key)
    made = maker.maker(Plan(toy.runs).roots, CLEAN)
    result = store.document("toy-plan", {"rows": []}, records, made)
    with pytest.raises(store.ResultError, match=r"different code in seqlib\.models\.ranker"):
        store.write("toy-plan", result)


def test_a_row_whose_runs_differ_in_more_than_the_seed_is_refused(kept):
    mixed = [toy.run(name="x"), toy.run(seed=1, name="x", lr=1e-3)]
    with pytest.raises(store.ResultError, match="row 'x': its runs' recipes differ in more than"):
        written(plan=Plan(lambda: mixed))


def test_a_study_says_which_results_it_was_drawn_from(kept):
    written()
    study = Study(lambda: {"claims": [1]}, reads=("toy-plan",))
    command._summarise("toy-study", study, draft=False)
    found = store.read("toy-study")
    assert not [line for line in store.stale(found) if "drawn from" in line]
    store.put(store.path("toy-plan"), {**store.read("toy-plan"), "more": 1})
    assert "drawn from another toy-plan than the one that is stored" in store.stale(found)


def test_results_from_before_makers_stay_readable_and_are_listed(kept):
    old = {"experiment": "old", "reference": {}, "rows": [], "differences": []}
    store.put(store.path("old"), old)
    assert results.load("old").rows == ()
    assert store.stale(store.read("old")) == ["no maker noted: made before makers were"]
    with pytest.raises(store.ResultError, match="it names no makers"):
        store.write("old", old)


def test_the_command_lists_stale_runs_and_writes_nothing_from_them(kept, monkeypatch, capsys):
    monkeypatch.setitem(command.ALL, "toy-plan", Plan(toy.runs))
    monkeypatch.setattr(maker, "uncommitted", list)
    monkeypatch.setattr(command, "_expected", dict)
    for run in toy.runs():
        cache.execute(run)
    assert command.main(["all", "toy-plan", "--workers", "1"]) == 0
    first = store.read("toy-plan")
    assert results.document("toy-plan") == first
    other_code(monkeypatch, "seqlib.models.ranker")
    capsys.readouterr()
    assert command.main(["all", "toy-plan", "--workers", "1"]) == 1
    said = capsys.readouterr().err
    for run in toy.runs():
        assert f"{run.key}: made by other code in seqlib.models.ranker; --fresh-code" in said
    assert store.read("toy-plan") == first


def test_a_tree_with_changes_is_refused_before_anything_is_trained(kept, monkeypatch, capsys):
    monkeypatch.setattr(maker, "uncommitted", lambda: ["seqlib/train.py"])
    monkeypatch.setattr(command, "_train", lambda *_: pytest.fail("trained in an unclean tree"))
    assert command.main(["all", "main-course"]) == 1
    assert "differs from its commit (seqlib/train.py); commit first" in capsys.readouterr().err


def test_every_stored_result_is_no_draft_and_holds_by_its_own_makers():
    """Those from before makers are read all the same; the first ones that have them are checked."""
    for name in store.names():
        found = results.document(name)
        assert not store.has_makers(found) or store.faults(found) == [], name
