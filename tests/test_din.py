"""DIN against a reference written line by line from the paper, in float64 and with plain loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import seqlib
from seqlib import trace
from seqlib.models.din import ActivationUnit, Dice
from seqlib.nn import EmbeddingConfig, ItemEmbedding, MiniBatchAwareL2


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def reference_activation(unit, layer, s: list[float], kind: str) -> list[float]:
    """Eq. 8, Eq. 9 (moving statistics) or a sigmoid, neuron by neuron."""
    out = []
    for n, x in enumerate(s):
        if kind == "sigmoid":
            out.append(sigmoid(x))
            continue
        alpha = float(layer.alpha[n])
        if kind == "dice":
            p = sigmoid((x - float(layer.mean[n])) / math.sqrt(float(layer.var[n]) + layer.eps))
        else:
            p = 1.0 if x > 0 else 0.0
        out.append(p * x + (1 - p) * alpha * x)
    return out


def reference_unit(unit, q, k, extra, kind: str) -> float:
    """a(e_j, v_A) on the concatenation [q, k, q − k, q ⊙ k], one pair at a time."""
    q = q.tolist()
    k = k.tolist()
    z = q + k + [a - b for a, b in zip(q, k, strict=True)]
    z += [a * b for a, b in zip(q, k, strict=True)]
    hidden = []
    for row, bias in zip(unit.first.weight.tolist(), unit.first.bias.tolist(), strict=True):
        hidden.append(sum(w * x for w, x in zip(row, z, strict=True)) + bias)
    if unit.extra is not None:
        for h, row in enumerate(unit.extra.weight.tolist()):
            hidden[h] += sum(w * float(x) for w, x in zip(row, extra, strict=True))
    hidden = reference_activation(unit, unit.act1, hidden, kind)
    second = [
        sum(w * x for w, x in zip(row, hidden, strict=True)) + bias
        for row, bias in zip(unit.second.weight.tolist(), unit.second.bias.tolist(), strict=True)
    ]
    second = reference_activation(unit, unit.act2, second, kind)
    last = unit.last.weight[0].tolist()
    return sum(w * x for w, x in zip(last, second, strict=True)) + float(unit.last.bias[0])


def reference_token(embed, b, row: int, j: int) -> torch.Tensor:
    """One event's token, from the tables."""
    e = b.events
    items = embed.items
    item = int(e.item[row, j])
    parts = [
        t.weight[int(items.get_buffer(f"field_{n}")[item])] for n, t in items.embeddings.items()
    ]
    parts += [items.content_scale * items.content[item], items.dense[item]]
    token = items.proj.weight @ torch.cat(parts)
    ratio = float(e.watch[row, j]) / float(e.duration[row, j])
    bucket = sum(ratio > float(edge) for edge in embed.ids.edges)
    token = token + embed.action.weight[int(e.action[row, j]) + embed.ids.n_sets * bucket]
    minutes = float(b.time[row] - e.time[row, j]) / 60
    token = token + embed.age.table.weight[min(int(2 * math.log2(1 + minutes)), 41)]
    return token + embed.rank.table.weight[min(int(2 * math.log2(1 + j)), 31)]


