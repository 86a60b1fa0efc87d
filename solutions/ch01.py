"""Solutions of chapter 01, pooling."""

import torch


def masked_mean(x, mask):
    """E01.1: x (B, L, D), mask (B, L) -> (B, D); rows without events give zeros."""
    n = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return (x * mask[..., None]).sum(dim=1) / n


def recency_pool(x, mask, age, half_life):
    """E01.2: weights 2^(−age / half_life), normalised over real events; (B, D).

    Only gaps count, so ages are counted from the newest event. Its weight is 1, and no sum of weights
    can underflow, however long the user was away.
    """
    age = age.masked_fill(~mask, torch.inf)
    newest = age.amin(dim=1, keepdim=True).where(mask.any(dim=1, keepdim=True), 0.0)
    w = 2 ** (-(age - newest) / half_life)  # 0 on padding
    w = w / w.sum(dim=1, keepdim=True).clamp(min=1)
    return (w[..., None] * x).sum(dim=1)


def max_pool(x, mask, empty):
    """E01.3: maximum over real events; rows without events give ``empty`` (D,)."""
    v = x.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
    return torch.where(mask.any(dim=1, keepdim=True), v, empty)


def twins():
    """E01.4: two different histories with the same sum and the same maximum."""
    a = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return a, b


def update(S, N, last, e, now, half_life):
    """E01.5: decayed sum, decayed count and time after one more event."""
    fade = 1.0 if last is None else 2 ** (-(now - last) / half_life)
    return fade * S + e, fade * N + 1, now


def pool_and_attend(C, L, D):
    """E01.6: FLOPs of a pool with C dot products, and of attention per candidate."""
    return 2 * L * D + 2 * C * D, C * (2 * L * D + 2 * L * D)
