"""Checkouts of other revisions: the real git, in repositories of the tests' own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from pytest_llem.session.against.repository import GitError, Repository
from pytest_llem.session.against.worktrees import open_worktree, remove_folder

if TYPE_CHECKING:
    from collections.abc import Callable


def count(repository: Repository) -> int:
    return len(repository.git("worktree", "list").splitlines()) - 1


def test_a_checkout_of_its_own_removed_at_the_end(repository: Repository, capfd: pytest.CaptureFixture[str]) -> None:
    hook = repository.common / "hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    commit = repository.commit_of("first")
    with open_worktree(repository, commit, print) as one, open_worktree(repository, commit, print) as another:
        assert (one / "a.py").read_text() == "first = 1\n"
        assert one != another
        assert count(repository) == 2
        (one / "folder").mkdir()
        (one / "folder/file").write_text("")
        for name in ("folder/file", "folder", ".git", "."):
            (one / name).chmod(0o500)
        (another / ".git").unlink()
        assert not (one / "hooked").exists()
    assert not list(one.parent.glob("*-*"))
    assert count(repository) == 0
    assert (repository.top / "a.py").read_text() == "second = 1\n"
    assert capfd.readouterr().out == ""


def test_read_only_folders_are_removed_and_links_not_followed(request: pytest.FixtureRequest) -> None:
    if os.geteuid() == 0:
        # root may write everywhere.
        os.seteuid(65534)
        request.addfinalizer(lambda: os.seteuid(0))
    folder, outside = Path(tempfile.mkdtemp(dir="/tmp")), Path(tempfile.mkdtemp(dir="/tmp"))
    request.addfinalizer(outside.rmdir)
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("")
    (folder / "link").symlink_to(outside)
    for path, mode in ((folder / "a/b", 0o500), (folder / "a", 0), (folder, 0o500), (outside, 0o500)):
        path.chmod(mode)
    remove_folder(folder)
    assert not folder.exists()
    assert outside.stat().st_mode & 0o777 == 0o500


def test_what_a_dead_session_left_is_removed_and_the_users_own_worktrees_stay(
    repository: Repository, make_repository: Callable[[str], Repository], tmp_path: Path
) -> None:
    commit = repository.commit_of("first")
    # On a disk that is not there at present.
    repository.git("worktree", "add", "--detach", str(tmp_path / "users"), commit)
    (tmp_path / "users").rename(tmp_path / "elsewhere")
    other = make_repository("another")
    with open_worktree(repository, commit, print) as path:
        left = path.with_name("0" * 12 + "-left")
        repository.git("worktree", "add", "--detach", str(left), commit)
        half = path.with_name("0" * 12 + "-half")
        half.mkdir()
        for stale in (left, half):
            FileLock(f"{stale}.lock").acquire()  # and released at once: nobody keeps it
        with open_worktree(other, other.commit_of("first"), print):
            assert left.exists()
        with open_worktree(repository, commit, print):
            assert not left.exists()
            assert not half.exists()
            assert path.exists()
    assert not list(path.parent.glob("*-*"))
    assert "/users " in repository.git("worktree", "list")


def test_variables_of_gits_hooks_do_not_mislead(
    repository: Repository, make_repository: Callable[[str], Repository], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_repository("another")
    for name, value in (("GIT_DIR", other.common), ("GIT_INDEX_FILE", other.common / "index"), ("GIT_WORK_TREE", "/")):
        monkeypatch.setenv(name, str(value))
    found = Repository(repository.top)
    assert found.common == repository.common
    with open_worktree(found, found.commit_of("first"), print) as path:
        assert (path / "a.py").exists()
        assert count(repository) == 1
        assert count(other) == 0


@pytest.mark.parametrize(
    "rev", ["nowhere", "-n", "^main", "--all", "first:a.py", "first..second", "", "@python3", "a\0b"]
)
def test_what_is_no_revision_is_refused(repository: Repository, rev: str) -> None:
    with pytest.raises(pytest.UsageError, match="is no revision of "):
        repository.commit_of(rev)


def test_revisions_are_those_of_git(repository: Repository) -> None:
    first = repository.commit_of("first")
    assert {repository.commit_of(rev) for rev in ("main~1", "HEAD^", "@~", ":/first", first[:8])} == {first}


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GitError, match="not a git repository"):
        Repository(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git is not installed"):
        Repository(tmp_path)


def test_submodules_come_from_the_users_checkout(
    repository: Repository,
    make_repository: Callable[[str], Repository],
    git: Callable[..., str],
    tmp_path: Path,
) -> None:
    library = make_repository("library")
    for name in ("here", "absent"):
        git(repository.top, "submodule", "--quiet", "add", str(library.top), name)
    git(repository.top, "commit", "-q", "-m", "With submodules")
    # Nothing but what the checkout has is there.
    library.top.rename(tmp_path / "gone")
    (repository.common / "modules/absent").rename(tmp_path / "gone-too")
    before = (repository.common / "config").read_text()
    said: list[str] = []
    with open_worktree(repository, repository.commit_of("HEAD"), said.append) as path:
        assert (path / "here/a.py").exists()
        assert not (path / "absent/a.py").exists()
    assert said == [
        "llem: --llem-against: the submodule absent is empty on the other side: it is not checked out here either"
    ]
    assert not path.exists()
    assert (repository.common / "config").read_text() == before


def test_the_state_of_the_code_is_that_of_its_files(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(repository.top / "cache"))
    head = repository.head()
    assert head is not None
    patterns = ["*.llem.yaml"]
    assert repository.state(head, patterns) == ""
    states = set()
    (repository.top / "below").mkdir()
    (repository.top / "cache/pytest-llem").mkdir(parents=True)
    for name in ("below/x.llem.yaml", "notes.txt", "cache/pytest-llem/x.py"):
        (repository.top / name).write_text("no code\n")
        assert repository.state(head, patterns) == ""
        assert repository.changed(head, patterns) == []
    for name, text in (("a.py", "changed"), ("new.py", "1"), ("new.py", "2")):
        (repository.top / name).write_text(text)
        states.add(repository.state(head, patterns))
    assert len(states) == 3
    assert repository.changed(head, patterns) == ["a.py", "new.py"]
