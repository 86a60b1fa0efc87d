"""Solutions of chapter 02, DIN."""

import math

import torch


def target_pool(q, k, mask):
    """E02.1: q (C, D), k (L, D), mask (L,) -> (C, D); weights are dot products, not normalised."""
    w = (q @ k.T) * mask
    return w @ k


def first_layer(q, k, W, b):
    """E02.2: q (C, D), k (L, D), W (H, 4D), b (H,) -> (L, C, H) without a (L, C, 4D) tensor."""
    w1, w2, w3, w4 = W.split(q.shape[-1], dim=1)
    per_candidate = q @ (w1 + w3).T
    per_event = k @ (w2 - w3).T + b
    per_pair = torch.einsum("ld,chd->lch", k, q[:, None] * w4)
    return per_pair + per_candidate[None] + per_event[:, None]


def softmax_blind():
    """E02.3: two different histories that softmax attention with q = (1, 0) can't tell apart."""
    once = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return once, once.repeat(2, 1)


def dice(s, mask, alpha, eps=1e-8):
    """E02.4: s (B, L, H), mask (B, L), alpha (H,) -> (B, L, H), statistics over real events."""
    real = s[mask]
    mean, var = real.mean(0), real.var(0, unbiased=False)
    p = torch.sigmoid((s - mean) / torch.sqrt(var + eps))
    return p * s + (1 - p) * alpha * s


def mba_decay(table, ids, n, lr, lam):
    """E02.5: one decay step on the rows of this batch; ids may repeat, 0 is padding."""
    rows = ids.unique()
    rows = rows[rows != 0]
    out = table.clone()
    out[rows] -= lr * lam / n[rows, None] * table[rows]
    return out


def max_candidates(budget, L, D, h1, h2):
    """E02.6: most candidates whose unit evaluations fit in ``budget`` FLOPs."""
    per_event = 2 * L * D * h1
    per_candidate = 2 * D * h1 + 2 * L * (D * h1 + h1 * h2 + h2)
    return max(math.floor((budget - per_event) / per_candidate), 0)


def share_left(base, published, corrected):
    """E02.7: how much of a published RelaImpr is left after a correction, between 0 and 1."""

    def rela_impr(auc):
        return (auc - 0.5) / (base - 0.5) - 1

    return rela_impr(corrected) / rela_impr(published)
