"""A training step of TWIN at the paper's width, in a process of its own: prints its peak in MB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

import seqlib
from seqlib.data.schema import DataSpec, Events, Items, ItemTable, Request
from seqlib.nn import EmbeddingConfig
from seqlib.objectives import bce

B, C, L, N, DAY = 16, 16, 10_000, 20_000, 86_400.0


def spec() -> DataSpec:
    """The paper's four item fields: id and author 64 numbers each, topic and duration 8."""
    rows = torch.arange(N + 2)

    def field(size: int) -> torch.Tensor:
        return torch.where(rows >= 2, 2 + rows * 7 % (size - 2), rows)

    sizes = {"author": 2_002, "topic": 192, "duration": 34}
    items = ItemTable(
        fields={name: field(size) for name, size in sizes.items()},
        sizes=sizes,
        content=torch.zeros(N + 2, 0),
        dense=torch.zeros(N + 2, 0),
        duration=torch.full((N + 2,), 10.0),
    )
    return DataSpec(
        "paper", items, ("click", "like"), ("feed",), ("click",), (0.3,), "author", True
    )


def batch() -> tuple[Request, torch.Tensor]:
    """16 requests with full histories, and their labels."""
    torch.manual_seed(0)
    now = torch.full((B,), 700 * DAY, dtype=torch.float64)
    age = torch.arange(1, L + 1, dtype=torch.float64) * 5_000
    events = Events(
        item=torch.randint(2, N + 2, (B, L)),
        action=torch.randint(0, 4, (B, L)),
        surface=torch.zeros(B, L, dtype=torch.int64),
        time=now[:, None] - age,
        watch=torch.rand(B, L) * 12,
        duration=torch.full((B, L), 10.0),
        mask=torch.ones(B, L, dtype=torch.bool),
    )
    zeros = torch.zeros(B, dtype=torch.int64)
    labels = (torch.rand(B, C, 1) < 0.3).float()
    items = Items(torch.randint(2, N + 2, (B, C)))
    return Request(events, items, now, zeros, zeros, zeros).validate(), labels


def peak_mb() -> int:
    """This program's own peak. On Linux ``ru_maxrss`` also remembers the process that started it,
    a test runner with whole data sets in memory, so the kernel's count for this program is read."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1e3)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, options = sys.argv[1], {"gsu_gradient": True} if "all" in sys.argv[2:] else {}
    model = seqlib.build(name, spec(), embedding=EmbeddingConfig(key_dim=64, id_dim=64), **options)
    assert model.items.n_inputs == 144
    optimizer = torch.optim.AdamW(model.parameters())
    request, labels = batch()
    for _ in range(2):
        optimizer.zero_grad()
        bce(model(request), labels).backward()
        optimizer.step()
    print(peak_mb())