def reference_din(model, b, row: int, c: int, kind: str) -> torch.Tensor:
    """v(A) = Σ_j a(e_j, v_A) e_j (Eq. 3), with the released code's softmax if the model has it."""
    encoder = model.encoder
    items = encoder.embed.items
    config = encoder.config
    item = int(b.items.id[row, c])
    q = items(torch.tensor([item]))[0]
    n = int(b.events.lengths[row])
    tokens = [reference_token(encoder.embed, b, row, j) for j in range(n)]
    scores = []
    for j, k in enumerate(tokens):
        past = int(b.events.item[row, j])
        x = items(torch.tensor([past]))[0]
        extra = [
            float(q @ x) / math.sqrt(len(q)),
            float(items.content[item] @ items.content[past]),
        ]
        scores.append(reference_unit(encoder.unit, q, k, extra, kind))
    if config.softmax:
        scores = [s / math.sqrt(len(q)) for s in scores] if config.scale else scores
        top = max(scores, default=0.0)
        exp = [math.exp(s - top) for s in scores]
        scores = [e / sum(exp) for e in exp]
        if n == 0:
            return torch.cat([encoder.empty, encoder.empty * q])
    v = sum((w * k for w, k in zip(scores, tokens, strict=True)), torch.zeros_like(q))
    return torch.cat([v, v * q])


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("din", "dice", {}),
        ("din", "prelu", {"activation": "prelu"}),
        ("din", "sigmoid", {"activation": "sigmoid"}),
        ("din", "dice", {"softmax": True}),
        ("din_code", "sigmoid", {}),
        ("din_similarity", "dice", {}),
    ],
)
def test_equals_the_line_by_line_reference(name, kind, options):
    model = tiny.fill(seqlib.build(name, tiny.spec(), **options)).double().train()
    b = tiny.request(lengths=(5, 0, 1, 8), n_candidates=3)
    with torch.no_grad():
        model(b)  # moving statistics away from 0 and 1
        got = model.eval().encoder(b)
        for row in range(4):
            for c in range(3):
                want = reference_din(model, b, row, c, kind)
                torch.testing.assert_close(got[row, c], want, rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(2, 9))
def test_factorised_first_layer_equals_the_concatenation(b, length, c, d):
    unit = tiny.fill(ActivationUnit(d, (6, 4), "prelu")).double()
    q = tiny.ramp(b, c, d, dtype=torch.float64)
    k = tiny.ramp(b, length, d, dtype=torch.float64)
    qq = q[:, None].expand(b, length, c, d)
    kk = k[:, :, None].expand(b, length, c, d)
    z = torch.cat([qq, kk, qq - kk, qq * kk], dim=-1)
    want = unit.last(unit.act2(unit.second(unit.act1(unit.first(z)))))[..., 0]
    mask = torch.ones(b, length, dtype=torch.bool)
    torch.testing.assert_close(unit(q, k, mask), want, rtol=0, atol=1e-12)


def _encode(name, b, weights=None, **options):
    model = seqlib.build(name, tiny.spec(), seed=3, product=False, **options).eval()
    if weights is not None:
        model.encoder.unit.forward = weights
    return model.encoder, model.encoder(b)


def test_constant_unit_is_sum_pooling_and_with_softmax_mean_pooling():
    b = tiny.request(lengths=(7, 1, 12))

    def ones(q, k, mask, extra):
        return torch.ones(k.shape[0], k.shape[1], q.shape[1])

    encoder, raw = _encode("din", b, ones)
    tokens = encoder.embed(b.events, b.time)
    torch.testing.assert_close(raw[:, 0], tokens.sum(1))
    encoder, soft = _encode("din", b, ones, softmax=True)
    tokens = encoder.embed(b.events, b.time)
    torch.testing.assert_close(soft[:, 0], tokens.sum(1) / b.events.lengths[:, None])


def test_repeating_the_history_scales_din_and_leaves_softmax_din_alone():
    """The paper's reason against the softmax: how *much* interest there is survives only without."""
    b = tiny.request(lengths=(6, 6))
    thrice = b.events._map(lambda t: torch.cat([t] * 3, dim=1))
    rank_free = EmbeddingConfig(use_rank=False)
    for softmax, factor in ((False, 3.0), (True, 1.0)):
        model = seqlib.build("din", tiny.spec(), seed=3, embedding=rank_free, product=False,
                             softmax=softmax).eval()  # fmt: skip
        once = model.encoder(b)
        many = model.encoder(dataclasses.replace(b, events=thrice))
        torch.testing.assert_close(many, factor * once, rtol=1e-4, atol=1e-5)


def test_permutation_does_not_matter_without_rank():
    b = tiny.request(lengths=(8, 8))
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    model = seqlib.build("din", tiny.spec(), seed=3, embedding=EmbeddingConfig(use_rank=False))
    encoder = model.eval().encoder
    torch.testing.assert_close(
        encoder(dataclasses.replace(b, events=b.events[:, order])),
        encoder(b),
    )


def test_softmax_din_of_one_event_returns_that_event():
    b = tiny.request(lengths=(1,))
    encoder, v = _encode("din_code", b)
    torch.testing.assert_close(v[0, 0], encoder.embed(b.events, b.time)[0, 0])


