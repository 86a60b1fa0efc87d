"""The git-history experiment: end to end on a small repository, and its measures by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from test_public import git_in, make_clone, random_history

from experiments.ch04 import git as git_twin
from experiments.ch04 import git_data
from experiments.engine import cache, data
from seqlib.data.public import GitError, git_history
from seqlib.evaluate import Predictions
from seqlib.metrics import auc


@pytest.fixture(scope="module")
def busy_clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("git") / "busy", random_history(0, n=300))


@pytest.fixture
def small(busy_clone, tmp_path, monkeypatch):
    """The experiment as it is, but for sizes, on the small clone."""
    monkeypatch.setenv(git_data.CLONE, str(busy_clone))
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache")
    for name, value in {"MIN_EVENTS": 5, "TRAIN": 64, "TEST": 30}.items():
        monkeypatch.setattr(git_data, name, value)
    for name, value in {
        "HEAVY": 150,
        "LIFE": 120,
        "SHORT": 10,
        "WINDOWS": (10, 50),
        "SEEDS": (0, 1),
        "BY_HAND": {"counts by hand, life": 50},
    }.items():
        monkeypatch.setattr(git_twin, name, value)
    caches = (git_data.full_history, git_data.history, data.dataset)
    for cached in caches:
        cached.cache_clear()
    yield busy_clone
    for cached in caches:
        cached.cache_clear()


@pytest.mark.slow
def test_the_study_runs_end_to_end_and_names_the_history_only(small):
    found = git_twin.study()
    text = json.dumps(found)
    assert not [word for word in (str(small), "Surname", "hidden") if word in text]
    labels = [r.name for r in git_twin.main() if r.seed == 0]
    assert [r["label"] for r in found["rows"]] == labels
    assert all(r["seeds"] == 2 and 0 <= r["touched"]["auc"]["mean"] <= 1 for r in found["rows"])
    compared = {(d["a"], d["b"]) for d in found["differences"]}
    rivals = [x for x in [*labels, *git_twin.BY_HAND] if x not in ("twin", "twin_evidence")]
    assert {(a, b) for a in ("twin", "twin_evidence") for b in rivals} <= compared
    for d in [*found["differences"], *found["heavy"]["differences"]]:
        for i in (d, d["quarters"], d["gauc"]):
            assert i["low"] <= i["delta"] <= i["high"]
        assert d["gauc"]["better_for"] <= d["gauc"]["of"] <= d["users"] <= d["quarters"]["n"]
    positives = sum(b["positives"] for b in found["by_last_touch"])
    assert positives == git_data.history().test.labels.sum()
    data = found["data"]
    assert data["head"] == git_in(small, "rev-parse", "HEAD").stdout.decode().strip()
    assert (data["project"], data["commits"]) == ("not one this course knows", 300)
    assert 0 < data["heavy_test_requests"] < data["test_requests"]["used"] == 30
    assert data["train_requests"]["used"] == 64 < data["train_requests"]["of"]


def test_runs_of_another_history_or_sample_have_other_keys(small, monkeypatch):
    run = git_twin.main()[0]
    key = run.key
    monkeypatch.setattr(git_data, "TEST", 29)
    other_sample = run.key
    monkeypatch.setattr(git_data, "TEST", 30)
    source = data.source("git")
    elsewhere = dataclasses.replace(source, identity=lambda: {"head": "0" * 40})
    monkeypatch.setattr(data, "source", lambda name: elsewhere)
    assert len({key, other_sample, run.key}) == 3


def test_without_a_clone_the_variable_is_named(small, monkeypatch, tmp_path):
    monkeypatch.delenv(git_data.CLONE)
    git_data.full_history.cache_clear()
    with pytest.raises(GitError, match="set SEQLIB_GIT_CLONE to the path of one"):
        git_data.full_history()
    monkeypatch.setenv(git_data.CLONE, str(tmp_path))
    with pytest.raises(GitError, match="is not a git clone"):
        git_data.full_history()


def test_ranks_and_counts_are_those_of_a_loop(busy_clone, monkeypatch):
    monkeypatch.setattr(git_twin, "WINDOWS", (3, 20))
    data = git_history(busy_clone, min_events=1, candidates=5, positives=2)
    folder = data.spec.items.fields["folder"].numpy()
    before_all = np.where(np.arange(len(data.test)) == 0, 0.0, data.test.time)
    requests = dataclasses.replace(data.test, time=before_all)  # the first life is empty
    assert git_twin.lengths_before(data, requests)[0] == 0
    rank, count = git_twin.past(data, requests, folder)
    for r in range(0, len(requests), 5):
        user, time = requests.user[r], requests.time[r]
        mine = (data.log.user == user) & (data.log.time < time)
        life = folder[data.log.item[mine]][::-1].tolist()  # newest first
        for c, item in enumerate(requests.items[r]):
            here = [j for j, f in enumerate(life) if f == folder[item]]
            assert rank[r, c] == (here[0] if here else np.inf)
            assert count[r, c].tolist() == [sum(j < n for j in here) for n in (3, 20, len(life))]


def test_counts_by_hand_learn_what_can_be_counted(small):
    """With "touched among the last 50" as the label, the last 50 events decide everything."""

    def labelled(requests):
        rank, _ = git_twin.past(data, requests, np.arange(len(data.spec.items)))
        return dataclasses.replace(requests, labels=(rank < 50).astype(np.uint8)[..., None])

    data = git_data.history()
    data = dataclasses.replace(data, train=labelled(data.train), test=labelled(data.test))
    group = git_twin.by_hand(data, 50)
    assert [p.score.shape for p in group] == [(30, 10, 1)] * 2
    assert all(auc(p.score, data.test.labels) > 0.99 for p in group)
    again = git_twin.by_hand(data, 50)
    assert all((a.score == b.score).all() for a, b in zip(group, again, strict=True))


def test_gauc_difference_counts_the_users_who_gain():
    label = np.tile([1.0, 0.0], (4, 1))[..., None]
    good = np.tile([0.9, 0.1], (4, 1))[..., None]
    user = np.array([0, 0, 1, 2])
    right = Predictions(good, label, user, np.arange(4))
    half = dataclasses.replace(
        right, score=np.where((user == 0)[:, None, None], good[:, ::-1], good)
    )
    found = git_twin.gauc_difference([right], [half])
    assert (found["delta"], found["better_for"], found["of"]) == (0.5, 1, 3)
    assert found["over"] == "users"
    three = git_twin.gauc_difference([right, half, half], [half] * 3)
    assert three["over"] == "users and seeds"
    assert three["low"] < 0 < three["delta"]
    same = git_twin.gauc_difference([half], [half])
    assert (same["delta"], same["low"], same["high"]) == (0, 0, 0)
