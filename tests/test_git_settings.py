"""A clone is data: no setting of it, or of its reader, runs a program or changes a number."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from test_public import ANN, day, git_in, make_clone, random_history

from seqlib.data import public
from seqlib.data.public.clone import GitError, opened

OPTIONS = {"min_events": 1, "candidates": 5, "positives": 2}
SIGNATURE = b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n aGVsbG8=\n -----END PGP SIGNATURE-----\n"

# Each names a program, MARK, in the way git would start it.
PROGRAMS = {
    "gpg.program": {"log.showSignature": "true", "gpg.program": "MARK"},
    "gpg.openpgp.program": {"log.showSignature": "true", "gpg.openpgp.program": "MARK"},
    "gpg.ssh.program": {"log.showSignature": "true", "gpg.ssh.program": "MARK"},
    "gpg.ssh.defaultKeyCommand": {"gpg.format": "ssh", "gpg.ssh.defaultKeyCommand": "MARK"},
    "gpg.x509.program": {"log.showSignature": "true", "gpg.x509.program": "MARK"},
    "core.pager": {"core.pager": "MARK"},
    "pager.log": {"pager.log": "MARK"},
    "pager.rev-list": {"pager.rev-list": "MARK", "pager.rev-parse": "MARK"},
    "core.fsmonitor": {"core.fsmonitor": "MARK"},
    "core.sshCommand": {"core.sshCommand": "MARK"},
    "core.gitProxy": {"core.gitProxy": "MARK"},
    "core.askPass": {"core.askPass": "MARK"},
    "core.editor": {"core.editor": "MARK", "sequence.editor": "MARK"},
    "core.hooksPath": {"core.hooksPath": "HOOKS"},
    "core.alternateRefsCommand": {"core.alternateRefsCommand": "MARK"},
    "diff.external": {"diff.external": "MARK"},
    "diff.textconv": {"diff.mine.textconv": "MARK", "diff.mine.command": "MARK"},
    "filter.clean": {"filter.mine.clean": "MARK", "filter.mine.smudge": "MARK"},
    "filter.process": {"filter.mine.process": "MARK", "filter.mine.required": "true"},
    "merge.driver": {"merge.mine.driver": "MARK"},
    "alias.log": {"alias.log": "!MARK", "alias.rev-list": "!MARK", "alias.rev-parse": "!MARK"},
    "credential.helper": {"credential.helper": "!MARK"},
    "interactive.diffFilter": {"interactive.diffFilter": "MARK"},
    "trailer.command": {"trailer.mine.command": "MARK", "trailer.mine.cmd": "MARK"},
    "browser": {"browser.mine.cmd": "MARK", "web.browser": "mine", "man.mine.cmd": "MARK"},
    "uploadpack.packObjectsHook": {"uploadpack.packObjectsHook": "MARK"},
    "protocol.ext": {"protocol.ext.allow": "always", "remote.origin.url": "ext::MARK"},
    "remote.uploadpack": {"remote.origin.uploadpack": "MARK", "remote.origin.promisor": "true"},
    "include.path": {"include.path": "INCLUDED"},
    "includeIf": {"includeIf.gitdir:/.path": "INCLUDED"},
    "trace2": {"trace2.eventTarget": "af_unix:MARK", "trace2.normalTarget": "LOG"},
    "difftool": {"diff.tool": "mine", "difftool.mine.cmd": "MARK", "mergetool.mine.cmd": "MARK"},
    "fsmonitor hook": {"core.fsmonitor": "MARK", "core.untrackedCache": "true"},
    "submodule.update": {"submodule.mine.update": "!MARK"},
    "sendemail": {"sendemail.smtpServer": "MARK", "imap.tunnel": "MARK"},
}

# Each changes what `git log` prints, counts or takes for an author.
CHANGES = {
    "signatures": {"log.showSignature": "true"},
    "mailmap off": {"log.mailmap": "false"},
    "mailmap.file": {"mailmap.file": "MAILMAP"},
    "mailmap.blob": {"mailmap.blob": "HEAD~1:.mailmap"},
    "dates": {"log.date": "format:%Y"},
    "one file": {"log.follow": "true"},
    "merges": {"log.diffMerges": "on"},
    "merges, old": {"log.diffMerges": "first-parent", "diff.merges": "separate"},
    "decoration": {"log.decorate": "full", "log.excludeDecoration": "refs/*"},
    "colour": {"color.ui": "always", "color.diff": "always"},
    "renames": {"diff.renames": "copies", "diff.renameLimit": "1000"},
    "prefix": {"diff.noprefix": "true", "diff.mnemonicPrefix": "true"},
    "quotes": {"core.quotePath": "true"},
    "encoding": {"i18n.logOutputEncoding": "UTF-16LE", "i18n.commitEncoding": "ISO-8859-1"},
    "format": {"format.pretty": "fuller", "pretty.mine": "format:%H"},
    "abbreviation": {"core.abbrev": "4", "log.abbrevCommit": "true"},
    "roots": {"log.showRoot": "false"},
    "order": {"diff.orderFile": "ORDER"},
    "submodules": {"diff.ignoreSubmodules": "all", "diff.submodule": "log"},
    "notes": {"notes.displayRef": "refs/notes/*", "core.notesRef": "refs/notes/commits"},
    "folder": {"diff.relative": "true", "core.worktree": "/"},
    "statistics": {"diff.statNameWidth": "3", "diff.wordRegex": "."},
    "case": {"core.ignoreCase": "true", "core.precomposeUnicode": "true"},
    "broken": {"core.abbrev": "nonsense"},
    "unknown format": {"core.repositoryFormatVersion": "99"},
    "unknown extension": {"core.repositoryFormatVersion": "1", "extensions.mine": "true"},
}


def events(path):
    """Everything that is read from a clone, as bytes."""
    data = public.git_history(path, **OPTIONS)
    arrays = [data.log.user, data.log.item, data.log.time, data.log.action]
    arrays += [part for r in (data.train, data.test) for part in (r.user, r.time, r.items)]
    arrays += [ids.numpy() for ids in data.spec.items.fields.values()]
    return [a.tobytes() for a in arrays], dict(data.spec.notes)


def signed(clone, which):
    """Sign the commits whose number, from the oldest, ``which`` accepts; the rest stays."""
    new: dict[bytes, bytes] = {}
    ids = git_in(clone, "rev-list", "--reverse", "HEAD").stdout.split()
    for i, old in enumerate(ids):
        raw = git_in(clone, "cat-file", "commit", old.decode()).stdout
        head, body = raw.split(b"\n\n", 1)
        for parent, now in new.items():
            head = head.replace(b"parent " + parent, b"parent " + now)
        head += b"\n" + SIGNATURE.rstrip(b"\n") * bool(which(i))
        raw = head.rstrip(b"\n") + b"\n\n" + body
        made = git_in(clone, "hash-object", "-t", "commit", "-w", "--stdin", input=raw)
        new[old] = made.stdout.strip()
    git_in(clone, "update-ref", "refs/heads/main", new[ids[-1]].decode())
    return clone


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three authors and a .mailmap that makes two of them one."""
    commits = random_history(3, 60)
    mailmap = "Name0 Surname0 <mail0@hidden.example> <mail1@hidden.example>\n"
    commits[1][2][".mailmap"] = "Nobody <nobody@hidden.example>\n"
    commits[30][2][".mailmap"] = mailmap
    return make_clone(tmp_path_factory.mktemp("settings") / "plain", commits)


