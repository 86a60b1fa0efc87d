"""Saved models: whole, readable, and of one catalogue."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import seqlib
from seqlib import viz
from seqlib.data.identity import catalogue, digest
from seqlib.models import registry
from seqlib.models.registry import load, save


@pytest.fixture
def saved(tmp_path):
    """A model's file and the model."""
    model = seqlib.build("twin", tiny.spec(), seed=0).eval()
    save(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors", model


def test_a_model_comes_back_and_gives_the_same_twice(saved):
    path, model = saved
    again = load(path, tiny.spec())
    assert not again.training
    assert again.recipe == model.recipe
    assert torch.equal(again(tiny.request()), model(tiny.request()))
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


def renumbered(spec):
    """The same items under other ids: the first real one comes last."""
    rows = torch.cat([torch.arange(2), 2 + torch.arange(tiny.N_ITEMS).roll(-1)])
    table = spec.items
    return dataclasses.replace(
        spec,
        items=dataclasses.replace(
            table,
            fields={name: ids[rows] for name, ids in table.fields.items()},
            content=table.content[rows],
            dense=table.dense[rows],
            duration=table.duration[rows],
        ).validate(),
    )


def with_item(spec, name, change):
    """Another value in one row of one column of the item table."""
    fields = dict(spec.items.fields)
    other = (fields.get(name) if name in fields else getattr(spec.items, name)).clone()
    other[7] = change(other[7])
    new = {"fields": {**fields, name: other}} if name in fields else {name: other}
    return dataclasses.replace(spec, items=dataclasses.replace(spec.items, **new))


def swapped(spec, name):
    """The last two names of actions, surfaces or tasks, exchanged."""
    names = getattr(spec, name)
    return dataclasses.replace(spec, **{name: (*names[:-2], names[-1], names[-2])})


def reordered(spec):
    """The item fields in another order, in which the projection would mix them up."""
    sizes = dict(reversed(spec.items.sizes.items()))
    return dataclasses.replace(spec, items=dataclasses.replace(spec.items, sizes=sizes))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (renumbered, "content .*dense .*fields.category .*fields.topic"),
        (lambda s: with_item(s, "topic", lambda x: 2 + (x - 1) % 6), "fields.topic"),
        (lambda s: with_item(s, "content", lambda x: -x), "content"),
        (lambda s: with_item(s, "dense", lambda x: x + 1e-6), "dense"),
        (lambda s: with_item(s, "duration", lambda x: x + 1), "duration"),
        (reordered, "order"),
        (lambda s: swapped(s, "actions"), "actions"),
        (lambda s: swapped(s, "surfaces"), "surfaces"),
        (lambda s: swapped(s, "tasks"), "tasks"),
        (lambda s: dataclasses.replace(s, notes={"names": {"topic": ["a"]}}), "names"),
    ],
)
def test_a_model_of_another_catalogue_is_refused(saved, change, differs):
    path, _ = saved
    with pytest.raises(ValueError, match=f"another catalogue of 'tiny'.* differs in {differs} "):
        load(path, change(tiny.spec()))


def test_what_only_begins_a_model_is_no_other_catalogue(saved):
    path, _ = saved
    load(path, dataclasses.replace(tiny.spec(), base_rates=(0.5, 0.5, 0.5), notes={"left_out": 3}))
    with pytest.raises(ValueError, match="was trained on 'tiny', this spec is 'other'"):
        load(path, dataclasses.replace(tiny.spec(), name="other"))


def test_every_flipped_byte_is_noticed(saved):
    path, _ = saved
    raw = path.read_bytes()
    head = 8 + int.from_bytes(raw[:8], "little")
    places = [*range(0, head, 37), *range(head, len(raw), (len(raw) - head) // 60), len(raw) - 1]
    for i in places:
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 16]) + raw[i + 1 :])
        with pytest.raises(ValueError, match="m.safetensors (is damaged|holds no|does not say)"):
            load(path, tiny.spec())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_said_to_be_one(saved, share):
    path, _ = saved
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match="holds no saved model; it may be truncated"):
        load(path, tiny.spec())


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(saved):
    path, model = saved
    tensors = load_file(path)
    name = "heads.deep.bias"
    tensors[name][0] = float("nan")
    recipe = json.dumps(model.recipe, sort_keys=True)
    head = {"recipe": recipe, "recipe_digest": seqlib.data.identity.text_digest(recipe)}
    save_file(tensors, path, {**head, "weights_digest": digest(tensors)})
    with pytest.raises(ValueError, match=f"m.safetensors has NaN or infinity in {name}"):
        load(path, tiny.spec())
    with torch.no_grad():
        model.heads.deep.bias[0] = float("inf")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"the model has NaN or infinity in {name}"):
        save(model, path)
    assert path.read_bytes() == before


