"""``python -m seqlib.serving``: build a store of item keys, answer requests from it, time it.

    python -m seqlib.data world --preset course --users 40 --out course
    python -m seqlib.serving twin build course --model twin.safetensors --store keys
    python -m seqlib.serving twin serve course --model twin.safetensors --store keys --rows 0 1 2
    python -m seqlib.serving twin bench course --model twin.safetensors

Whatever is wrong with the input is said in one line, with exit code 2. Nothing uses the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb
import numpy as np
import torch
from tqdm.auto import tqdm

from .. import runtime
from ..data.dataset import Dataset
from ..data.log import BatchLoader, Requests
from ..data.schema import Request
from ..models import registry
from ..models.ranker import Ranker
from ..train import FitConfig, fit
from .bench import timings
from .codecs import codec
from .rows import BLOCK_ROWS, RowStore
from .twin import TwinServer
from .twin_keys import KeyProjector, key_digest, popular_head, twin_of
from .twin_savings import PAPER_CYCLE, PAPER_POOL, PAPER_REDUCTION, break_even


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for bad input, 130 for an interruption)."""
    args = _parser().parse_args(argv)
    try:
        runtime.setup(threads=args.threads, seed=args.seed)
        print(_COMMANDS[args.command](args))
    except (ValueError, OSError, lmdb.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the store is as it was", file=sys.stderr)
        return 130
    return 0


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seqlib.serving", description="Serve a model from what was computed before."
    )
    systems = parser.add_subparsers(dest="system", required=True, metavar="SYSTEM")
    twin = systems.add_parser("twin", help="TWIN: projected item keys in a store")
    commands = twin.add_subparsers(dest="command", required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="project the items' keys into a store")
    build.add_argument("--store", type=Path, required=True, metavar="FOLDER")
    build.add_argument("--codec", default="float32", metavar="NAME",
                       help="of the rows: float32, float16, int8:LIMIT, int4")  # fmt: skip
    build.add_argument("--cover", type=float, default=1.0, metavar="SHARE",
                       help="only the popular items that make up this share of all events")  # fmt: skip
    build.add_argument("--slices", type=_positive, default=1, metavar="T",
                       help="renew only the next T-th of the items of a store that exists")  # fmt: skip
    build.add_argument("--block-rows", type=_positive, default=BLOCK_ROWS, metavar="N")
    build.add_argument("--train", action="store_true", help="train the model if there is none")
    build.add_argument("--epochs", type=_positive, default=1, help="of --train")

    serve = commands.add_parser("serve", help="answer requests of a data set")
    serve.add_argument("--store", type=Path, required=True, metavar="FOLDER")
    serve.add_argument("--rows", type=int, nargs="+", default=[0], metavar="R", help="of the split")
    serve.add_argument("--split", choices=("train", "test"), default="test")
    serve.add_argument("--missing", choices=("compute", "drop"), default="compute",
                       help="events whose item the store lacks")  # fmt: skip
    serve.add_argument("--stale", action="store_true", help="accept keys of another model")
    serve.add_argument("--json", action="store_true", help="one JSON object per request")

    bench = commands.add_parser("bench", help="latency with stored keys and without")
    bench.add_argument("--candidates", type=_positive, nargs="+", default=[1, 100, 1000])
    bench.add_argument("--rounds", type=_positive, default=20, help="of each, in turns")
    for command in (build, serve, bench):
        command.add_argument("data", type=Path, help="folder written by python -m seqlib.data")
        command.add_argument("--model", type=Path, required=True, metavar="FILE",
                             help="safetensors file of a saved TWIN")  # fmt: skip
        command.add_argument("--length", type=_positive, default=10_000, help="most events")
        command.add_argument("--threads", type=_positive, default=1)
        command.add_argument("--seed", type=int, default=0, help="of every draw")
    return parser


def _load(path: Path, data: Dataset) -> Ranker:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; train it: twin build --train")
    model = registry.load(path, data.spec)
    twin_of(model)
    return model


def _build(args: argparse.Namespace) -> str:
    data = Dataset.load(args.data)
    if args.model.exists() or not args.train:
        model = _load(args.model, data)
    else:
        model = registry.build("twin", data.spec, seed=args.seed)
        loader = BatchLoader(
            data.log, data.train, length=args.length, batch_size=16, shuffle=True, seed=args.seed
        )
        fit(model, loader, FitConfig(epochs=args.epochs), progress=True)
        registry.save(model, args.model)
    ids = None if args.cover == 1 else popular_head(data.log.item, args.cover)
    with (
        RowStore.open(args.store, create=True) as store,
        tqdm(desc="projecting keys", unit=" blocks", leave=False) as bar,
    ):
        projector = KeyProjector(store, ids, args.slices, args.codec, args.block_rows)

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        renew = projector.refresh_slice if args.slices > 1 else projector.refresh
        m = renew(model, time.time(), progress)
        n_items = len(data.spec.items)
        with store.snapshot() as view:
            covered = float((view.slots(torch.from_numpy(data.log.item)) >= 0).mean())
    return "\n".join(
        [
            f"model          {m.version}",
            f"generation     {m.generation}",
            f"rows           {m.rows:,} of {n_items:,} items, {m.shape[0]} x {m.codec}",
            f"covers         {covered:.1%} of the log's events",
            f"rows' bytes    {m.rows * codec(m.codec).nbytes(m.shape):,}",
        ]
    )


