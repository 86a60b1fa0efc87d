"""The file from which an interrupted run goes on: of one run, written by one, whole or absent."""

from __future__ import annotations

import fcntl
import glob
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .data.files import whole_file
from .data.identity import differences, digest, text_digest

FORMAT = 2


class Checkpoint:
    """State of a run on disk, with the recipe that determines the run.

    Args:
        path: the file; its folder is made.
        recipe: nested mappings that JSON can hold; only a run of the same recipe may go on.
    """

    def __init__(self, path: str | Path, recipe: dict[str, Any]) -> None:
        self.path, self.recipe = Path(path), recipe

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the file against other runs; then no half-written one can be a living run's.

        The system frees the lock when a process dies, however it dies.

        Raises:
            ValueError: another run holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(self.path.name + ".lock")
        with _locked(lock, self.path):
            for left in self.path.parent.glob(glob.escape(self.path.name) + ".*.partial"):
                left.unlink(missing_ok=True)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file by this state: tensors and plain values, nested."""
        body = {"recipe": self.recipe, "state": state}
        with whole_file(self.path) as partial:
            torch.save({"format": FORMAT, **body, "digest": _digest(body)}, partial)

    def read(self) -> dict[str, Any] | None:
        """The state in the file; None if there is no file.

        Raises:
            ValueError: truncated or damaged, or of another run; names what differs.
        """
        if not self.path.exists():
            return None
        found = self._load()
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(
                f"{self.path} is no checkpoint of this seqlib; delete it or give another path"
            )
        body: dict[str, Any] = {name: found.get(name) for name in ("recipe", "state")}
        if _digest(body) != found.get("digest"):
            raise ValueError(self._unreadable("its content does not have its checksum"))
        if differs := differences(body["recipe"], self.recipe):
            raise ValueError(
                f"{self.path} is a checkpoint of another run; it differs in {', '.join(differs)}"
            )
        return body["state"]

    def _load(self) -> Any:
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except PermissionError:
            raise
        except Exception as error:  # a damaged archive or pickle fails in a dozen ways
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(self._unreadable(why)) from error

    def _unreadable(self, why: str) -> str:
        return (
            f"{self.path} is no readable checkpoint; it may be truncated or damaged: delete it to "
            f"train from the start ({why})"
        )


def _digest(body: Any) -> str:
    """Over all tensors and plain values in nested dictionaries and lists."""
    tensors: dict[str, Tensor] = {}
    plain: list[str] = []

    def walk(value: Any, at: str) -> None:
        if isinstance(value, Tensor):
            tensors[at] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{at}.{key}")
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                walk(inner, f"{at}.{i}")
        else:
            plain.append(f"{at} {value!r}")

    walk(body, "")
    return text_digest(digest(tensors) + json.dumps(plain))


@contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    """Hold ``lock``, a file that its holder removes at the end. It names its holder."""
    while True:
        with lock.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise ValueError(
                    f"{path} is the checkpoint of a run that is going on (process "
                    f"{handle.read() or 'unknown'}); wait for it or give another path"
                ) from error
            # Its last holder may have removed the file after it was opened here.
            if _is_at(handle, lock):
                handle.truncate(0)
                handle.write(str(os.getpid()))
                handle.flush()
                yield
                return


def _is_at(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that a model on this device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Go on drawing where ``rng_state`` was taken; another kind of device keeps its own state."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