@pytest.fixture(scope="module")
def expected(plain):
    return events(plain)


@pytest.fixture(scope="module")
def signed_clone(plain, tmp_path_factory):
    clone = tmp_path_factory.mktemp("settings") / "signed"
    shutil.copytree(plain, clone)
    return signed(clone, lambda i: i in (3, 20, 59))


@pytest.fixture
def trap(tmp_path):
    """A program that leaves a file behind, under every name by which settings could call it."""
    marker, program = tmp_path / "marker", tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {marker}\nexit 0\n')
    program.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor"):
        shutil.copy(program, hooks / name)
    included = tmp_path / "included"
    included.write_text(
        f"[log]\n\tshowSignature = true\n[gpg]\n\tprogram = {program}\n[core]\n\tpager = {program}\n"
    )
    mailmap = tmp_path / "mailmap"
    mailmap.write_text("Other <other@hidden.example> <mail2@hidden.example>\n")
    order = tmp_path / "order"
    order.write_text("dir3/*\n")
    names = {"MARK": program, "HOOKS": hooks, "INCLUDED": included, "MAILMAP": mailmap}
    names |= {"ORDER": order, "LOG": tmp_path / "trace.log"}

    def put(settings, file):
        for key, value in settings.items():
            for name, place in names.items():
                value = value.replace(name, str(place))
            git_in(tmp_path, "config", "--file", str(file), key, value)

    put.marker, put.program, put.hooks = marker, program, hooks
    return put