def test_trace_publishes_the_weights():
    b = tiny.request(lengths=(5, 2), width=6)
    model = seqlib.build("din_code", tiny.spec(), seed=0).eval()
    with trace.capture() as t:
        model(b)
    w = t["din.weights"]
    assert w.shape == (2, 3, 6)
    assert w[1, :, 2:].eq(0).all()
    torch.testing.assert_close(w.sum(-1), torch.ones(2, 3))


# --- Dice -------------------------------------------------------------------------------------


def test_dice_in_training_is_the_formula_on_the_batch():
    s = tiny.ramp(20, 3, dtype=torch.float64)
    dice = tiny.fill(Dice(3)).double().train()
    p = torch.sigmoid((s - s.mean(0)) / torch.sqrt(s.var(0, unbiased=False) + 1e-8))
    torch.testing.assert_close(dice(s), p * s + (1 - p) * dice.alpha * s, rtol=0, atol=1e-12)
    torch.testing.assert_close(dice.mean, 0.1 * s.mean(0))
    torch.testing.assert_close(dice.var, 0.9 + 0.1 * s.var(0, unbiased=True))


def test_padding_does_not_enter_dices_statistics():
    """Padded and unpadded batches train alike: same loss, same moving statistics."""
    b = tiny.request(lengths=(7, 2, 5))
    a = seqlib.build("din", tiny.spec(), seed=3).train()
    c = seqlib.build("din", tiny.spec(), seed=3).train()
    padded = dataclasses.replace(b, events=b.events.pad(40))
    torch.testing.assert_close(a(b), c(padded))
    torch.testing.assert_close(a.encoder.unit.act1.mean, c.encoder.unit.act1.mean)


def test_dice_in_evaluation_does_not_see_its_neighbours():
    dice = tiny.fill(Dice(3)).train()
    dice(tiny.ramp(50, 3))
    dice.eval()
    s = tiny.ramp(8, 3)
    torch.testing.assert_close(dice(s)[:1], dice(s[:1]))


def test_dice_becomes_prelu_at_zero_mean_and_variance():
    dice = tiny.fill(Dice(3)).double().eval()
    dice.mean.zero_()
    dice.var.zero_()
    s = tiny.ramp(40, 3, dtype=torch.float64)
    s = s[(s.abs() > 0.01).all(-1)]
    torch.testing.assert_close(dice(s), torch.where(s > 0, s, dice.alpha * s))


def test_unit_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="activation is 'relu'; one of dice, prelu, sigmoid"):
        ActivationUnit(4, activation="relu")
    with pytest.raises(ValueError, match="the unit has two hidden layers"):
        ActivationUnit(4, hidden=(8,))
    unit = ActivationUnit(4, n_extra=2)
    with pytest.raises(ValueError, match="needs 2 extra inputs per pair, got none"):
        unit(torch.zeros(1, 1, 4), torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))


# --- mini-batch aware regularisation ------------------------------------------------------------


def test_mba_touches_only_the_rows_of_the_batch_and_by_eq_7():
    items = ItemEmbedding(tiny.spec(), EmbeddingConfig())
    table = items.embeddings["topic"].weight
    before = table.detach().clone()
    counts = torch.tensor([0.0, 0, 4, 8, 16, 32, 64, 128])
    mba = MiniBatchAwareL2(items, {"topic": counts}, strength=0.5)
    ids = torch.tensor([[2, 8, 0], [3, 2, 0]])  # topics 2+2%6=4, 2+8%6=4, 2+3%6=5; padding
    mba.step([ids], lr=0.1)
    want = before.clone()
    want[4] -= 0.1 * 0.5 / 16 * before[4]
    want[5] -= 0.1 * 0.5 / 32 * before[5]
    torch.testing.assert_close(table.detach(), want)


def test_mba_errors_name_what_is_wrong():
    items = ItemEmbedding(tiny.spec(), EmbeddingConfig())
    with pytest.raises(ValueError, match="no field 'colour'"):
        MiniBatchAwareL2(items, {"colour": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(8,\)"):
        MiniBatchAwareL2(items, {"topic": torch.zeros(3)})
    with pytest.raises(ValueError, match="must not be negative"):
        MiniBatchAwareL2(items, {"topic": torch.zeros(8)}, strength=-1)
