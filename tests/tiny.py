"""A tiny data set and batches filled by formulas, not by a random generator."""

from __future__ import annotations

import torch

from seqlib.data.schema import (
    Answers,
    DataSpec,
    Events,
    Items,
    ItemTable,
    Request,
    RequestBatch,
)

N_ITEMS, DAY = 30, 86_400.0
SMALL_TRANSACT = {"n_layers": 1, "seq_len": 12, "n_rows": 4, "out_dim": 16, "dropout": 0.0}


def ramp(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values in (−scale, scale) from a fixed irrational stride: no two alike, no generator."""
    n = 1
    for s in shape:
        n *= s
    x = torch.frac(torch.arange(1, n + 1, dtype=torch.float64) * 0.6180339887498949)
    return ((2 * x - 1) * scale).reshape(shape).to(dtype)


def spec() -> DataSpec:
    """30 items in 6 topics and 3 categories, 8-d content, one real feature."""
    rows = torch.arange(N_ITEMS + 2)
    real = rows >= 2
    topic = torch.where(real, 2 + rows % 6, rows)
    category = torch.where(real, 2 + rows % 3, rows)
    content = torch.nn.functional.normalize(ramp(N_ITEMS + 2, 8), dim=-1) * real[:, None]
    table = ItemTable(
        fields={"topic": topic, "category": category},
        sizes={"topic": 8, "category": 5},
        content=content,
        dense=ramp(N_ITEMS + 2, 1) * real[:, None],
        duration=torch.where(real, 10.0, 0.0),
    ).validate()
    return DataSpec(
        name="tiny",
        items=table,
        actions=("click", "like", "share", "hide"),
        surfaces=("feed", "search"),
        tasks=("click", "like", "hide"),
        base_rates=(0.25, 0.05, 0.02),
        key_field="topic",
        watch=True,
    )


def batch(
    lengths: tuple[int, ...] = (7, 0, 1, 12), n_candidates: int = 3, width: int | None = None
) -> RequestBatch:
    """One request per entry of ``lengths``; row 0 is the newest event's side."""
    b, width = len(lengths), width or max(max(lengths), 1)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    i = torch.arange(b)[:, None] * 37 + torch.arange(width)[None] * 11
    now = torch.full((b,), 500 * DAY, dtype=torch.float64)
    age = (1 + torch.arange(width, dtype=torch.float64)[None]) ** 2 * 1000.0
    events = Events(
        item=torch.where(mask, 2 + i % N_ITEMS, 0),
        action=torch.where(mask, i % 16, 0),
        surface=torch.where(mask, i % 2, 0),
        time=torch.where(mask, now[:, None] - age, 0.0),
        watch=torch.where(mask, (i % 13).float(), 0.0),
        duration=torch.where(mask, 10.0, 0.0),
        mask=mask,
    )
    j = torch.arange(b)[:, None] * 5 + torch.arange(n_candidates)[None] * 7
    labels = ((j[..., None] + torch.arange(3)) % 4 == 0).float()
    request = Request(
        events=events,
        items=Items(2 + j % N_ITEMS),
        time=now,
        surface=torch.arange(b) % 2,
        position=torch.arange(b) * 3,
        user=torch.arange(b),
    )
    return RequestBatch(request, Answers(labels), torch.arange(b)).validate()


def request(*args, **kwargs) -> Request:
    """What a model sees of ``batch``."""
    return batch(*args, **kwargs).request


def fill(module: torch.nn.Module, scale: float = 0.4) -> torch.nn.Module:
    """Weights from the ramp, so that two implementations can be compared number by number."""
    with torch.no_grad():
        for k, p in enumerate(module.parameters()):
            p.copy_(ramp(p.numel() + k, scale=scale)[k:].reshape(p.shape).to(p))
    return module


def transact_explorer(scale: float = 0.3):
    """A small TransAct, one request of twelve events, and its explorer's state."""
    import seqlib
    from seqlib.viz import explorers

    model = fill(seqlib.build("transact", spec(), seed=0, **SMALL_TRANSACT), scale).eval()
    b = batch(lengths=(12,)).request
    with torch.no_grad():
        state = explorers.transact_state(
            model.state_dict(),
            items=model.items(b.events.item)[0],
            actions=model.encoder.ids(b.events)[0].tolist(),
            ages=((b.time - b.events.time[0]) / 3_600).tolist(),
            candidates=model.items(b.items.id)[0],
            features=model.features(b, model.encoder(b))[0],
            titles=[f"event {j}" for j in range(12)],
            notes=["click, 2 d"] * 12,
            candidate_titles=["a", "b", "c"],
            kinds={"click": 1, "hide": 8},
            tasks=("click", "like", "hide"),
        )
    return model, b, state
