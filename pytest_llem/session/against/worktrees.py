"""Checkouts of other revisions: git worktrees in the cache folder, each of one session and removed with it.

The user's own checkout is never touched. A session holds the lock of its worktree, a file that the operating system
locks (``flock``): that of a session which died, however it died, is free, and the next session with this repository
removes what it left.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock, Timeout

from pytest_llem.cache import cache_folder
from pytest_llem.session.against.repository import GitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_llem.session.against.repository import Repository


@contextmanager
def open_worktree(repository: Repository, commit: str, say: Callable[[str], None]) -> Iterator[Path]:
    """Check a commit out into a folder of its own, which is removed at the end.

    Args:
        say: called with what the checkout lacks.

    Raises:
        pytest.UsageError: git cannot, or the cache folder cannot be written.
    """
    key = hashlib.sha256(os.fsencode(repository.common)).hexdigest()[:12]
    try:
        folder = cache_folder().resolve() / "worktrees" / key
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{commit[:12]}-{secrets.token_hex(4)}"
        lock = FileLock(_lock_of(path))
        # Whoever looks for what dead sessions left sees a lock either held or free for good.
        with FileLock(folder / "guard"):
            _remove_stale(repository, folder)
            lock.acquire()
    except OSError as error:
        raise pytest.UsageError(f"--llem-against: the cache folder cannot be used: {error}") from None
    try:
        try:
            repository.git("worktree", "add", "--detach", "--force", str(path), commit)
        except GitError as error:
            raise pytest.UsageError(f"--llem-against: {commit[:12]} cannot be checked out: {error}") from None
        for problem in _update_submodules(repository, path):
            say(f"llem: --llem-against: {problem}")
        yield path
    finally:
        _remove(repository, path)
        lock.release()


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _remove_stale(repository: Repository, folder: Path) -> None:
    """Remove the worktrees of sessions that have ended without that."""
    for file in folder.glob("*.lock"):
        lock = FileLock(file)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        _remove(repository, file.with_suffix(""))
        lock.release()


def _remove(repository: Repository, path: Path) -> None:
    # Its folder first, whatever state it is in: git then forgets it. Twice --force: it may have died while git made it.
    remove_folder(path)
    with suppress(GitError):
        repository.git("worktree", "remove", "--force", "--force", str(path))
    # What could not be removed is tried again by the next session, which looks for locks.
    if not path.exists():
        _lock_of(path).unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, read-only folders included, as far as that can be."""
    _make_writable(path)
    for folder, subfolders, _ in os.walk(path):
        # Before it steps into them.
        for name in subfolders:
            _make_writable(Path(folder, name))
    shutil.rmtree(path, ignore_errors=True)


def _make_writable(folder: Path) -> None:
    # Where a link leads is nobody's to change.
    if not folder.is_symlink():
        with suppress(OSError):
            folder.chmod(stat.S_IRWXU)


def _update_submodules(repository: Repository, path: Path) -> Iterator[str]:
    """Check submodules out from what the user's checkout has of them, without the network.

    Yields:
        What cannot be.
    """
    if not (path / ".gitmodules").exists():
        return
    listed = repository.git("config", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$", folder=path)
    for line in listed.splitlines():
        key, _, submodule = line.partition(" ")
        name = key.removeprefix("submodule.").removesuffix(".path")
        local = repository.common / "modules" / name
        if not local.exists():
            yield f"the submodule {submodule} is empty on the other side: it is not checked out here either"
            continue
        # Said here, so that git writes nothing into the configuration that the user's checkout shares.
        options = ["-c", f"submodule.{name}.url={local}", "-c", "protocol.file.allow=always"]
        try:
            repository.git(*options, "submodule", "update", "--init", "--", submodule, folder=path)
        except GitError as error:
            yield f"the submodule {submodule} is empty on the other side: {error}"
            continue
        if (path / submodule / ".gitmodules").exists():
            yield f"the submodules inside {submodule} are empty on the other side"
