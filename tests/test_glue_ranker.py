"""What a ranker is given reaches its outputs, and what its configurations say reaches its modules."""

from __future__ import annotations

import dataclasses
import math

import pytest
import tiny
import torch

import seqlib
from seqlib.data.schema import Items, Task
from seqlib.models import Ranker, RankerConfig, registry
from seqlib.nn import EmbeddingConfig, EventEmbedding, ItemEmbedding
from seqlib.nn.time import log_bucket

HOUR, DAY = 3_600.0, 86_400.0


def built(name="din", spec=None, **options):
    """A model in evaluation mode whose weights are all different and none zero."""
    return tiny.fill(seqlib.build(name, spec or tiny.spec(), seed=0, **options)).eval()


def asked(**changes):
    """A request of three, with some of it changed."""
    return dataclasses.replace(tiny.request(lengths=(5, 0, 2)), **changes)


def history_of(model, request):
    return tiny.ramp(*request.items.shape, model.encoder.out_dim)


@torch.no_grad()
def test_features_are_item_real_features_context_and_history_side_by_side():
    """A table look-up by hand for each of them, in this order."""
    model, request = built(), asked(items=Items(torch.tensor([[2, 9, 900], [5, 1, 3], [31, 8, 2]])))
    ids = request.items.id.where(request.items.id < tiny.N_ITEMS + 2, 1)
    per_request = torch.cat(
        [
            model.surface.weight[request.surface],
            model.clock(request.time),
            model.position.table.weight[log_bucket(request.position.float(), 16)],
        ],
        dim=-1,
    )
    history = history_of(model, request)
    want = torch.cat(
        [
            model.items(ids),
            tiny.spec().items.dense[ids],
            per_request[:, None].expand(-1, 3, -1),
            history,
        ],
        dim=-1,
    )
    torch.testing.assert_close(model.features(request, history), want)


