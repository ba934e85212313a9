"""The git repository of the code under test, read and never changed: what a revision is, and what is not committed."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llem.cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MISLEADING = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)
"""Variables that git sets for its hooks: in another folder they name the wrong repository."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what git's hooks put into it."""
    return {name: value for name, value in environment.items() if name not in MISLEADING}


class GitError(Exception):
    """git refused; the text is what it said."""


class Repository:
    """The repository that holds a folder.

    Attributes:
        top: the folder of its files, without links.
        common: its own folder, shared by its worktrees.
    """

    def __init__(self, folder: Path) -> None:
        """Find it.

        Raises:
            GitError: there is none, or git is missing.
        """
        self.top = folder
        lines = self.git("rev-parse", "--show-toplevel", "--git-common-dir").splitlines()
        self.top = Path(lines[0]).resolve()
        self.common = (folder / lines[1]).resolve()

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        """What git prints, run in ``folder``, else at the top.

        Raises:
            GitError: it failed, or is missing.
        """
        # The user's hooks are for the user's own checkouts.
        command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
        try:
            done = subprocess.run(  # noqa: S603  (without a shell)
                command,
                cwd=folder or self.top,
                env={**clean_environment(os.environ), "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise GitError("git is not installed") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            # Around it may be what git does, and what to do.
            fatal = [line.removeprefix("fatal: ") for line in said if line.startswith("fatal: ")]
            raise GitError([*fatal, *said, f"git ended with exit status {done.returncode}"][0])
        return done.stdout.decode(errors="surrogateescape").rstrip("\n")

    def commit_of(self, rev: str) -> str:
        """The hash of the commit that a revision names.

        Raises:
            pytest.UsageError: it names none.
        """
        try:
            # No revision begins with a dash, which git would read as an option, and ^rev is what is not in one.
            if rev.startswith(("-", "^")):
                raise GitError
            # In two steps: what follows :/ is text.
            found = self.git("rev-parse", "--verify", "--quiet", rev)
            return self.git("rev-parse", "--verify", "--quiet", f"{found}^{{commit}}")
        except (GitError, ValueError):  # a NUL in it
            hint = ""
            if rev.startswith("@"):
                hint = "; an interpreter is written as a path: @/usr/bin/python3"
            elif (self.common / "shallow").exists():
                hint = "; this clone is shallow: fetch that revision first"
            raise pytest.UsageError(f"--llem-against: {rev!r} is no revision of {self.top}{hint}") from None

    def head(self) -> str | None:
        """The hash of the commit that is checked out; ``None`` before the first."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        except GitError:
            return None

    def subject_of(self, commit: str) -> str:
        """The short hash of a commit and the first line of its message."""
        return self.git("log", "-1", "--format=%h (%s)", commit)

    def changed(self, commit: str, experiments: Sequence[str]) -> list[str]:
        """The files that differ from a commit, and Python files that git does not know; not the experiment files.

        Args:
            experiments: patterns of experiment files.
        """
        # Submodules alone are compared by what is checked out in them, files that are new in them included.
        listed = self.git("diff", "--name-only", "-z", "--no-ext-diff", commit, "--", ".", *_without(experiments))
        return sorted({*_split(listed), *self._untracked()})

    def state(self, commit: str, experiments: Sequence[str]) -> str:
        """Hash of how the files differ from a commit, as of :meth:`changed`; empty where none does."""
        options = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=diff")
        difference = self.git("diff", *options, commit, "--", ".", *_without(experiments))
        untracked = self._untracked()
        if not difference and not untracked:
            return ""
        digest = hashlib.sha256(difference.encode(errors="surrogateescape"))
        for name in untracked:
            digest.update(f"\0{name}\0".encode(errors="surrogateescape"))
            try:
                digest.update((self.top / name).read_bytes())
            except OSError:  # removed meanwhile, or a link to nowhere
                digest.update(b"\0")
        return digest.hexdigest()

    def _untracked(self) -> list[str]:
        found = _split(self.git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py"))
        # The environments of other revisions, where the cache lies in the repository, are none of its code.
        return sorted(name for name in found if not (self.top / name).is_relative_to(cache_folder().resolve()))


def _split(listed: str) -> list[str]:
    return [name for name in listed.split("\0") if name]


def _without(patterns: Sequence[str]) -> list[str]:
    return [f":(exclude,glob)**/{pattern}" for pattern in patterns]
