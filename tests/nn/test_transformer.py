"""Plain blocks against torch's own, and a cache against the whole."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from seqlib import cost
from seqlib.data import stored
from seqlib.nn.transformer import Attention, Block, Transformer

DIM = 12
HEADS = 3
HIDDEN = 20
LENGTH = 7
MASK = torch.arange(LENGTH) < torch.tensor([7, 4, 1])[:, None]


def sequence(rows: int = 3, length: int = LENGTH) -> torch.Tensor:
    return tiny.ramp(rows, length, DIM, dtype=torch.float64)


def stack(**options) -> Transformer:
    return tiny.fill(Transformer(DIM, HEADS, HIDDEN, 2, **options).double())


def test_a_block_is_torchs_pre_ln_encoder_layer():
    ours = tiny.fill(Block(DIM, HEADS, HIDDEN).double())
    theirs = nn.TransformerEncoderLayer(
        DIM, HEADS, HIDDEN, 0.0, "gelu", batch_first=True, norm_first=True
    ).double()
    a = ours.attention
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([a.w_q.weight, a.w_k.weight, a.w_v.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([a.w_q.bias, a.w_k.bias, a.w_v.bias]))
    theirs.self_attn.out_proj.load_state_dict(a.w_o.state_dict())
    theirs.linear1.load_state_dict(ours.feed[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed[2].state_dict())
    theirs.norm1.load_state_dict(ours.norm1.state_dict())
    theirs.norm2.load_state_dict(ours.norm2.state_dict())
    x = sequence()
    real = MASK[..., None]
    want = theirs(x, src_key_padding_mask=~MASK) * real
    torch.testing.assert_close(ours(x, visible=MASK) * real, want, rtol=0, atol=1e-12)
    ahead = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    want = theirs(x, src_mask=ahead, is_causal=True)
    torch.testing.assert_close(ours(x, causal=True), want, rtol=0, atol=1e-12)


def test_cross_attention_is_torchs():
    ours = tiny.fill(Attention(DIM, HEADS).double())
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).double()
    w = (ours.w_q, ours.w_k, ours.w_v)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in w]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in w]))
    theirs.out_proj.load_state_dict(ours.w_o.state_dict())
    x = sequence(length=2)
    memory = sequence()
    want = theirs(x, memory, memory, key_padding_mask=~MASK)[0]
    got = ours(x, *ours.keys(memory), visible=MASK)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_a_row_that_sees_nothing_is_finite_and_disturbs_no_other():
    ours = tiny.fill(Attention(DIM, HEADS).double())
    x = sequence().requires_grad_()
    visible = MASK.clone()
    visible[1] = False
    got = ours(x, *ours.keys(x), visible=visible)
    torch.testing.assert_close(got[1], ours.w_o.bias.expand(LENGTH, DIM))
    torch.testing.assert_close(got[[0, 2]], ours(x, *ours.keys(x), visible=MASK)[[0, 2]])
    got.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("causal", [False, True])
def test_padding_last_changes_nothing(causal):
    model = stack(causal=causal)
    x = sequence()
    want = model(x, None if causal else MASK)
    longer = torch.cat([x, sequence(length=5)], dim=1)
    visible = torch.cat([MASK, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    got = model(longer, None if causal else visible)
    torch.testing.assert_close(got[:, :LENGTH][MASK], want[MASK], rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_candidates_read_the_cache_and_themselves_only(chunk):
    """Each candidate as the last token of its own sequence, or all of them against one cache."""
    model = stack(causal=True)
    x = sequence(1)
    candidates = sequence(1, 5)
    _, cache = model.prefill(x, MASK[:1])
    got = torch.cat([model.score(part, cache) for part in candidates.split(chunk, dim=1)], dim=1)
    for c in range(5):
        alone = model(torch.cat([x, candidates[:, c : c + 1]], dim=1))[:, -1]
        torch.testing.assert_close(got[:, c], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_new", [0, 1, 3])
def test_extending_a_cache_equals_recomputing(n_new):
    model = stack(causal=True)
    x = sequence(2)
    visible = torch.ones(2, LENGTH, dtype=torch.bool)
    want, whole = model.prefill(x, visible)
    old = LENGTH - n_new
    _, cache = model.prefill(x[:, :old], visible[:, :old])
    got, extended = model.extend(x[:, old:], cache)
    torch.testing.assert_close(got, want[:, old:], rtol=0, atol=1e-12)
    torch.testing.assert_close(extended.k, whole.k, rtol=0, atol=1e-12)
    assert extended.visible.equal(whole.visible)


def test_what_can_not_be_extended_is_refused():
    x = sequence()
    with pytest.raises(ValueError, match="only a causal stack can be extended"):
        stack().extend(x, stack().prefill(x, MASK)[1])
    model = stack(causal=True)
    with pytest.raises(ValueError, match="a row of the cache has padding"):
        model.extend(x, model.prefill(x, MASK)[1])


def test_a_cache_is_sliced_stored_and_moved(tmp_path):
    model = stack(causal=True)
    x = sequence()
    _, cache = model.prefill(x, MASK)
    stored.save(cache[1:], tmp_path / "cache")
    again = stored.load(tmp_path / "cache").to("cpu")
    candidates = sequence(3, 2)
    want = model.score(candidates, cache)[1:]
    torch.testing.assert_close(model.score(candidates[1:], again), want)
    assert again.nbytes == cache[1:].nbytes > 0


def test_checkpointing_changes_memory_and_no_number():
    x = sequence().requires_grad_()
    stack().train()(x, MASK).pow(2).sum().backward()
    want = x.grad
    x.grad = None
    stack(checkpointed=True).train()(x, MASK).pow(2).sum().backward()
    torch.testing.assert_close(x.grad, want)


def test_flops_are_those_torch_counts():
    model = stack().eval()
    counted = cost.counted_flops(lambda: model(sequence(), MASK))
    assert counted == model.flops(3, LENGTH)


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim is 10; it must be a multiple of n_heads, 3"):
        Attention(10, 3)
    with pytest.raises(ValueError, match="n_layers is 0"):
        Transformer(DIM, HEADS, HIDDEN, 0)
