"""Solutions of chapter 03, TransAct."""

import torch


def early_fusion(u, c):
    """E03.1: u (L, d_u), c (C, d_c) -> tokens (C, L, d_u + d_c), the candidate behind every action."""
    uu = u[None].expand(len(c), -1, -1)
    cc = c[:, None].expand(-1, len(u), -1)
    return torch.cat([uu, cc], dim=-1)


def shared_attention(s, t, v, keys):
    """E03.2: s (L, L), t (C, L), v (L, d), keys (L,) -> (C, L, d) without a (C, L, L) tensor."""
    s = s.masked_fill(~keys, -torch.inf)
    t = t.masked_fill(~keys, -torch.inf)
    e = (s - s.amax(-1, keepdim=True)).exp()  # (L, L), any row may be rescaled
    g = (t - t.amax(-1, keepdim=True)).exp()  # (C, L)
    weighted = g[..., None] * v  # (C, L, d)
    return e @ weighted / (e @ g.T).T[..., None]


def strict_window(age, real, limit):
    """E03.3: age (B, L) seconds, real (B, L), limit in seconds -> True where an action may be seen."""
    return real & (age > limit)


def safe_attention(s, v, keys, empty):
    """E03.4: s (B, L), v (B, L, D), keys (B, L), empty (D,) -> (B, D), ``empty`` where no key is."""
    some = keys.any(-1, keepdim=True)
    w = torch.softmax(s.masked_fill(~keys & some, -torch.inf), dim=-1)  # no row without a key
    return torch.where(some, torch.einsum("bl,bld->bd", w, v), empty)


def head_weights(M, y):
    """E03.5: M (H, H + 1), y (..., H) in {0, 1} -> (..., H); the last column is "nothing done"."""
    nothing = 1 - y.amax(-1, keepdim=True)
    return torch.cat([y, nothing], dim=-1) @ M.T


def hit_at_3(score, label, user):
    """E03.6: score and label (R, C), user (R,) -> positives among the three best, per user."""
    best = score.topk(min(3, score.shape[1]), dim=1).indices
    return label.gather(1, best).sum() / len(user.unique())


def attention_flops(L, C, d, d_u):
    """E03.7: FLOPs of one head for C candidates: (fused, with the first layer shared)."""
    fused = C * 2 * (4 * L * d * d + 2 * L * L * d)
    once = 2 * (3 * L * d_u * d + L * L * d + L * d * d)  # q, k, v of u; S; W_O on the values
    each = 2 * (2 * (d - d_u) * d + L * d + L * L * (d + 1) + d * d)
    return fused, once + C * each