@pytest.fixture
def clone(signed_clone, tmp_path):
    """A copy of the signed clone, with hooks and attributes for every driver that a test names."""
    clone = tmp_path / "clone"
    shutil.copytree(signed_clone, clone)
    (clone / ".git" / "info").mkdir(exist_ok=True)
    (clone / ".git" / "info" / "attributes").write_text("* diff=mine filter=mine merge=mine\n")
    (clone / ".gitattributes").write_text("* diff=mine filter=mine merge=mine\n")
    return clone


def test_enough_settings_are_tried():
    assert len(PROGRAMS) >= 25
    assert len(CHANGES) >= 20


def test_the_trap_works_where_git_is_used_as_it_is(clone, trap):
    trap(PROGRAMS["gpg.program"], clone / ".git" / "config")
    git_in(clone, "log")
    assert "--verify" in trap.marker.read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_clone_runs_nothing(clone, trap, expected, name):
    for hook in trap.hooks.iterdir():
        shutil.copy(hook, clone / ".git" / "hooks" / hook.name)
    trap(PROGRAMS[name], clone / ".git" / "config")
    assert events(clone) == expected
    assert not trap.marker.exists()


@pytest.mark.parametrize("place", ["user", "xdg", "file", "system", "count", "parameters"])
def test_settings_of_the_reader_run_nothing(clone, trap, expected, monkeypatch, tmp_path, place):
    home = tmp_path / "home"
    (home / "git").mkdir(parents=True)
    every = {k: v for settings in PROGRAMS.values() for k, v in settings.items()}
    every |= CHANGES["mailmap.file"] | CHANGES["renames"] | CHANGES["one file"] | CHANGES["roots"]
    for name in [k for k in os.environ if k.startswith("GIT_")]:
        monkeypatch.delenv(name)
    file = home / (".gitconfig" if place == "user" else "git/config")
    trap(every, file)
    if place == "user":
        monkeypatch.setenv("HOME", str(home))
    elif place == "xdg":
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
        (home / "git" / "attributes").write_text("* diff=mine\n")
    elif place in ("file", "system"):
        monkeypatch.setenv(
            {"file": "GIT_CONFIG_GLOBAL", "system": "GIT_CONFIG_SYSTEM"}[place], str(file)
        )
    elif place == "count":
        monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "log.showSignature")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
        monkeypatch.setenv("GIT_CONFIG_KEY_1", "gpg.program")
        monkeypatch.setenv("GIT_CONFIG_VALUE_1", str(trap.program))
    else:
        both = f"'log.showSignature'='true' 'gpg.program'='{trap.program}'"
        monkeypatch.setenv("GIT_CONFIG_PARAMETERS", both)
    assert events(clone) == expected
    assert not trap.marker.exists()


