"""Every check of chapter 03 against the stub, the solution, and realistic wrong answers."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from answers import suite

import seqlib
from seqlib.checks import ramp
from seqlib.multitask import hit_at_k
from seqlib.nn import Encoder
from seqlib.viz import explorers, scaling
from solutions import ch03

SOLUTIONS = {
    "E03.1": ch03.early_fusion,
    "E03.2": ch03.shared_attention,
    "E03.3": ch03.strict_window,
    "E03.4": ch03.safe_attention,
    "E03.5": ch03.head_weights,
    "E03.6": ch03.hit_at_3,
    "E03.7": ch03.attention_flops,
}


def plain(s, t, v, keys):
    return torch.softmax((s + t[:, None]).masked_fill(~keys, -torch.inf), -1) @ v


def overflowing(s, t, v, keys):
    e, g = s.exp() * keys, t.exp() * keys
    return e @ (g[..., None] * v) / (e @ g.T).T[..., None]


def twice_normalised(s, t, v, keys):
    e = torch.softmax(s.masked_fill(~keys, -torch.inf), -1)
    return e @ (torch.softmax(t.masked_fill(~keys, -torch.inf), -1)[..., None] * v)


def read(s, v, keys):
    return torch.einsum("bl,bld->bd", torch.softmax(s.masked_fill(~keys, -torch.inf), -1), v)


def zero_open(s, v, keys, empty):
    keys = keys.clone()
    keys[:, 0] = True
    return read(s, v, keys)


def where_after(s, v, keys, empty):
    return torch.where(keys.any(-1, keepdim=True), read(s, v, keys), empty)


def minus_billion(s, v, keys, empty):
    w = torch.softmax(s.masked_fill(~keys, -1e9), -1)
    return torch.einsum("bl,bld->bd", w, v)


def per_request(score, label, user):
    return label.gather(1, score.topk(3, 1).indices).sum() / len(score)


def any_hit(score, label, user):
    found = label.gather(1, score.topk(3, 1).indices).amax(1)
    return found.sum() / len(user.unique())


def lowest(score, label, user):
    return ch03.hit_at_3(-score, label, user)


def without_wo(L, C, d, d_u):
    return C * 2 * (3 * L * d * d + 2 * L * L * d), 0


def all_per_candidate(L, C, d, d_u):
    fused, shared = ch03.attention_flops(L, C, d, d_u)
    return fused, C * ch03.attention_flops(L, 1, d, d_u)[1]


WRONG = [
    ("E03.1", lambda u, c: ch03.early_fusion(u, c).transpose(0, 1), "axes of candidates"),
    (
        "E03.1",
        lambda u, c: ch03.early_fusion(u, c)[..., [4, 5, 0, 1, 2, 3]],
        "stands in front of the action",
    ),
    (
        "E03.1",
        lambda u, c: torch.stack(
            [torch.cat([torch.cat([torch.zeros(2).double(), x])[None], u]) for x in c]
        ),
        "one more token",
    ),
    ("E03.1", lambda u, c: None, "returns nothing"),
    ("E03.2", plain, "no (C, L, L) tensor"),
    ("E03.2", overflowing, "exp overflows"),
    ("E03.2", twice_normalised, "not normalised again"),
    (
        "E03.2",
        lambda s, t, v, k: ch03.shared_attention(s, t, v, torch.ones_like(k)),
        "mask is forgotten",
    ),
    ("E03.2", lambda s, t, v, k: ch03.shared_attention(s, 0 * t, v, k), "term t is left out"),
    ("E03.3", lambda age, real, limit: age > limit, "padding is seen"),
    ("E03.3", lambda age, real, limit: real & (age < limit), "old actions are hidden"),
    ("E03.3", lambda age, real, limit: real & (age >= limit), "exactly the limit's age"),
    (
        "E03.3",
        lambda age, real, limit: (real & (age > limit)) | (torch.arange(5) == 0),
        "position 0 is always seen",
    ),
    ("E03.4", lambda s, v, k, e: read(s, v, k), "is NaN"),
    ("E03.4", zero_open, "it leaks what is hidden"),
    ("E03.4", where_after, "NaN is NaN in backward"),
    ("E03.4", minus_billion, "averages its padding"),
    (
        "E03.4",
        lambda s, v, k, e: ch03.safe_attention(s, v, k, 0 * e),
        "zero, not `empty`",
    ),
    ("E03.5", lambda m, y: y @ m[:, :3].T, "nothing done is forgotten"),
    ("E03.5", lambda m, y: y @ m[:, :3].T + m[:, 3], "added to every row"),
    (
        "E03.5",
        lambda m, y: y @ m[:, :3] + (1 - y.amax(-1, keepdim=True)) * m[:, 3],
        "rows and columns",
    ),
    ("E03.6", per_request, "number of requests"),
    ("E03.6", any_hit, "counts once"),
    ("E03.6", lowest, "three worst"),
    (
        "E03.6",
        lambda s, y, u: (
            y.gather(1, s.topk(3, 1).indices).sum() / len(u.unique()) if s.shape[1] > 2 else 1 / 0
        ),
        "raised ZeroDivisionError",
    ),
    ("E03.7", without_wo, "W_O is forgotten"),
    ("E03.7", all_per_candidate, "charged per candidate"),
    ("E03.7", lambda *a: tuple(x / 2 for x in ch03.attention_flops(*a)), "counted as one"),
    ("E03.7", lambda *a: ch03.attention_flops(*a)[1], "return (fused, shared)"),
]


test_every_exercise_has_a_solution, test_stub_and_solution, test_wrong_answers = suite(
    "03", SOLUTIONS, WRONG
)


def test_the_estimate_is_the_librarys_formula():
    attention = Encoder(96, 1, 32, 0.0, 1).layers[0].self_attn
    for length, c in ((100, 500), (37, 1)):
        fused, shared = ch03.attention_flops(length, c, 96, 64)
        assert fused == attention.flops(c, length, length)
        assert shared == attention.first_flops(1, c, length, length, 64)


def test_hits_are_the_librarys():
    score, label = ramp(6, 5), (ramp(5, 6).T > 0).double()
    user = torch.tensor([0, 0, 1, 2, 2, 2])
    want = hit_at_k(score.numpy(), label.numpy(), user.numpy())
    assert float(ch03.hit_at_3(score, label, user)) == pytest.approx(want)


# --- the explorer's reference is the library's model ------------------------------------------


def without(request, hidden):
    """The request with some events masked where they stand: the others keep their rows."""
    mask = request.events.mask & ~hidden
    return dataclasses.replace(request, events=dataclasses.replace(request.events, mask=mask))


@pytest.mark.parametrize("strict", [True, False])
def test_the_explorer_computes_the_librarys_logits(strict, monkeypatch):
    model, request, state = tiny.transact_explorer()
    off = torch.zeros(1, 12, dtype=torch.bool)
    off[0, [2, 5]] = True
    if strict:
        age = (request.time[:, None] - request.events.time) / 3_600
        changed = without(request, off | (age <= 1.0))
    else:  # the authors' masks: the window as it is drawn in training
        paper = seqlib.build(
            "transact_paper", tiny.spec(), seed=0, **tiny.SMALL_TRANSACT, window=2.0
        )
        paper.load_state_dict(model.state_dict(), strict=False)
        model, changed = paper.train(), without(request, off)
        monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.tensor(0.5, dtype=k["dtype"]))
    with torch.no_grad():
        want = model(changed)[0]
        far = float((model(request)[0] - want).abs().max())
    options = {"window": 1.0, "strict": strict, "off": [2, 5]}
    for c in range(3):
        got = torch.tensor(explorers.transact_forward(state, c, **options)["logits"])
        torch.testing.assert_close(got, want[c].double(), rtol=0.01, atol=0.1)
    assert far > 0.05  # the events that were hidden matter


def test_the_explorers_attention_is_the_librarys():
    model, request, state = tiny.transact_explorer(
        0.1
    )  # at .3 the softmax is so sharp that rounding decides
    with torch.no_grad(), seqlib.trace.capture() as t:
        model(request)
    for c in range(3):
        got = torch.tensor(explorers.transact_forward(state, c)["attention"])
        want = t["encoder.attention"][c, 0].double()
        torch.testing.assert_close(got, want, rtol=0, atol=0.01)
        torch.testing.assert_close(got.sum(-1), torch.ones(12).double())


def test_transact_state_names_what_does_not_fit():
    model, _, _ = tiny.transact_explorer()
    common = {"features": [[0.0]], "notes": [], "kinds": {}, "tasks": (), "candidate_titles": []}
    deep = seqlib.build("transact", tiny.spec(), seed=0, n_layers=2).state_dict()
    with pytest.raises(ValueError, match="exactly one layer"):
        explorers.transact_state(deep, items=[[0.0]], actions=[1], ages=[1.0], candidates=[[0.0]],
                                 titles=["a"], **common)  # fmt: skip
    with pytest.raises(ValueError, match="lengths differ"):
        explorers.transact_state(model.state_dict(), items=[[0.0]], actions=[1, 2], ages=[1.0],
                                 candidates=[[0.0]], titles=["a"], **common)  # fmt: skip


def test_dots_refuse_nothing_to_draw():
    with pytest.raises(ValueError, match="values is empty"):
        scaling.dots({}, xlabel="x")
    figure = scaling.dots({"transact": [0.6, 0.7]}, xlabel="AUC", references={"no history": 0.5})
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.6500"]
