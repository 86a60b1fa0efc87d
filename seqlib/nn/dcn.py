"""DCN-V2's cross network (arXiv:2008.13535): explicit feature crosses, full rank or low rank."""

from __future__ import annotations

from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l`` (DCN-V2, Eq. 1); l layers reach degree l + 1.

    With ``rank`` r, ``W_l = U_l V_lᵀ`` with U, V of size d × r (Eq. 2), which pays when r < d / 2.

    Args:
        dim: d.
        n_layers: number of crosses.
        rank: None for a full matrix.

    Raises:
        ValueError: ``rank`` outside 1…d.
    """

    def __init__(self, dim: int, n_layers: int = 1, rank: int | None = None) -> None:
        super().__init__()
        if rank is not None and not 1 <= rank <= dim:
            raise ValueError(f"rank is {rank}; it must lie in 1…{dim} or be None for full rank")
        self.dim = dim
        self.rank = rank

        def weight() -> nn.Module:
            if rank is None:
                return nn.Linear(dim, dim)
            return nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim))

        self.layers = nn.ModuleList(weight() for _ in range(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) -> (…, d)."""
        x0 = x
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x

    def flops(self, n: int) -> int:
        """Matrix-multiply FLOPs for n rows."""
        per_layer = self.dim**2 if self.rank is None else 2 * self.dim * self.rank
        return 2 * n * per_layer * len(self.layers)
