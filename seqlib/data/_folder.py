"""A data set's folder: replaced all at once, by replacing one small file; never a stranger's.

    spec.json           names what is valid: a set by its random id, and the digest of each file
    log.parquet, …      the files of that set
    .log.parquet.ID     a file of set ID on its way: written before spec.json names ID, renamed
                        after that. Where there is one of the valid set, it counts.

So whenever a writer dies, spec.json names the old set or the new one, and all its files are there.
A reader takes what one spec.json names and looks afterwards whether it still stands. Writers take
turns by a lock on the folder, which ends with its owner: what they find of another set is a dead
one's, and is deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from . import files
from .schema import SchemaError

T = TypeVar("T")
FORMAT = "seqlib data set 1"
HEAD = "spec.json"
KINDS = {
    "log.parquet": "event log",
    "train.parquet": "requests",
    "test.parquet": "requests",
    "items.parquet": "items",
}
# What every spec.json holds, also those from before there were digests.
FIELDS = {
    "name",
    "actions",
    "surfaces",
    "tasks",
    "base_rates",
    "key_field",
    "watch",
    "notes",
    "sizes",
}
_NAMES = "|".join(re.escape(name) for name in KINDS)
_ON_ITS_WAY = re.compile(
    rf"\.({_NAMES})\.[0-9a-f]{{16}}({files.PARTIAL})?|{re.escape(HEAD)}{files.PARTIAL}"
)
_MOST_EXCHANGES = 1_000  # a reader on a busy machine meets many


class Writing:
    """A new set on its way into a folder; ``writing`` makes it.

    Attributes:
        path: the folder. id: of the new set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = secrets.token_hex(8)

    def place(self, name: str) -> Path:
        """Where the file of this name is to be written."""
        return _staged(self.path, name, self.id)

    def commit(self, head: Mapping[str, Any]) -> None:
        """From here on the new set is what the folder holds."""
        digests = {name: files.digest(self.place(name)) for name in KINDS}
        told = {"format": FORMAT, "set": self.id, "files": digests, **head}
        told = json.loads(json.dumps(told))  # as it will be read again
        told["digest"] = _digest(told)
        with files.whole_file(self.path / HEAD) as partial:
            partial.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        _settle(self.path)


@contextlib.contextmanager
def writing(path: Path, replace: bool) -> Iterator[Writing]:
    """Alone in the folder, with a set to be filled and committed; without a commit all is as before.

    Raises:
        FileExistsError: there is something and ``replace`` is False, or something of others.
    """
    with _alone(path) as was_made:
        is_new = was_made or _make_room(path, replace)
        new = Writing(path)
        try:
            yield new
        finally:
            _settle(path)
            _clean(path)
            if is_new and not os.listdir(path):
                path.rmdir()


def require_room(path: Path, replace: bool) -> None:
    """Whether ``writing`` would be allowed, before much is computed. Raises as it does."""
    if os.path.lexists(path):
        with _alone(path):
            _make_room(path, replace)


def read_whole(path: Path, read: Callable[[dict[str, Any], dict[str, Path]], T]) -> T:
    """``read(head, places)`` of one set, whatever is written meanwhile.

    Args:
        read: gets what ``spec.json`` holds, and where each file is; it may be called again.

    Raises:
        FileNotFoundError: no data set there.
        SchemaError: a file is missing, changed, damaged or of another set, or ``read``'s own.
    """
    last = None
    vanished = 0
    for _ in range(_MOST_EXCHANGES):
        head = read_head(path)
        vanished = vanished if head.get("set") == last else 0
        last = head.get("set")
        try:
            result = read(head, _places(path, head))
        except FileNotFoundError:
            # Files on their way get their names between look-up and reading, each of them once.
            vanished += 1
            if vanished > len(KINDS):
                raise
            continue
        except SchemaError:
            if read_head(path).get("set") == last:
                raise
            continue
        if read_head(path).get("set") == last:
            return result
    raise SchemaError(f"{path} is replaced faster than it can be read; try again later")


def read_head(path: Path) -> dict[str, Any]:
    """What ``spec.json`` holds. Raises FileNotFoundError or SchemaError."""
    place = path / HEAD
    if not place.is_file():
        rest = ""
        if path.is_dir() and any(_ON_ITS_WAY.fullmatch(name) for name in os.listdir(path)):
            rest = "; a save was begun and not finished: save again"
        raise FileNotFoundError(f"{path} holds no data set: there is no {HEAD} in it{rest}")
    try:
        head = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{place} is damaged ({error}); write it again") from error
    if not isinstance(head, dict) or not head.keys() >= FIELDS:
        raise SchemaError(f"{place} is no data set's: it must hold {', '.join(sorted(FIELDS))}")
    if head.get("format", FORMAT) != FORMAT:
        raise SchemaError(
            f"{path} is a data set of format {head['format']!r}; this library reads {FORMAT!r}: "
            f"write it again"
        )
    if "format" in head and head.get("digest") != _digest(head):
        raise SchemaError(f"{place} is damaged, or was changed by hand; write it again")
    return head


