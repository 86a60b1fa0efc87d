"""SIM, ETA and SDIM: what each search may return, and each attention against plain loops."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqlib
from seqlib import cost, objectives, trace
from seqlib.data.schema import Items
from seqlib.models.registry import load, save
from seqlib.search import SimHash, bucket_ids, same_field_topk, topk

SEARCHES = ["sim_hard", "sim_cluster", "sim_soft_joint", "sim_soft_pretrained", "eta"]
MODELS = [*SEARCHES, "sdim"]


def build(name, **options):
    """No short branch, so that the output is the long branch alone."""
    return seqlib.build(name, tiny.spec(), seed=2, short=0, **options).eval()


def run(encoder, b):
    return encoder(b)


def plain_spec():
    """The tiny data set without content vectors and categories."""
    base = tiny.spec()
    items = dataclasses.replace(
        base.items,
        fields={"topic": base.items.fields["topic"]},
        sizes={"topic": base.items.sizes["topic"]},
        content=torch.zeros(len(base.items), 0),
    )
    return dataclasses.replace(base, items=items)


# --- what a search may return ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=15),
    st.integers(0, 3),
    st.integers(1, 17),
    st.booleans(),
)
def test_hard_search_takes_the_newest_of_the_same_field(events, wanted, k, fill):
    field = torch.tensor([[f for f, _ in events]])
    mask = torch.tensor([[m for _, m in events]])
    found = same_field_topk(torch.tensor([[wanted]]), field, mask, k, fill)
    same = [i for i, (f, m) in enumerate(events) if m and f == wanted]
    other = [i for i, (f, m) in enumerate(events) if m and f != wanted] if fill else []
    assert found.index[found.mask].tolist() == (same + other)[:k]


def test_hard_search_returns_only_the_candidates_category_unless_filled():
    b = tiny.request(lengths=(12, 5, 0))
    category = tiny.spec().items.fields["category"]
    wanted = category[b.items.id]
    for fill in (False, True):
        encoder = build("sim_hard", fill=fill).encoder
        assert encoder.field == "category"
        found = encoder.search(encoder.prefill(b), b.items)
        same = found.gather(category[b.events.item]) == wanted[..., None]
        assert (same | ~found.mask).all() != fill
    assert build("sim_hard", field="topic").encoder.field == "topic"
    assert seqlib.build("sim_hard", plain_spec(), seed=0).encoder.main.field == "topic"


def test_cluster_search_returns_only_the_candidates_cluster(tmp_path):
    b = tiny.request(lengths=(12, 5, 0))
    model = build("sim_cluster", n_clusters=4)
    label = model.encoder.cluster
    assert label[:2].tolist() == [-1, -1]
    assert sorted(set(label[2:].tolist())) == [0, 1, 2, 3]
    found = model.encoder.search(model.encoder.prefill(b), b.items)
    same = found.gather(label[b.events.item]) == label[b.items.id][..., None]
    assert (same | ~found.mask).all()
    assert found.mask.any()
    want = (label[b.items.id][..., None] == label[b.events.item][:, None]) & b.events.mask[:, None]
    assert torch.equal(want.sum(-1), found.mask.sum(-1))
    # As many clusters as items at most: the same item only.
    assert build("sim_cluster", n_clusters=10**6).encoder.cluster[2:].unique().numel() == 30
    save(model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m", tiny.spec()).encoder.cluster, label)


@pytest.mark.parametrize("name", ["sim_hard", "sim_soft_pretrained", "eta"])
def test_exact_scores_are_those_of_the_attention(name):
    """With every event found, softmax of the exact scores is what the attention weighs them by."""
    b = tiny.request(lengths=(12, 5, 1))
    model = build(name, k=12, **({"fill": True} if name == "sim_hard" else {})).double()
    with trace.capture() as seen:
        run(model.encoder, b)
    scores = model.encoder.exact_scores(model.encoder.prefill(b), b.items)
    index = seen["gsu.index"][:, :, None].expand(-1, -1, scores.shape[2], -1)
    weight = scores.softmax(-1).gather(-1, index) * seen["gsu.mask"][:, :, None]
    assert torch.allclose(weight, seen["esu.weights"], atol=1e-12)


def test_without_the_time_gap_ages_do_not_matter():
    b = tiny.request(lengths=(12, 5))
    older = dataclasses.replace(b, events=dataclasses.replace(b.events, time=b.events.time - 9e6))
    for d_time, same in ((0, True), (8, False)):
        encoder = build("sim_hard", d_time=d_time).encoder
        assert torch.equal(run(encoder, b), run(encoder, older)) == same


@pytest.mark.parametrize("name", ["sim_soft_joint", "sim_soft_pretrained"])
def test_soft_search_equals_brute_force(name):
    b = tiny.request(lengths=(12, 5, 0, 1))
    model = build(name, k=4).double()
    encoder = model.encoder
    items = model.items
    found = encoder.search(encoder.prefill(b), b.items)
    for row in range(4):
        for c in range(3):
            candidate = int(b.items.id[row, c])
            scores = []
            for j in range(int(b.events.lengths[row])):
                past = int(b.events.item[row, j])
                if name == "sim_soft_pretrained":
                    scores.append(float(items.content[candidate] @ items.content[past]))
                    continue
                action = encoder.embed.action_id(b.events)[row, j]
                e = items(torch.tensor(past)) + encoder.embed.action(action)
                q = encoder.w_a(items(torch.tensor(candidate)))
                scores.append(float((encoder.w_b(e) @ q).detach()))
            want = sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:4]
            assert found.index[row, c][found.mask[row, c]].tolist() == want


def test_eta_finds_the_smallest_hamming_distances():
    b = tiny.request(lengths=(12, 5))
    model = build("eta", k=4, n_bits=6)
    bits = model.encoder.hash.bits(model.items(torch.arange(32)))
    found = model.encoder.search(model.encoder.prefill(b), b.items)
    for row, n in enumerate((12, 5)):
        for c in range(3):
            q = bits[b.items.id[row, c]]
            d = [int((q ^ bits[b.events.item[row, j]]).sum()) for j in range(n)]
            want = sorted(range(n), key=lambda j: (d[j], j))[:4]
            assert found.index[row, c].tolist() == want


@pytest.mark.parametrize("name", SEARCHES)
def test_found_events_belong_to_the_history(name):
    """Padding is behind every real event, even one with a negative score."""
    b = tiny.request(lengths=(12, 3, 0, 1))
    encoder = build(name, k=6).encoder
    found = encoder.search(encoder.prefill(b), b.items)
    assert found.gather(b.events.mask)[found.mask].all()
    if name not in ("sim_hard", "sim_cluster"):  # which may find fewer
        assert found.mask.sum(-1)[:, 0].tolist() == [6, 3, 0, 1]


@pytest.mark.parametrize("name", MODELS)
def test_narrow_search_keeps_the_promises_of_an_encoder(name):
    """Padding, candidates, budgets: with K below L, where the shared invariants don't look."""
    options = {} if name == "sdim" else {"k": 3}
    b = tiny.request(lengths=(12, 5, 0), n_candidates=5)
    encoder = build(name, **options).encoder
    want = run(encoder, b)
    padded = dataclasses.replace(b, events=b.events.pad(50))
    torch.testing.assert_close(run(encoder, padded), want)
    order = torch.tensor([3, 0])
    some = dataclasses.replace(b, items=Items(b.items.id[:, order]))
    torch.testing.assert_close(run(encoder, some), want[:, order])
    torch.testing.assert_close(run(build(name, budget=1, **options).encoder, b), want)
    assert want[2].eq(0).all()  # no history: zeros, finite


