"""Each field of a run has its effect on what is trained, and a summary says what was measured.

Everything below the first rule speaks of runs only through ``trained`` and ``summary``.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from experiments.runs import Run

import seqlib
from experiments import plans, runs, transact, twin
from seqlib.data.log import EventLog, Requests
from seqlib.evaluate import Predictions, bootstrap, evaluate
from seqlib.metrics import auc
from seqlib.multitask import EQUAL, PINTEREST, weighted_loss
from seqlib.nn import EmbeddingConfig
from seqlib.objectives import supervised

DAY = 86_400.0
N_USERS = 10


def data():
    """Twenty days; every event's item tells its user, histories are of very unequal length."""
    sizes = 2 + 3 * np.arange(N_USERS)
    user = np.repeat(np.arange(N_USERS), sizes)
    place = np.concatenate([np.arange(n) for n in sizes])
    log = EventLog.build(user=user, item=2 + user, time=1e6 + place * 60.0, n_users=N_USERS)

    def requests(n, first_day, last_day, shift):
        r = np.arange(n)
        c = np.arange(5)
        labels = ((r[:, None, None] * 3 + c[:, None] * 5 + np.arange(3) + shift) % 7 < 2) * 1
        return Requests(
            user=(r % N_USERS).astype(np.int32),
            time=1e6 + DAY * np.linspace(first_day, last_day, n),
            surface=(r % 2).astype(np.uint8),
            position=(r % 3).astype(np.int32),
            items=(2 + (r[:, None] + 3 * c) % tiny.N_ITEMS).astype(np.int32),
            labels=labels.astype(np.uint8),
        )

    return SimpleNamespace(
        log=log, train=requests(70, 1, 20, 0), test=requests(20, 21, 25, 1), spec=tiny.spec()
    )


DATA = data()
BASE = {"data": "tiny", "model": "mean_pooling", "length": 12, "epochs": 1}


