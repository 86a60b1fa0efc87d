"""What every model costs on this machine, measured in turns in one run.

    training     one optimiser step, 16 requests of 4 candidates
    inference    one request of 1, 100 and 1,000 candidates
    length       one request of 16 candidates over 100, 1,000 and 10,000 events, and the exponent
    peak         matrix-multiply FLOPs per second over those of a large matrix product
    data         events per second that the loader cuts

Milliseconds are medians of processor time with one thread. They hold for this machine only; what may
be compared are ratios within one run, which is why everything is measured in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

import seqlib
from seqlib import runtime
from seqlib.data.log import BatchLoader
from seqlib.data.schema import RequestBatch
from seqlib.data.world import World, make_world
from seqlib.models import Ranker
from seqlib.objectives import supervised
from seqlib.serving.bench import one_long_life

CANDIDATES = (1, 100, 1_000)
LENGTHS = (100, 1_000, 10_000)
SHORT = 100  # events of a training step and of inference for models of recent events
LONG = 10_000  # the same for models that search a life
SEARCHES = ("sim", "eta", "sdim", "twin")


def in_turns(fns: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time of each function, all called once a round."""
    for fn in fns.values():
        fn()
    calls: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            started = time.process_time()
            fn()
            calls[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(taken) for name, taken in calls.items()}


def product_peak(size: int = 1_024, rounds: int = 5) -> float:
    """FLOPs per second of a (size × size) matrix product, the best of some."""
    a = torch.randn(size, size)
    taken = in_turns({"product": lambda: a @ a}, rounds)["product"]
    return 2 * size**3 / (taken / 1e3)


def exponent(lengths: Iterable[int], milliseconds: Iterable[float]) -> float:
    """Slope of log time over log length: 1 is linear, 2 quadratic, 0 independent."""
    x, y = np.log(list(lengths)), np.log(list(milliseconds))
    return float(np.polyfit(x, y, 1)[0])


def study(names: Iterable[str] = (), rounds: int = 5, n_users: int = 200) -> dict[str, Any]:
    """Costs of the named models, or of all.

    Args:
        names: registered models.
        rounds: turns of every measurement.
        n_users: of the world whose histories are read.

    Raises:
        ValueError: a model that does not exist.
    """
    runtime.setup(threads=1, seed=0)
    chosen = list(names) or list(seqlib.available())
    if unknown := set(chosen) - set(seqlib.available()):
        raise ValueError(f"no model {sorted(unknown)}; there are {', '.join(seqlib.available())}")
    world = make_world("course", seed=0, n_users=n_users)
    models = {name: seqlib.build(name, world.spec, seed=0) for name in chosen}
    reads = {name: LONG if name.startswith(SEARCHES) else SHORT for name in chosen}
    peak = product_peak()
    training = _training(models, reads, world, rounds)
    inference = {
        c: in_turns(
            {n: _asked(m, world, reads[n], c) for n, m in models.items()},
            rounds,
        )
        for c in CANDIDATES
    }
    by_length = {
        length: in_turns({n: _asked(m, world, length, 16) for n, m in models.items()}, rounds)
        for length in LENGTHS
    }
    rows = []
    for name, model in models.items():
        taken = [by_length[length][name] for length in LENGTHS]
        flops = model.flops(1, CANDIDATES[1], reads[name])
        per_second = flops / (inference[CANDIDATES[1]][name] / 1e3)
        rows.append(
            {
                "model": name,
                "events": reads[name],
                "training_ms": round(training[name], 3),
                "inference_ms": {str(c): round(inference[c][name], 3) for c in CANDIDATES},
                "length_ms": {str(n): round(ms, 3) for n, ms in zip(LENGTHS, taken, strict=True)},
                "length_exponent": round(exponent(LENGTHS, taken), 2),
                "share_of_peak": round(per_second / peak, 4),
            }
        )
    return {
        "rounds": rounds,
        "peak_gflops": round(peak / 1e9, 1),
        "rows": rows,
        "loader_events_per_second": _data_path(world, rounds),
    }


def _training(
    models: dict[str, Ranker], reads: dict[str, int], world: World, rounds: int
) -> dict[str, float]:
    """Median milliseconds of a training step on 16 long lives, 4 candidates each."""
    longest = np.sort(np.argsort(-world.train.extra["index_in_life"])[:16]).astype(np.int64)
    batches = {
        length: BatchLoader(world.log, world.train, length=length, candidates=4).batch(longest)
        for length in set(reads.values())
    }
    steps = {name: partial(_step, m, batches[reads[name]]) for name, m in models.items()}
    return in_turns(steps, rounds)


def _step(model: Ranker, batch: RequestBatch) -> None:
    model.train()
    model.zero_grad()
    terms = supervised(model.tasks)(model, batch)
    torch.stack(list(terms.values())).sum().backward()


def _asked(model: Ranker, world: World, length: int, n_candidates: int) -> Callable[[], Any]:
    request = one_long_life(world.log, length, n_candidates, seed=0)

    @torch.no_grad()
    def ask() -> Any:
        return model.eval()(request)

    return ask


def _data_path(world: World, rounds: int) -> dict[str, int]:
    """Events per second that a loader cuts from the log, by length."""
    out = {}
    for length in LENGTHS:
        loader = BatchLoader(world.log, world.test, length=length, batch_size=32)
        rows = np.arange(min(32, len(world.test)))
        cut = partial(loader.batch, rows)
        n_events = int(cut().request.events.mask.sum())
        taken = in_turns({"cut": cut}, 10 * rounds)["cut"]
        out[str(length)] = round(n_events / (max(taken, 1e-3) / 1e3))
    return out


def table(result: dict[str, Any]) -> str:
    """A result as text: milliseconds, and beside them the ratio to the cheapest."""
    head = f"{'model':<20}{'events':>7}{'train':>9}{'1':>9}{'100':>9}{'1,000':>9}{'exponent':>10}{'peak':>7}"
    lines = [
        f"medians of processor time in ms, one thread, {result['rounds']} rounds in turns",
        head,
    ]
    for r in result["rows"]:
        ms = r["inference_ms"]
        lines.append(
            f"{r['model']:<20}{r['events']:>7,}{r['training_ms']:>9.1f}{ms['1']:>9.2f}"
            f"{ms['100']:>9.2f}{ms['1000']:>9.1f}{r['length_exponent']:>10.2f}"
            f"{r['share_of_peak']:>7.0%}"
        )
    cut = ", ".join(
        f"{int(n):,}: {v / 1e6:.0f} M" for n, v in result["loader_events_per_second"].items()
    )
    return "\n".join(
        [*lines, f"matrix product {result['peak_gflops']} GFLOP/s; loader, events/s at L = {cut}"]
    )
