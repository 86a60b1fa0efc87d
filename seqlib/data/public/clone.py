"""A git clone read without its settings: nothing in it, and nothing of its user's, runs or counts.

git starts the programs that a configuration names (checkers of signatures, pagers, file-system
monitors, transports that fetch a missing object), and lets it change what ``git log`` prints. So
git never works in the clone's own directory. It works in an empty one of ours, on the objects of
the clone:

    clone/.git/HEAD, refs, packed-refs   read here, for the id of one commit
    clone/.git/objects                   git's, by GIT_OBJECT_DIRECTORY
    clone/.git/config, hooks, info, …    not read; nor are the user's and the system's settings
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST_REFS = 5  # symbolic references that git follows from HEAD

# Caches of the clone (commit graph, index over packs) could say other than its objects do.
# Identities are united by the .mailmap of the commit that is read.
_SETTINGS = """\
[core]
\trepositoryFormatVersion = {version}
\tbare = true
\tcommitGraph = false
\tmultiPackIndex = false
[mailmap]
\tblob = HEAD:.mailmap
"""


class GitError(ValueError):
    """The path can't be read as a git history; the message says why and what would help."""


@dataclass(frozen=True)
class Clone:
    """A clone at its newest commit; made by ``opened``.

    Attributes:
        path: as it was given. head: id of the commit; ``HEAD`` means it in every question.
        environment: of every git process.
    """

    path: Path
    head: str
    environment: Mapping[str, str]

    def ask(self, *args: str) -> str | None:
        """git's answer, without white space around it; None where git fails."""
        return _ask(self.environment, *args)

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """A git process whose standard output is to be read."""
        return subprocess.Popen(
            _command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )


@contextmanager
def opened(path: str | Path) -> Iterator[Clone]:
    """The clone whose root is ``path`` (or a bare one, or a linked work tree), to be read.

    Whose clone it is does not matter, as nothing in it is run.

    Raises:
        GitError: no such path, not the root of a clone, no commit, or a history that was cut off.
    """
    path = Path(path)
    if not path.is_dir():
        raise GitError(f"{path} does not exist or is no folder; give the root of a git clone")
    folder = _git_folder(path)
    if folder is None:
        if any(_git_folder(parent) for parent in path.resolve().parents):
            raise GitError(f"{path} lies inside a git clone but is not its root; give the root")
        raise GitError(f"{path} is not a git clone; give the root of one (the folder with .git)")
    shared = _shared(folder)
    shallow = shared / "shallow"
    if shallow.is_file() and shallow.stat().st_size:
        raise GitError(
            f"{path} is a shallow clone: its history was cut off; "
            f"run 'git fetch --unshallow' in it first"
        )
    with tempfile.TemporaryDirectory(prefix="seqlib-git-") as name:
        ours = Path(name)
        environment = _environment(ours)
        if (shared / "reftable").is_dir():
            # Only git reads this format. It does so in the clone, but to name a commit git neither
            # looks at objects nor starts a program.
            head = _ask(environment | {"GIT_DIR": str(folder)}, "rev-parse", "--verify", "HEAD")
        else:
            head = _commit_id(folder, shared)
        if head is None:
            raise GitError(f"{path} is an empty clone: it has no commit on its current branch")
        _prepare(ours, head)
        where = {"GIT_DIR": str(ours), "GIT_OBJECT_DIRECTORY": str((shared / "objects").resolve())}
        clone = Clone(path, head, environment | where)
        _require_mailmap(clone)
        yield clone


def _command(*args: str) -> list[str]:
    return ["git", "--no-pager", "--no-optional-locks", *args]


def _environment(home: Path) -> dict[str, str]:
    """The caller's, but for all by which git is told what to read or to run."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return keep | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "LC_ALL": "C",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def _ask(environment: Mapping[str, str], *args: str) -> str | None:
    try:
        done = subprocess.run(
            _command(*args),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed; install it to read a clone's history") from error
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _prepare(ours: Path, head: str) -> None:
    """Make ``ours`` a git directory that stands at ``head``, without objects."""
    settings = _SETTINGS.format(version=0)
    if len(head) == 64:
        settings = _SETTINGS.format(version=1) + "[extensions]\n\tobjectFormat = sha256\n"
    (ours / "refs").mkdir()
    (ours / "config").write_text(settings)
    (ours / "HEAD").write_text(head + "\n")


def _require_mailmap(clone: Clone) -> None:
    """git would go on without a .mailmap that a partial clone lacks, and count other authors."""
    listed = clone.ask("ls-tree", "HEAD", ".mailmap")
    if listed and clone.ask("cat-file", "-e", "HEAD:.mailmap") is None:
        raise GitError(
            f"{clone.path} is a partial clone that lacks .mailmap; "
            f"run 'git show HEAD:.mailmap' in it first, or clone it whole"
        )


# --- where the clone keeps what ------------------------------------------------------------------


def _git_folder(path: Path) -> Path | None:
    """The git directory of the clone whose root is ``path``; None if it is no such root."""
    inside = path / ".git"
    if inside.is_file():  # of a linked work tree or a submodule; it names the directory
        text = _first_line(inside)
        inside = path / text.removeprefix("gitdir: ")
    for folder in (inside, path):
        if os.path.lexists(folder / "HEAD") and (_shared(folder) / "objects").is_dir():
            return folder
    return None


def _shared(folder: Path) -> Path:
    """Where all work trees of a clone keep objects and branches together."""
    common = folder / "commondir"
    return folder / _first_line(common) if common.is_file() else folder


def _commit_id(folder: Path, shared: Path) -> str | None:
    """What HEAD leads to; None if it leads to no commit."""
    name = "HEAD"
    for _ in range(_MOST_REFS + 1):
        files = [place / name for place in (folder, shared)]
        found = next((_first_line(file) for file in files if file.is_file()), None)
        if found is None:
            found = _packed(shared).get(name, "")
        if not found.startswith("ref:"):
            return found if _ID.fullmatch(found) else None
        name = found.removeprefix("ref:").strip()
        if not name.startswith("refs/") or ".." in name:
            return None
    return None


def _packed(shared: Path) -> dict[str, str]:
    """Name -> id of the references that stand together in one file."""
    file = shared / "packed-refs"
    if not file.is_file():
        return {}
    lines = file.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    pairs = [line.split(" ", 1) for line in lines if line[:1] not in ("#", "^", "")]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def _first_line(file: Path) -> str:
    """The text of a small file of git's, whose names may be in any encoding."""
    return os.fsdecode(file.read_bytes()[:10_000]).split("\n", 1)[0].rstrip("\r")