def test_files_without_digests_and_models_without_a_recipe_are_refused(saved):
    path, model = saved
    old = {k: v for k, v in model.recipe.items() if k != "catalogue"}
    for head in ({"recipe": json.dumps(old)}, {}):
        save_file(load_file(path), path, head)
        with pytest.raises(ValueError, match="does not say which catalogue .*; train the model"):
            load(path, tiny.spec())
    model.recipe = {}
    with pytest.raises(ValueError, match="the model has no recipe"):
        save(model, path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load(path.with_name("nowhere"), tiny.spec())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_model_is_readable_to_whom_the_umask_says(saved, umask, mode):
    path, model = saved
    was = os.umask(umask)
    try:
        save(model, path.parent / "folder" / "n.safetensors")
    finally:
        os.umask(was)
    assert stat.S_IMODE((path.parent / "folder" / "n.safetensors").stat().st_mode) == mode


def test_a_digest_is_of_names_shapes_types_and_bytes():
    a = torch.arange(6.0)
    b = torch.arange(6.0) + 1
    one = digest({"a": a, "b": b})
    others = [
        {"a": b, "b": a},
        {"a": a, "c": b},
        {"a": a.reshape(2, 3), "b": b},
        {"a": a.double(), "b": b},
        {"a": -a, "b": b},  # zero and minus zero are other bytes
    ]
    assert len({one, *map(digest, others)}) == 6
    assert digest({"b": b, "a": a.repeat(2)[:6]}) == one
    assert catalogue(tiny.spec()) == json.loads(json.dumps(catalogue(tiny.spec())))


# --- cards and variants ------------------------------------------------------------------------


@pytest.fixture
def registry_as_it_was(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))


@pytest.mark.usefixtures("registry_as_it_was")
def test_a_variant_is_its_model_with_other_options_and_other_lines_on_the_card():
    registry.variant("din_code", "d", "D", card={"source": "here"}, hidden=(8, 4), scale=False)
    cards = seqlib.available()
    assert cards["d"] == dataclasses.replace(cards["din_code"], name="d", title="D", source="here")
    config = seqlib.build("d", tiny.spec()).encoder.config
    assert config == dataclasses.replace(
        seqlib.build("din_code", tiny.spec()).encoder.config, hidden=(8, 4), scale=False
    )
    assert list(cards)[-1] == "d"


@pytest.mark.parametrize(
    ("of", "name", "change", "message"),
    [
        ("dinn", "d", {}, "unknown model 'dinn'; available: item_only, "),
        ("din", "twin", {}, "a model named 'twin' is already registered"),
        (
            "din",
            "d",
            {"card": {"colour": "red"}},
            r"a card has no line \['colour'\]; it has \['att",
        ),
        ("din", "d", {"card": {"name": "e"}}, r"a card has no line \['name'\]"),
        ("din", "d", {"depth": 3}, r"din has no option \['depth'\]; it has \['activation'"),
    ],
)
@pytest.mark.usefixtures("registry_as_it_was")
def test_a_variant_that_cannot_be_is_refused(of, name, change, message):
    with pytest.raises(ValueError, match=message):
        registry.variant(of, name, "D", **change)
    assert "d" not in seqlib.available()


def test_every_card_says_the_five_properties():
    five = (
        "Token representation",
        "Sequence length",
        "Attention type",
        "Dimension reduction",
        "Computed where, how fresh, by whose training",
    )
    for card in seqlib.available().values():
        table = card.table()
        assert [table.count(f"| **{one}** |") for one in five] == [1] * 5
        assert f"| {card.computed}; {card.trained} |" in table
        assert all(
            getattr(card, f.name) for f in dataclasses.fields(card) if f.name != "departures"
        )


def test_figures_call_a_model_what_its_card_calls_it():
    cards = seqlib.available()
    assert {name: viz.label(name) for name in cards} == {n: c.title for n, c in cards.items()}
    assert len({card.title for card in cards.values()}) == len(cards)


def test_models_stand_in_the_order_of_the_course():
    """A variant follows its model, and chapters' models follow each other."""
    chapters = [card.chapter for card in seqlib.available().values()]
    assert chapters == sorted(chapters)