@pytest.mark.parametrize("name", MODELS)
def test_events_move_with_their_times(name):
    """Order is only read from times and, for ties and hard search, from recency."""
    b = tiny.request(lengths=(12,))
    order = torch.tensor([3, 11, 0, 7, 5, 1, 10, 2, 9, 4, 8, 6])
    moved = dataclasses.replace(b, events=b.events._map(lambda t: t[:, order]))
    encoder = build(name).encoder
    torch.testing.assert_close(run(encoder, moved), run(encoder, b))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [30, 200])
def test_flops_by_formula_when_the_search_is_narrow(name, length):
    model = seqlib.build(name, tiny.spec(), seed=0, **({} if name == "sdim" else {"k": 5})).eval()
    b = tiny.request(lengths=(length, length), n_candidates=3)
    assert cost.counted_flops(lambda: model(b)) == model.flops(2, 3, length)


# --- SIM's attention and its loss ----------------------------------------------------------------


def test_exact_search_unit_equals_its_formula():
    """Softmax(W_b z · W_a e_a) without 1/√d, and the tokens themselves as values."""
    model = build("sim_hard", field="topic").double()
    encoder = model.encoder
    items = model.items
    b = tiny.request(lengths=(12, 1))
    found = encoder.search(encoder.prefill(b), b.items)
    got = run(encoder, b)
    action = encoder.embed.action_id(b.events)
    for row in range(2):
        for c in range(3):
            q = items(b.items.id[row, c])
            z = []
            for j in found.index[row, c][found.mask[row, c]].tolist():
                e = items(b.events.item[row, j]) + encoder.embed.action(action[row, j])
                minutes = float(b.time[row] - b.events.time[row, j]) / 60
                gap = encoder.gap.table.weight[min(int(2 * math.log2(1 + minutes)), 41)]
                z.append(torch.cat([e, gap]))
            heads = []
            for w_a, w_b in zip(encoder.esu.w_a.weight.split(32), encoder.esu.w_b.weight.split(32),
                                strict=True):  # fmt: skip
                s = torch.stack([(w_b @ t) @ (w_a @ q) for t in z]) if z else torch.zeros(0)
                heads.append(sum((w * t for w, t in zip(s.softmax(0), z, strict=True)),
                                 torch.zeros(40, dtype=torch.float64)))  # fmt: skip
            torch.testing.assert_close(got[row, c], torch.cat(heads), rtol=0, atol=1e-10)