def is_data_set(path: Path) -> bool:
    """Whether there is one, damaged or not; any other ``spec.json`` does not make one."""
    if not (path / HEAD).is_file():
        return False
    with contextlib.suppress(SchemaError):
        read_head(path)
        return True
    return any((path / name).is_file() for name in KINDS)


def discard(path: Path) -> None:
    """Delete a data set's files, also damaged ones, and nothing else: for a cache to begin anew."""
    with _alone(path):
        for name in (HEAD, *KINDS):
            (path / name).unlink(missing_ok=True)
        _clean(path)


# --- inside --------------------------------------------------------------------------------------


def _staged(path: Path, name: str, set_id: str) -> Path:
    return path / f".{name}.{set_id}"


def _places(path: Path, head: Mapping[str, Any]) -> dict[str, Path]:
    """Where each file of the set is, as it was written."""
    places = {}
    missing = []
    for name in KINDS:
        options = [_staged(path, name, head["set"])] if "set" in head else []
        options.append(path / name)  # looked at last, as files on their way end there
        found = next((place for place in options if place.is_file()), None)
        if found is None:
            missing.append(name)
        else:
            places[name] = found
    if missing:
        raise SchemaError(f"{path} lacks {missing}; write the data set again")
    for name, digest in head.get("files", {}).items():
        if files.digest(places[name]) != digest:
            raise SchemaError(
                f"{path / name} is not the file that {HEAD} names: it was truncated, damaged or "
                f"changed, or is another data set's; write the data set again"
            )
    return places


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """The only writer of a folder, made if there is none; True if it was made."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
            if not path.is_dir():
                raise FileExistsError(f"{path} exists and is no folder; choose another") from None
        with files.locked(path) as still_there:
            if still_there:  # or the writer that we waited for has taken the folder away
                yield is_new
                return


def _make_room(path: Path, replace: bool) -> bool:
    """End what dead writers began. True if nothing else was there, so that the folder is new.

    Raises:
        FileExistsError: as ``writing``. Nothing of anybody else was touched then.
    """
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    if entries and all(_is_on_its_way(entry) for entry in entries):
        _clean(path)
        return True
    if not replace:
        raise FileExistsError(f"{path} exists; choose another place or ask to replace it")
    if not entries:
        return False
    try:
        head = read_head(path)
    except (FileNotFoundError, SchemaError) as error:
        raise FileExistsError(
            f"{path} exists and is no data set; it is not replaced: it holds {entries[0].name}"
        ) from error
    _settle(path)
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if not _is_ours(entry, head):
            raise FileExistsError(
                f"{path} holds {entry.name}, which was not written with the data set or was "
                f"changed since; nothing was deleted: move it away, or choose another place"
            )
    _clean(path)
    return False


def _is_on_its_way(entry: os.DirEntry[str]) -> bool:
    return bool(_ON_ITS_WAY.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)


def _is_ours(entry: os.DirEntry[str], head: Mapping[str, Any]) -> bool:
    """Whether a save wrote this entry, as it is."""
    if _is_on_its_way(entry):
        return True
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name == HEAD:  # the digest of a newer one was compared
        return "set" in head or head.keys() == FIELDS
    if "set" in head:
        return head["files"].get(entry.name) == files.digest(entry.path)
    with contextlib.suppress(SchemaError):
        return entry.name in KINDS and bool(files.read_meta(entry.path, KINDS[entry.name]))
    return False


def _settle(path: Path) -> None:
    """Give the files of the valid set their names, if that has not been done."""
    with contextlib.suppress(FileNotFoundError, SchemaError):
        if set_id := read_head(path).get("set"):
            for name in KINDS:
                with contextlib.suppress(FileNotFoundError):
                    os.replace(_staged(path, name, set_id), path / name)


def _clean(path: Path) -> None:
    """Delete what is on its way; only for who is alone in the folder and has settled it."""
    for entry in list(os.scandir(path)):
        if _is_on_its_way(entry):
            os.unlink(entry.path)


def _digest(head: Mapping[str, Any]) -> str:
    """Of everything that stands in ``spec.json`` beside it, whatever the order."""
    rest = {key: value for key, value in head.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