@dataclasses.dataclass
class Seen:
    """What one run handed to ``fit``, and what came of it."""

    first: dict  # weights before training
    batches: list  # of the first epoch
    config: object
    objective: object
    validate: object
    model: object  # as trained
    predictions: Predictions


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Settings of a run -> what it trained; the data set is the one above."""
    monkeypatch.setattr(runs, "CACHE", tmp_path)
    monkeypatch.setattr(runs, "dataset", lambda name: DATA)
    really_fit, seen = runs.fit, {}

    def fit(model, loader, config, objective=None, *, validate=None, **rest):
        loader.set_epoch(0)
        seen.update(
            first={k: v.clone() for k, v in model.state_dict().items()},
            batches=list(loader),
            config=config,
            objective=objective,
            validate=validate,
            model=model,
        )
        return really_fit(model, loader, config, objective, validate=validate, **rest)

    monkeypatch.setattr(runs, "fit", fit)

    def train(**settings):
        predictions = runs.execute(Run(**{**BASE, **settings}))
        return Seen(**seen, predictions=predictions)

    return train


@pytest.fixture
def summary(monkeypatch):
    """Runs and their predictions -> rows and differences, without training anything."""

    def make(predictions, dataset=DATA, spent=None):
        monkeypatch.setattr(runs, "dataset", lambda name: dataset)
        monkeypatch.setattr(plans, "dataset", lambda name: dataset)
        monkeypatch.setattr(plans, "execute", predictions.__getitem__)
        monkeypatch.setattr(plans, "seconds", lambda run: (spent or {}).get(run, 1.0))
        return plans.summarise(list(predictions))

    return make


# ------------------------------------------------------------------------------------------------


def rows_of(seen):
    return [i for b in seen.batches for i in b.index.tolist()]


def test_held_out_days_are_not_trained_on_and_choose_the_epoch(trained):
    seen = trained(held_out=5.0, epochs=3)
    moments = np.concatenate([b.request.time.numpy() for b in seen.batches])
    cut = DATA.train.time.max() - 5 * DAY
    assert moments.max() < cut
    assert len(moments) == (DATA.train.time < cut).sum() < len(DATA.train)
    # What validates is the AUC of the first task on the days that were kept back, by their labels.
    held = DATA.train.between(cut, np.inf)
    loader = runs.BatchLoader(DATA.log, held, length=12, batch_size=len(held))
    (b,) = loader
    with torch.no_grad():
        score = seen.model(b.request)[..., 0].sigmoid()
    assert seen.validate(seen.model) == pytest.approx(auc(score, b.answers.labels[..., 0]))


def test_without_held_out_days_all_is_trained_on_in_random_order(trained):
    seen = trained()
    assert sorted(rows_of(seen)) == list(range(len(DATA.train)))
    assert rows_of(seen) != sorted(rows_of(seen))
    assert seen.validate is None


def test_predictions_are_the_trained_models_on_the_whole_test_set(trained):
    seen = trained(candidates=2)
    assert np.array_equal(seen.predictions.label, DATA.test.labels)
    assert np.array_equal(seen.predictions.user, DATA.test.user)
    loader = runs.BatchLoader(DATA.log, DATA.test, length=12, batch_size=20)
    (b,) = loader
    with torch.no_grad():
        want = seen.model.eval()(b.request).sigmoid().double().numpy()
    np.testing.assert_allclose(seen.predictions.score, want, atol=1e-6)
    assert seen.predictions.score.shape == (20, 5, 3)


@pytest.mark.parametrize("history", ["own", "other"])
def test_the_control_trains_and_is_tested_on_other_peoples_histories(trained, history):
    seen = trained(history=history)
    for b in seen.batches:
        own = b.request.events.item[:, 0] == 2 + b.request.user
        assert own.all() if history == "own" else not own.any()
    (b,) = runs.BatchLoader(DATA.log, DATA.test, length=12, batch_size=20)
    with torch.no_grad():
        by_own = seen.model.eval()(b.request).sigmoid().double().numpy()
    assert np.allclose(seen.predictions.score, by_own, atol=1e-6) == (history == "own")


def test_sorted_batches_hold_less_padding(trained):
    def padding(seen):
        return sum(int((~b.request.events.mask).sum()) for b in seen.batches)

    options = {"length": 30, "batch_size": 7}
    assert padding(trained(sort=True, **options)) < 0.5 * padding(trained(**options))


@pytest.mark.parametrize(("candidates", "n"), [(None, 5), (2, 2)])
def test_so_many_candidates_are_drawn_for_training(trained, candidates, n):
    assert {b.request.items.shape[1] for b in trained(candidates=candidates).batches} == {n}


def test_label_weights_decide_the_loss(trained):
    """The objective that was handed over, on the first batch, with the model as it is."""

    def loss(seen):
        objective = seen.objective or supervised(seen.model.tasks)
        with torch.no_grad():
            return float(sum(objective(seen.model, seen.batches[0]).values()))

    def want(seen, weights):
        b = seen.batches[0]
        with torch.no_grad():
            return float(weighted_loss(seen.model(b.request), b.answers.labels, weights))

    equal, pinterest, once = (
        trained(label_weights=w) for w in ("equal", "pinterest", "hides-count-once")
    )
    b = equal.batches[0]
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    with torch.no_grad():
        assert loss(equal) == pytest.approx(
            3 * float(plain(equal.model(b.request), b.answers.labels)), rel=1e-5
        )
    assert loss(pinterest) == pytest.approx(want(pinterest, PINTEREST))
    matrix = np.array(PINTEREST.matrix, float)
    matrix[:2, 2] = 1
    other = dataclasses.replace(PINTEREST, matrix=tuple(map(tuple, matrix)))
    assert loss(once) == pytest.approx(want(once, other))
    assert want(once, other) != pytest.approx(want(once, PINTEREST))
    assert want(once, other) != pytest.approx(want(once, EQUAL))
    with pytest.raises(ValueError, match="label_weights is 'heavy'"):
        trained(label_weights="heavy")


@pytest.mark.parametrize("field", ["lr", "epochs", "seed"])
def test_the_recipe_is_the_runs(trained, field):
    settings = {"lr": 0.02, "epochs": 3, "seed": 4}
    assert getattr(trained(**settings).config, field) == settings[field]


def test_batches_are_of_the_size_and_histories_of_the_length_asked_for(trained):
    seen = trained(batch_size=8, length=3)
    assert {len(b) for b in seen.batches[:-1]} == {8}
    assert max(b.request.events.shape[1] for b in seen.batches) == 3
    assert max(b.request.events.shape[1] for b in trained(length=20).batches) == 20


def test_the_seed_is_that_of_the_first_weights_and_of_the_order(trained):
    zero, one, again = trained(seed=0), trained(seed=1), trained(seed=1, lr=0.01)
    assert rows_of(one) == rows_of(again) != rows_of(zero)
    want = seqlib.build("mean_pooling", DATA.spec, seed=1).state_dict()
    assert all(torch.equal(one.first[name], value) for name, value in want.items())
    assert not all(torch.equal(zero.first[name], value) for name, value in want.items())


def test_options_of_model_and_embedding_reach_the_model(trained):
    seen = trained(
        model="din",
        model_options=(("softmax", True),),
        embedding=(("dim", 12), ("use_rank", False)),
    )
    assert seen.model.recipe["model"]["softmax"] is True
    want = dataclasses.asdict(EmbeddingConfig(dim=12, use_rank=False))
    assert seen.model.recipe["embedding"] == want
    assert seen.model.recipe["name"] == "din"


CHANGES = [
    {"model": "sum_pooling"},
    {"length": 13},
    {"seed": 1},
    {"epochs": 2},
    {"lr": 1e-3},
    {"batch_size": 16},
    {"history": "other"},
    {"sort": True},
    {"candidates": 2},
    {"label_weights": "pinterest"},
    {"held_out": 3.0},
    {"embedding": (("dim", 16),)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_setting_is_another_run_with_other_numbers(trained, change):
    one, other = Run(**BASE), Run(**{**BASE, **change})
    assert one.key != other.key
    a, b = trained(), trained(**change)
    assert not np.array_equal(a.predictions.score, b.predictions.score)


def test_a_name_is_for_readers_only_and_a_second_run_is_read_not_trained(trained, monkeypatch):
    assert Run(**BASE, name="x").key == Run(**BASE).key
    first = trained().predictions
    monkeypatch.setattr(runs, "fit", None)
    again = runs.execute(Run(**BASE, name="x"))
    for name in ("score", "label", "user", "index"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert runs.seconds(Run(**BASE)) > 0
    model = runs.trained(Run(**BASE))
    (b,) = runs.BatchLoader(DATA.log, DATA.test, length=12, batch_size=20)
    with torch.no_grad():
        np.testing.assert_allclose(first.score, model(b.request).sigmoid().numpy(), atol=1e-6)


# --- summaries ----------------------------------------------------------------------------------


def guessed(skill, seed=0):
    """Predictions on the test set: labels and noise, by skill."""
    noise = np.random.default_rng(seed).random(DATA.test.labels.shape)
    score = skill * DATA.test.labels + (1 - skill) * noise
    index = np.arange(len(DATA.test))
    label = DATA.test.labels.astype(float)
    return Predictions(score, label, DATA.test.user.astype(np.int64), index)


def run_of(model, seed=0, length=12, **more):
    return Run("tiny", model, length, seed=seed, **more)


def test_a_row_holds_the_mean_and_each_seed_of_every_metric(summary):
    predictions = {run_of("din", s): guessed(0.1 * s, s) for s in range(3)}
    spent = {run: 10.0 * run.seed for run in predictions}
    (row,) = summary(predictions, spent=spent)["rows"]
    assert (row["label"], row["model"], row["length"], row["seeds"]) == ("din", "din", 12, 3)
    assert row["cpu_seconds"] == 10.0
    for task in DATA.spec.task_names:
        for metric in ("auc", "log_loss"):
            each = [evaluate(p, DATA.spec.task_names)[task][metric] for p in predictions.values()]
            assert row[task][metric]["each"] == pytest.approx(each, abs=1e-5)
            assert row[task][metric]["mean"] == pytest.approx(np.mean(each), abs=2e-5)


def test_differences_are_first_minus_baseline_of_the_same_length(summary):
    predictions = {
        run_of("mean_pooling"): guessed(0.1, 1),
        run_of("recency_pooling"): guessed(0.6, 2),
        run_of("mean_pooling", length=20): guessed(0.2, 3),
        run_of("recency_pooling", length=20): guessed(0.5, 4),
    }
    found = summary(predictions)["differences"]
    assert [(d["a"], d["b"], d["length"]) for d in found] == [
        ("recency_pooling", "mean_pooling", n) for n in (12, 20)
    ]
    for d in found:
        better, base = (predictions[run_of(name, length=d["length"])] for name in (d["a"], d["b"]))
        want = bootstrap(better).minus(bootstrap(base))
        assert want.delta > 0
        assert [d[k] for k in ("delta", "low", "high")] == pytest.approx(
            [want.delta, want.low, want.high], abs=1e-5
        )
        assert d["over"] == "users"


def test_sides_of_unequal_seeds_are_cut_to_as_many(summary):
    predictions = {run_of("mean_pooling", s): guessed(0.1, s) for s in range(2)}
    predictions |= {run_of("recency_pooling", s): guessed(0.2 * s, 9 + s) for s in range(3)}
    (d,) = summary(predictions)["differences"]
    a, b = (
        [p for run, p in predictions.items() if run.model == name][:2]
        for name in ("recency_pooling", "mean_pooling")
    )
    want = bootstrap(a).minus(bootstrap(b))
    assert d["delta"] == pytest.approx(want.delta, abs=1e-5)
    assert (d["seeds"], d["over"]) == (2, "users and seeds")


def test_the_control_stands_in_a_row_of_its_own(summary):
    predictions = {run_of("din", history=h): guessed(0.1) for h in ("own", "other")}
    result = summary(predictions)
    assert [r["label"] for r in result["rows"]] == ["din", "din (other user)"]
    assert [(d["a"], d["b"]) for d in result["differences"]] == [("din (other user)", "din")]


def test_reference_lines_are_no_history_the_window_and_the_truth(summary, monkeypatch):
    """A world of which every probability is known; a window of n says how much n events tell."""
    truth = np.linspace(0.1, 0.9, DATA.test.labels.size).reshape(DATA.test.labels.shape)
    none = np.full_like(truth, 0.5)
    test = dataclasses.replace(DATA.test, truth=truth, extra={"p_none": none})
    world = SimpleNamespace(log=DATA.log, train=DATA.train, test=test, spec=DATA.spec)

    def p_window(data, requests, n):
        return truth if n >= 20 else none

    monkeypatch.setattr("seqlib.data.world.p_window", p_window)
    predictions = {
        run_of("din", length=n): dataclasses.replace(guessed(0.0), score=p, truth=truth)
        for n, p in ((12, none), (20, truth))
    }
    result = summary(predictions, world)
    reference = result["reference"]
    assert reference["none"] == 0.5
    assert reference["ceiling"] > 0.6
    assert reference["filter"] == {"12": 0.5, "20": reference["ceiling"]}
    assert (reference["test_requests"], reference["train_requests"]) == (20, 70)
    assert [r["grade"] for r in result["rows"]] == pytest.approx([0.0, 1.0], abs=1e-3)


# --- plans --------------------------------------------------------------------------------------


def test_what_a_plan_asks_for_is_what_its_runs_have():
    variants = transact.variant(
        "a", window=3.0, n_layers=2, lr=0.1, epochs=7, label_weights="pinterest"
    )
    for seed, run in enumerate(variants):
        assert run.seed == seed
        options = dict(run.model_options)
        assert options == {**transact.START, "window": 3.0, "n_layers": 2}
        assert (run.lr, run.epochs, run.label_weights) == (0.1, 7, "pinterest")
    for run in twin.seeds("sdim", width=3, n_bits=6, candidates=4, length=50):
        assert dict(run.model_options) == {"width": 3, "n_bits": 6}
        assert (run.candidates, run.length, run.sort, run.name) == (4, 50, True, "sdim")