@torch.no_grad()
def test_the_output_is_heads_of_the_crossed_features_and_of_the_raw_ones():
    """One cross by Eq. 1 of DCN-V2, two hidden layers, a deep and a wide linear map: by hand."""
    model, request = built(), asked()
    history = history_of(model, request)
    x = model.features(request, history)
    cross = model.cross.layers[0]
    h = x * (x @ cross.weight.T + cross.bias) + x
    for layer in model.mlp.layers[::2]:
        h = (h @ layer.weight.T + layer.bias).clamp_min(0)
    deep = h @ model.heads.deep.weight.T + model.heads.deep.bias
    wide = x @ model.heads.wide.weight.T
    assert wide.abs().min() > 0
    torch.testing.assert_close(model.rank(request, history), deep + wide, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        {"surface": torch.tensor([1, 0, 1])},
        {"position": torch.tensor([40, 40, 40])},
        {"time": torch.full((3,), 500 * DAY + 6 * HOUR, dtype=torch.float64)},
        {"time": torch.full((3,), 503 * DAY, dtype=torch.float64)},  # another weekday, same hour
        {"items": Items(torch.tensor([[30, 29, 28]] * 3))},
    ],
    ids=["surface", "position", "hour", "weekday", "items"],
)
def test_every_part_of_a_request_changes_every_candidates_score(change):
    """With the history's vectors held fixed, so that nothing comes in through the encoder."""
    model, request = built(), asked()
    history = history_of(model, request)
    moved = model.rank(asked(**change), history) - model.rank(request, history)
    assert (moved.abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_the_history_changes_every_candidates_score():
    model, request = built(), asked()
    history = history_of(model, request)
    moved = model.rank(request, -history) - model.rank(request, history)
    assert (moved.abs().amax(-1) > 1e-4).all()
    assert torch.equal(model(request), model.rank(request, model.encoder(request)))


def test_the_clock_has_waves_of_a_day_and_of_a_week():
    time = torch.tensor([0.0, 5 * HOUR, 3.25 * DAY], dtype=torch.float64)
    want = [
        [
            wave(2 * math.pi * h * t / period)
            for period in (DAY, 7 * DAY)
            for h in (1, 2, 3)
            for wave in (math.sin, math.cos)
        ]
        for t in time.tolist()
    ]
    torch.testing.assert_close(built().clock.waves(time), torch.tensor(want), atol=1e-6, rtol=0)


@torch.no_grad()
def test_an_untrained_ranker_says_the_base_rates_on_average_over_nothing():
    """Where deep features vanish, a binary task starts at its rate and a real one at its mean."""
    tasks = (Task("click"), Task("watch", "real"))
    spec = dataclasses.replace(tiny.spec(), tasks=tasks, base_rates=(0.2, 10.0))
    model = seqlib.build("item_only", spec, seed=0)
    model.heads.deep.weight.zero_()
    request = asked()
    outputs = model(request)
    torch.testing.assert_close(outputs[..., 0].sigmoid(), torch.full((3, 3), 0.2))
    torch.testing.assert_close(outputs[..., 1], torch.full((3, 3), 10.0))
    torch.testing.assert_close(model.predictions(outputs)[0, 0], torch.tensor([0.2, 10.0]))


# --- configurations --------------------------------------------------------------------------


def test_every_option_of_the_ranker_reaches_its_modules():
    config = RankerConfig(context_dim=7, cross_layers=3, cross_rank=2, hidden=(9, 5))
    model = seqlib.build("din", tiny.spec(), ranker=config)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    assert shapes["surface.weight"] == [2, 7]
    assert shapes["clock.proj.weight"] == [7, 12]
    assert shapes["position.table.weight"] == [16, 7]
    assert [shapes[f"cross.layers.{i}.0.weight"] for i in range(3)] == [[2, model.width]] * 3
    assert len(model.cross.layers) == 3
    assert [shapes[f"mlp.layers.{i}.weight"] for i in (0, 2)] == [[9, model.width], [5, 9]]
    assert shapes["heads.deep.weight"] == [3, 5]
    assert len(model.mlp.layers) == 4
    full = seqlib.build("din", tiny.spec(), ranker=RankerConfig(cross_layers=2))
    assert [layer.weight.shape[0] for layer in full.cross.layers] == [full.width] * 2


def test_every_width_of_the_embedding_reaches_its_tables():
    config = EmbeddingConfig(
        dim=20, key_dim=5, field_dim=3, id_dim=2, time_buckets=11, rank_buckets=6
    )
    model = seqlib.build("din", tiny.spec(), embedding=config)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    assert shapes["items.tables.of_topic.weight"] == [8, 5]
    assert shapes["items.tables.of_category.weight"] == [5, 3]
    assert shapes["items.tables.of_id.weight"] == [32, 2]
    assert shapes["items.proj.weight"] == [20, 5 + 3 + 2 + 8 + 1]
    assert model.encoder.embed.age.table.weight.shape == (11, 20)
    assert model.encoder.embed.rank.table.weight.shape == (6, 20)


@torch.no_grad()
@pytest.mark.parametrize("part", ["use_action", "use_time", "use_rank"])
def test_every_switch_of_a_token_reaches_the_encoder(part):
    without = seqlib.build("din", tiny.spec(), embedding=EmbeddingConfig(**{part: False}))
    names = {"use_action": "action", "use_time": "age", "use_rank": "rank"}
    assert not hasattr(without.encoder.embed, names[part])


@torch.no_grad()
def test_content_is_scaled_as_the_config_says():
    a, b = (
        tiny.fill(ItemEmbedding(tiny.spec(), EmbeddingConfig(content_scale=s))) for s in (1.0, 5.0)
    )
    ids = torch.arange(2, 9)
    at = a.n_inputs - 8 - 1
    content = tiny.spec().items.content[ids] @ a.proj.weight[:, at : at + 8].T
    torch.testing.assert_close(b(ids) - a(ids), 4 * content, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_token_is_item_action_age_and_rank_summed():
    """Looked up by hand: 16 action sets in each of six watch buckets, ages in minutes."""
    spec, config = tiny.spec(), EmbeddingConfig(time_buckets=20, rank_buckets=4)
    embed = tiny.fill(EventEmbedding(ItemEmbedding(spec, config), spec, config))
    request = tiny.request(lengths=(7, 3))
    events = request.events
    tokens = embed(events, request.time)
    for row, j in ((0, 0), (0, 6), (1, 2)):
        age = float(request.time[row] - events.time[row, j]) / 60
        ratio = float(events.watch[row, j] / events.duration[row, j])
        watched = sum(ratio > edge + 1e-6 for edge in (0.1, 0.25, 0.5, 0.8, 1.2))
        want = embed.items(events.item[row, j])
        want = want + embed.action.weight[int(events.action[row, j]) + 16 * watched]
        want = want + embed.age.table.weight[min(int(2 * math.log2(1 + age)), 19)]
        want = want + embed.rank.table.weight[min(int(2 * math.log2(1 + j)), 3)]
        torch.testing.assert_close(tokens[row, j], want)
    assert tokens[1, 3:].abs().max() == 0


@pytest.mark.parametrize("name", sorted(seqlib.available()))
def test_defaults_of_a_model_give_way_to_what_is_asked_for(name):
    """Asked for the opposite of every switch that its registration sets."""
    entry = registry._MODELS[name]
    flipped = {k: not v for k, v in entry.defaults.items() if isinstance(v, bool)}
    recipe = seqlib.build(name, tiny.spec()).recipe["model"]
    assert {k: recipe[k] for k in entry.defaults} == entry.defaults
    for option, value in flipped.items():
        try:
            model = seqlib.build(name, tiny.spec(), **{option: value})
        except ValueError:  # two switches of one model may exclude each other
            continue
        assert model.recipe["model"][option] == value


def test_the_seed_decides_the_first_weights():
    one, same, other = (seqlib.build("din", tiny.spec(), seed=s) for s in (1, 1, 2))
    for (name, a), b, c in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        # The heads start at base rates and the activations at constants, whatever the seed.
        constant = name.startswith("heads.deep.bias") or len(a.unique()) == 1
        assert constant or not torch.equal(a, c), name


def test_a_ranker_can_be_put_together_by_hand():
    """The registry adds a recipe, and no behaviour."""
    spec, config = tiny.spec(), EmbeddingConfig()
    auto = seqlib.build("mean_pooling", spec, seed=3)
    torch.manual_seed(3)
    items = ItemEmbedding(spec, config)
    entry = registry._MODELS["mean_pooling"]
    encoder = entry.encoder(
        EventEmbedding(items, spec, config), spec, entry.config(**entry.defaults)
    )
    hand = Ranker(items, encoder, spec, RankerConfig())
    request = asked()
    assert torch.equal(hand.eval()(request), auto.eval()(request))