def test_variables_of_the_environment_change_nothing(clone, trap, expected, monkeypatch, tmp_path):
    elsewhere = make_clone(tmp_path / "elsewhere", [(ANN, day(0), {"a": "1"})])
    for name in ("GIT_EXTERNAL_DIFF", "GIT_PAGER", "PAGER", "GIT_SSH", "GIT_SSH_COMMAND", "LESS",
                 "GIT_EDITOR", "GIT_ASKPASS", "SSH_ASKPASS", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH",
                 "GIT_TEMPLATE_DIR"):  # fmt: skip
        monkeypatch.setenv(name, str(trap.program))
    for name in ("GIT_DIR", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_GRAFT_FILE"):
        monkeypatch.setenv(name, str(elsewhere / ".git"))
    monkeypatch.setenv("GIT_ALTERNATE_OBJECT_DIRECTORIES", str(elsewhere / ".git" / "objects"))
    monkeypatch.setenv("GIT_WORK_TREE", str(elsewhere))
    monkeypatch.setenv("GIT_NAMESPACE", "other")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace.log"))
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(tmp_path / "trace.log"))
    monkeypatch.setenv("GIT_DIFF_OPTS", "-u9")
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    monkeypatch.setenv("GIT_NOTES_DISPLAY_REF", "refs/notes/*")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert events(clone) == expected
    assert not trap.marker.exists()
    assert not (tmp_path / "trace.log").exists()


@pytest.mark.parametrize("name", CHANGES)
def test_no_setting_of_a_clone_changes_a_number(clone, trap, expected, name):
    trap(CHANGES[name], clone / ".git" / "config")
    assert events(clone) == expected


def test_the_history_is_that_of_the_commits_alone(clone, expected):
    """Not of grafts, replaced commits, notes, an edited .mailmap or a stale commit graph."""
    ids = git_in(clone, "rev-list", "HEAD").stdout.decode().split()
    git_in(clone, "config", "user.name", "Ann")
    git_in(clone, "config", "user.email", ANN[1])
    git_in(clone, "notes", "add", "-m", "\x01note", ids[0])
    git_in(clone, "replace", ids[2], ids[30])
    git_in(clone, "commit-graph", "write", "--reachable")
    (clone / ".git" / "info" / "grafts").write_text(f"{ids[5]}\n")
    (clone / ".mailmap").write_text("Other <other@hidden.example> <mail2@hidden.example>\n")
    assert events(clone) == expected


@pytest.mark.parametrize(
    "which",
    [lambda i: i == 59, lambda i: i == 0, lambda i: i % 7 == 3, lambda i: True],
    ids=["newest", "oldest", "some", "all"],
)
@pytest.mark.parametrize("shown", [True, False])
def test_signed_commits_are_commits(plain, expected, tmp_path, which, shown):
    clone = tmp_path / "clone"
    shutil.copytree(plain, clone)
    signed(clone, which)
    git_in(clone, "config", "log.showSignature", str(shown).lower())
    assert events(clone) == expected


# --- whatever kind of clone it is ----------------------------------------------------------------