def terms(model, batch):
    """The named loss terms of one training forward."""
    return objectives.supervised(model.tasks)(model.train(), batch)


def test_the_soft_search_adds_a_loss_of_its_own_and_the_hard_one_has_none():
    """α = β = 1 for the soft search, α = 0 for the hard one; logits are never added."""
    b = tiny.batch()
    tasks = {"click", "like", "hide"}
    assert set(terms(seqlib.build("sim_hard", tiny.spec(), seed=0), b)) == tasks
    full = terms(seqlib.build("sim_soft_joint", tiny.spec(), seed=0), b)
    assert set(full) == tasks | {"search"}
    assert full["search"] > 0
    half = terms(seqlib.build("sim_soft_joint", tiny.spec(), seed=0, auxiliary=0.5), b)
    torch.testing.assert_close(2 * half["search"], full["search"])


def test_search_parameters_learn_by_their_own_loss_only():
    model = seqlib.build("sim_soft_joint", tiny.spec(), seed=0, k=4)
    of = terms(model, tiny.batch())
    search = of.pop("search")
    encoder = model.encoder.main
    sum(of.values()).backward(retain_graph=True)
    assert encoder.w_a.weight.grad is None
    search.backward()
    for name in ("w_a", "w_b"):
        assert getattr(encoder, name).weight.grad.abs().max() > 0


def test_the_searchs_scores_are_raw_and_do_not_see_padding():
    b = tiny.batch(lengths=(9, 0, 2))
    model = seqlib.build("sim_soft_joint", tiny.spec(), seed=0)
    once = terms(model, b)["search"]
    padded = dataclasses.replace(b.request, events=b.request.events.pad(40))
    again = terms(model, dataclasses.replace(b, request=padded))["search"]
    torch.testing.assert_close(again, once)


def test_a_forward_leaves_nothing_on_the_model():
    """No graph waits on a module for a loss: a model can be copied right after a forward."""
    model = seqlib.build("sim_soft_joint", tiny.spec(), seed=0).train()
    model(tiny.request())
    copy.deepcopy(model)
    with objectives.collect() as published:
        model.eval()(tiny.request())
    assert published == {}


# --- hashing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eta", "sdim"])
def test_hyperplanes_are_drawn_once_and_saved(name, tmp_path):
    """Two forwards agree, also after saving and loading into a model drawn otherwise."""
    b = tiny.request()
    model = seqlib.build(name, tiny.spec(), seed=0, hash_seed=11).eval()
    assert torch.equal(model(b), model(b))
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors", tiny.spec()).eval()
    assert torch.equal(again.encoder.main.hash.planes, model.encoder.main.hash.planes)
    assert torch.equal(again(b), model(b))
    assert not any("planes" in n for n, _ in model.named_parameters())
    other = seqlib.build(name, tiny.spec(), seed=0, hash_seed=12).eval()
    assert not torch.equal(other.encoder.main.hash.planes, model.encoder.main.hash.planes)


@pytest.mark.parametrize("name", ["eta", "sdim"])
def test_item_vectors_learn_as_values_and_not_through_the_hash(name):
    b = tiny.request(lengths=(12,), n_candidates=2)
    model = build(name).train()
    run(model.encoder, b).pow(2).sum().backward()
    assert model.items.proj.weight.grad.abs().max() > 0
    assert model.encoder.hash.planes.grad is None