def _requests(args: argparse.Namespace, data: Dataset) -> Request:
    requests: Requests = getattr(data, args.split)
    rows = np.asarray(args.rows)
    if (bad := rows[(rows < 0) | (rows >= len(requests))]).size:
        raise ValueError(f"row {bad[0]} is not in {args.split}: it has rows 0..{len(requests) - 1}")
    return BatchLoader(data.log, requests, length=args.length).batch(rows).request


def _serve(args: argparse.Namespace) -> str:
    data = Dataset.load(args.data)
    model = _load(args.model, data)
    requests = _requests(args, data)
    out = []
    with RowStore.open(args.store, readonly=True) as store:
        store.verify()
        server = TwinServer(model, store, missing=args.missing, stale=args.stale)
        for i in tqdm(range(len(requests)), desc="serving", unit=" requests", leave=False):
            one = requests[i : i + 1]
            answer = server.answer(one)
            report = answer.reports[0]
            score = answer.probability[0]
            if args.json:
                out.append(json.dumps({
                    "row": args.rows[i], "user": int(one.user[0]), "items": one.items.id[0].tolist(),
                    "tasks": data.spec.task_names, "probability": score.tolist(),
                    "report": {k: None if v != v else v
                               for k, v in dataclasses.asdict(report).items()},
                }))  # fmt: skip
                continue
            age = (
                "no key" if not report.hits else f"{report.mean_age:.0f} s, {report.max_age:.0f} s"
            )
            out += [
                f"row {args.rows[i]}, user {int(one.user[0])}: {report.events:,} events, "
                f"{report.hits:,} hits, {report.misses:,} misses; mean and highest age {age}; "
                f"keys {'of this model' if report.fresh else 'of another model'}",
                "  item      " + "  ".join(f"{t:>10}" for t in data.spec.task_names),
            ]
            for item, row in zip(one.items.id[0].tolist(), score.tolist(), strict=True):
                out.append(f"  {item:<8}  " + "  ".join(f"{p:>10.6f}" for p in row))
    return "\n".join(out)


def _bench(args: argparse.Namespace) -> str:
    data = Dataset.load(args.data)
    model = _load(args.model, data)
    if len(data.log) < args.length:
        raise ValueError(
            f"{args.data} has {len(data.log):,} events; --length {args.length:,} needs as many: "
            f"draw more users or ask for less"
        )
    rows = timings(data, model, args.candidates, args.rounds, args.length, args.seed, bar=True)
    lines = [
        f"L = {args.length:,}, {len(data.spec.items):,} items, model {key_digest(model)}, "
        f"{args.threads} thread(s), {args.rounds} rounds in turns; milliseconds per request",
        f"{'candidates':>10}  {'keys':<16}{'p50':>9}{'p99':>9}{'best':>9}"
        f"{'MACs (M)':>10}{'GSU proj.':>11}",
    ]
    for r in rows:
        lines.append(
            f"{r['candidates']:>10,}  {r['keys']:<16}".ljust(28)
            + f"{r['p50']:>9.1f}{r['p99']:>9.1f}{r['best']:>9.1f}{r['macs'] / 1e6:>10.1f}"
            f"{r['projection'] / 1e6:>11.1f}"
        )
    now = rows[0]
    removed = now["projection"] - rows[1]["projection"]
    stage = now["projection"] + now["bias"]
    rate = break_even(PAPER_POOL, PAPER_CYCLE, reduction=PAPER_REDUCTION)
    lines += [
        f"projection stage of the GSU: {removed / 1e6:.1f} M of {stage / 1e6:.1f} M multiply-adds "
        f"removed ({removed / stage:.1%})",
        f"the paper states {PAPER_REDUCTION:.1%} without a derivation; 1 - (pool / cycle) / (users * "
        f"L) gives it at {rate:,.0f} requests per second",
    ]
    return "\n".join(lines)


_COMMANDS: dict[str, Callable[[argparse.Namespace], str]] = {
    "build": _build,
    "serve": _serve,
    "bench": _bench,
}

if __name__ == "__main__":
    sys.exit(main())