def test_a_partial_clone_fetches_nothing(plain, trap, tmp_path):
    clone = tmp_path / "partial"
    shutil.copytree(plain, clone)
    tree = git_in(clone, "rev-parse", "HEAD~10^{tree}").stdout.decode().strip()
    (clone / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    settings = PROGRAMS["remote.uploadpack"] | {"remote.origin.url": str(plain)}
    trap(settings | {"extensions.partialClone": "origin"}, clone / ".git" / "config")
    git_in(clone, "config", "core.repositoryFormatVersion", "1")
    with pytest.raises(GitError, match="could not read the whole history"):
        events(clone)
    assert not trap.marker.exists()


def test_a_clone_without_contents_is_enough_but_for_its_mailmap(plain, expected, tmp_path):
    git_in(plain, "config", "uploadpack.allowFilter", "true")
    for kind in ("--no-bare", "--bare"):
        place = tmp_path / f"clone{kind}"
        git_in(tmp_path, "clone", "-q", kind, "--filter=blob:none", plain.as_uri(), str(place))
        if kind == "--bare":
            with pytest.raises(GitError, match=r"lacks \.mailmap; run 'git show HEAD:\.mailmap'"):
                events(place)
            git_in(place, "show", "HEAD:.mailmap")
        assert events(place) == expected


@pytest.mark.parametrize("kind", ["packed", "detached", "bare", "shared", "work tree", "nested"])
def test_every_kind_of_clone_is_read(plain, expected, tmp_path, kind):
    clone = tmp_path / "clone"
    git_in(tmp_path, "clone", "-q", str(plain), str(clone))
    if kind == "packed":
        git_in(clone, "pack-refs", "--all")
        git_in(clone, "gc", "-q")
        assert not (clone / ".git" / "refs" / "heads" / "main").exists()
    elif kind == "detached":
        git_in(clone, "checkout", "-q", "--detach")
    elif kind == "bare":
        git_in(tmp_path, "clone", "-q", "--bare", str(plain), "bare")
        clone = tmp_path / "bare"
    elif kind == "shared":
        for i in range(3):
            git_in(tmp_path, "clone", "-q", "--shared", str(clone), f"shared{i}")
            clone = tmp_path / f"shared{i}"
    elif kind == "work tree":
        git_in(clone, "worktree", "add", "-q", "-b", "side", str(tmp_path / "tree"))
        clone = tmp_path / "tree"
        assert (clone / ".git").is_file()
    else:  # a reference that names another
        git_in(clone, "symbolic-ref", "refs/heads/other", "refs/heads/main")
        git_in(clone, "symbolic-ref", "HEAD", "refs/heads/other")
    assert events(clone) == expected


def test_a_submodule_is_read_as_the_clone_it_is(plain, expected, tmp_path):
    outer = make_clone(tmp_path / "outer", [(ANN, day(0), {"a": "1"})])
    allow = ("-c", "protocol.file.allow=always")
    git_in(outer, *allow, "submodule", "add", "-q", str(plain), "inner")
    assert (outer / "inner" / ".git").is_file()
    assert events(outer / "inner") == expected


def test_other_digests_are_read(tmp_path, plain, expected):
    clone = tmp_path / "clone"
    git_in(tmp_path, "init", "-q", "-b", "main", "--object-format=sha256", str(clone))
    stream = git_in(plain, "fast-export", "main").stdout
    git_in(clone, "fast-import", "--quiet", input=stream)
    with opened(clone) as reading:
        assert len(reading.head) == 64
    assert events(clone) == expected


def test_references_in_a_table_are_asked_of_git_and_run_nothing(clone, trap, expected):
    every = {k: v for settings in PROGRAMS.values() for k, v in settings.items()}
    trap(every, clone / ".git" / "config")
    (clone / ".git" / "reftable").mkdir()
    assert events(clone) == expected
    assert not trap.marker.exists()


def test_a_real_table_of_references(tmp_path, plain, expected):
    command = ["git", "clone", "-q", "--ref-format=reftable", str(plain), "clone"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and "unknown option" in done.stderr:
        pytest.skip("this git knows no reftable")
    assert events(tmp_path / "clone") == expected


def test_a_clone_of_somebody_else_is_read(clone, expected, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    done = subprocess.run(["git", "log", "-1"], cwd=clone, capture_output=True, text=True)
    assert "dubious ownership" in done.stderr
    assert events(clone) == expected


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none\n", "ref: ../../secret\n", "x\n"])
def test_a_head_that_leads_nowhere_is_an_empty_clone(clone, head):
    (clone / ".git" / "HEAD").write_text(head)
    with pytest.raises(GitError, match="is an empty clone: it has no commit"):
        events(clone)


def test_an_answer_that_is_no_list_of_commits_is_named(clone, tmp_path, monkeypatch):
    """As from a `git` of one's own that prints more than it was asked for."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    real = shutil.which("git")
    program.write_text(f'#!/bin/sh\ncase "$*" in *" log "*) echo hello;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(GitError, match="what is no list of commits"):
        events(clone)


def test_the_newest_commit_is_read_and_nothing_is_left(clone, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    head = git_in(clone, "rev-parse", "HEAD").stdout.decode().strip()
    with opened(clone) as reading:
        assert reading.head == head == reading.ask("rev-parse", "HEAD")
        assert len(list(place.iterdir())) == 1
    assert list(place.iterdir()) == []
