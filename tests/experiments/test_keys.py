"""Keys hold what determines the numbers: changed defaults change them, new neutral options do not."""

from __future__ import annotations

import dataclasses

import pytest
import toy

from experiments.__main__ import _bare_recipes
from experiments.catalogue import PLANS
from experiments.engine import data, recipe
from experiments.engine import run as engine
from experiments.engine.run import Run, key_of
from seqlib.models import registry


def keys() -> list[str]:
    """Of one run of every model and of every data set without a clone, and some with options."""
    some = [Run("course", name, 100) for name in registry.available()]
    some += [Run(name, "din", 100) for name in data.names() if name not in ("git", toy.NAME)]
    some += [run for name in ("main-transact", "hash-twin") for run in PLANS[name].runs()]
    return [run.key for run in some]


def with_option(config: type, name: str, default: object) -> type:
    """The configuration with one option more, as if somebody had added it."""
    extra = (name, type(default), dataclasses.field(default=default))
    return dataclasses.make_dataclass(config.__name__, [extra], bases=(config,), frozen=True)


def with_default(config: type, name: str, default: object) -> type:
    """The configuration with another default."""
    return with_option(config, name, default)


@pytest.mark.parametrize("name", ["FitConfig", "EmbeddingConfig", "RankerConfig"])
def test_a_new_option_leaves_every_key_as_it_is(name, monkeypatch):
    before = keys()
    monkeypatch.setattr(engine, name, with_option(getattr(engine, name), "brand_new", 0.5))
    assert "brand_new" in str(Run("course", "din", 100).recipe)
    assert keys() == before


def test_a_new_option_of_a_model_or_of_a_data_set_leaves_every_key_as_it_is(monkeypatch):
    before = keys()
    for model, entry in list(registry._MODELS.items()):
        new = with_option(entry.config, "brand_new", True)
        monkeypatch.setitem(registry._MODELS, model, dataclasses.replace(entry, config=new))
    world = data.source("course")
    settings = {**world.settings(), "brand_new": 3}
    new_world = dataclasses.replace(world, settings=lambda: settings)
    monkeypatch.setitem(data._SOURCES, "course", new_world)
    assert Run("course", "din", 100).recipe["model"]["options"]["brand_new"] is True
    assert Run("course", "din", 100).recipe["data"]["settings"]["brand_new"] == 3
    assert keys() == before


def test_a_new_option_that_is_set_makes_another_run(monkeypatch):
    entry = registry._MODELS["din"]
    before = Run("course", "din", 100).key
    new = with_option(entry.config, "brand_new", True)
    monkeypatch.setitem(registry._MODELS, "din", dataclasses.replace(entry, config=new))
    assert Run("course", "din", 100, model_options=(("brand_new", False),)).key != before


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("FitConfig", "weight_decay", 1e-4),
        ("EmbeddingConfig", "dim", 48),
        ("RankerConfig", "hidden", (64,)),
    ],
)
def test_a_changed_default_changes_the_keys_that_take_it(name, option, value, monkeypatch):
    before = keys()
    monkeypatch.setattr(engine, name, with_default(getattr(engine, name), option, value))
    assert not set(keys()) & set(before)


def test_a_changed_default_of_a_model_or_world_changes_its_keys_alone(monkeypatch):
    runs = [Run("course", "din", 100), Run("course", "twin", 100), Run("control", "twin", 100)]
    before = [run.key for run in runs]
    entry = registry._MODELS["din"]
    new = with_default(entry.config, "activation", "prelu")
    monkeypatch.setitem(registry._MODELS, "din", dataclasses.replace(entry, config=new))
    assert [run.key == key for run, key in zip(runs, before, strict=True)] == [False, True, True]
    world = data.source("control")
    moved = dataclasses.replace(world, settings=lambda: {**world.settings(), "days": 365})
    monkeypatch.setitem(data._SOURCES, "control", moved)
    assert [run.key == key for run, key in zip(runs, before, strict=True)] == [False, True, False]


def test_asking_for_the_neutral_value_is_the_same_run():
    bare = Run("course", "din", 100)
    asked = Run("course", "din", 100, epochs=2, sort=False, model_options=(("softmax", False),))
    assert asked.key == bare.key


def test_every_setting_that_is_not_neutral_is_in_the_key():
    changes = [
        {"data": "control"},
        {"model": "din_code"},
        {"length": 101},
        {"seed": 1},
        {"epochs": 3},
        {"lr": 1e-3},
        {"batch_size": 16},
        {"history": "other"},
        {"sort": True},
        {"candidates": 4},
        {"label_weights": "pinterest"},
        {"held_out": 30.0},
        {"model_options": (("softmax", True),)},
        {"embedding": (("id_dim", 4),)},
    ]
    fields = {f.name for f in dataclasses.fields(Run)}
    assert {name for change in changes for name in change} == fields - {"name"}
    bare = Run("course", "din", 100)
    others = [dataclasses.replace(bare, **change).key for change in changes]
    assert len({bare.key, *others}) == len(changes) + 1
    assert dataclasses.replace(bare, name="called so").key == bare.key


def test_keys_are_those_that_results_were_stored_by():
    """Pinned: who changes them on purpose trains everything anew."""
    assert Run("course", "din", 100).key == "course-din-L100-s0-55f7dd49"
    twin = Run("course", "twin", 10_000, seed=2, epochs=1, sort=True)
    assert twin.key == "course-twin-L10000-s2-5c1f685f"


def test_every_option_of_every_model_and_data_set_is_noted():
    """Else a later change of its default would change no key; ``neutral`` notes them."""
    missing = [
        f"{of['model']['name']} on {of['data']['name']}: {path}"
        for of in _bare_recipes()
        if of["data"]["name"] != toy.NAME
        for path in recipe.flat(of)
        if not recipe.is_noted(path, of)
    ]
    assert not missing, "run: python -m experiments neutral"


def test_two_runs_of_a_plan_have_one_key_only_if_they_are_one_run():
    for name, plan in PLANS.items():
        by_key: dict[str, dict] = {}
        for run in plan.runs():
            assert by_key.setdefault(run.key, run.recipe) == run.recipe, name
    assert key_of(toy.run().recipe) == toy.run().key


def test_notes_are_added_and_never_altered(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "NEUTRAL", tmp_path / "neutral.json")
    recipe._all_noted.cache_clear()
    of = {"length": 1, "fit": {"lr": 0.1}, "model": {"name": "m", "options": {"k": 3}}}
    assert recipe.note([of]) == ["fit.lr", "model.m.k"]
    later = {**of, "fit": {"lr": 0.2, "new": None}}
    assert recipe.note([later]) == ["fit.new"]
    assert recipe.beyond_neutral(later, later) == {"length": 1, "fit.lr": 0.2, "model.name": "m"}
    recipe._all_noted.cache_clear()
