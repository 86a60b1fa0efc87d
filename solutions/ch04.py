"""Solutions of chapter 04, TWIN."""

import torch


def cross_bias(kc, wc, beta):
    """E04.1: kc (L, J, D), wc (A, J, D), beta (A, J) -> (A, L), one number per head and event."""
    return torch.einsum("ljd,ajd,aj->al", kc, wc, beta)


def round_robin(alpha, k):
    """E04.2: alpha (A, L), −∞ where nothing is -> at most k indices in the order of collection."""
    order = alpha.argsort(dim=1, descending=True, stable=True)
    taken = []
    for rank in range(alpha.shape[1]):
        for head in range(alpha.shape[0]):
            event = int(order[head, rank])
            if len(taken) < k and event not in taken and alpha[head, event] > -torch.inf:
                taken.append(event)
    return taken


def safe_search(alpha, mask, k):
    """E04.3: alpha (L,), mask (L,) -> the best k real events, best first; fewer if there are fewer."""
    best = alpha.masked_fill(~mask, -torch.inf).topk(min(k, len(alpha)))
    return best.indices[best.values > -torch.inf]


def search_cost(L, C, H, J, D, A, d_k):
    """E04.4: multiply-adds of one request's search: (dense keys, split, split with stored keys)."""
    query = C * H * A * d_k
    dots = C * L * A * d_k
    dense = L * (H + J * D) * A * d_k + query + dots
    stored = L * J * D * A + query + dots
    return dense, stored + L * H * A * d_k, stored


def shortest_cycle(pool, users_per_second, L, share):
    """E04.5: seconds a refresh may take at least, so that ``share`` of all projections is saved."""
    return pool / ((1 - share) * users_per_second * L)


def consistency(found, found_mask, oracle, oracle_mask):
    """E04.6: indices (R, K) and masks, twice -> mean share of the oracle's events that were found."""
    same = oracle[:, :, None] == found[:, None]  # (R, K of the oracle, K of the search)
    seen = (same & found_mask[:, None]).any(-1) & oracle_mask
    return (seen.sum(1) / oracle_mask.sum(1).clamp(min=1)).mean()


def gains(base, new):
    """E04.7: an AUC and a better one -> (relative gain, gain as a share of what is above chance)."""
    return new / base - 1, (new - base) / (base - 0.5)