def test_eta_approaches_the_inner_product_as_bits_grow():
    """Recall of the ten nearest by cosine rises with the number of bits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 400, 16, generator=generator)
    q = torch.randn(4, 8, 16, generator=generator)
    unit = torch.nn.functional.normalize
    exact = topk(unit(q, dim=-1) @ unit(x, dim=-1).transpose(1, 2), 10)
    mask = torch.ones(4, 400, dtype=torch.bool)
    recall = []
    for m in (8, 32, 128, 512):
        h = SimHash(16, m)
        found = seqlib.search.hamming_topk(h(q), h(x), 10, mask)
        recall.append(float(seqlib.search.hits_at_k(found, exact).float().mean()))
    assert recall == sorted(recall)
    assert recall[-1] > 2 * recall[0]


def test_sdim_equals_its_formula():
    """(1/G) Σ_g ℓ2norm of the events whose three bits equal the candidate's."""
    model = build("sdim", n_bits=12).double()
    encoder = model.encoder
    items = model.items
    b = tiny.request(lengths=(12, 2, 0))
    bits = encoder.hash.bits(items(torch.arange(32)))
    got = run(encoder, b)
    action = encoder.embed.action_id(b.events)
    for row, n in enumerate((12, 2, 0)):
        for c in range(3):
            want = torch.zeros(32, dtype=torch.float64)
            for g in range(4):
                cut = slice(3 * g, 3 * g + 3)
                bucket = torch.zeros(32, dtype=torch.float64)
                for j in range(n):
                    item = b.events.item[row, j]
                    if torch.equal(bits[item, cut], bits[b.items.id[row, c], cut]):
                        minutes = float(b.time[row] - b.events.time[row, j]) / 60
                        age = encoder.age.table.weight[min(int(2 * math.log2(1 + minutes)), 41)]
                        bucket = bucket + items(item) + encoder.embed.action(action[row, j]) + age
                if bucket.norm() > 0:
                    want = want + bucket / bucket.norm() / 4
            torch.testing.assert_close(got[row, c], want, rtol=0, atol=1e-10)


def test_sdims_output_does_not_grow_with_the_history():
    """Without the ℓ2 norm of every bucket it would: the same events three times, three times."""
    b = tiny.request(lengths=(6,))
    thrice = dataclasses.replace(b, events=b.events._map(lambda t: torch.cat([t] * 3, dim=1)))
    encoder = build("sdim").encoder
    torch.testing.assert_close(run(encoder, thrice), run(encoder, b))
    assert run(encoder, b).norm(dim=-1).max() <= 1 + 1e-6


def test_48_bits_are_16_tables_of_3():
    encoder = build("sdim").encoder
    ids = encoder.buckets(torch.arange(2, 9))
    assert ids.shape == (7, 16)
    assert int(ids.max()) < 8
    assert torch.equal(ids, bucket_ids(encoder.hash.bits(encoder.items(torch.arange(2, 9))), 3))


def test_trace_publishes_finalists_and_weights():
    b = tiny.request(lengths=(12, 2))
    for name in SEARCHES:
        with trace.capture() as t:
            run(build(name, k=4).encoder, b)
        assert t["gsu.index"].shape == (2, 3, 4)
        assert t["esu.weights"].shape == (2, 3, 4, 4)
        assert (t["esu.weights"] * ~t["gsu.mask"][:, :, None]).eq(0).all()


# --- errors ------------------------------------------------------------------------------------


def test_configuration_errors_name_what_is_wrong():
    for name, options, message in (
        ("sim_hard", {"search": "fuzzy"}, "search is 'fuzzy'; one of hard, cluster"),
        ("sim_hard", {"field": "colour"}, r"no field 'colour'; there are \['topic', 'category'\]"),
        ("sim_hard", {"k": 0}, "k is 0; a search returns at least 1 event"),
        ("sim_hard", {"auxiliary": -1.0}, "must not be negative"),
        ("sdim", {"width": 5}, "width is 5; it must divide n_bits, 48"),
        ("eta", {"n_bits": 0}, "n_bits is 0; it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            seqlib.build(name, tiny.spec(), **options)
    with pytest.raises(ValueError, match="items have no content vectors"):
        seqlib.build("sim_soft_pretrained", plain_spec())
