"""What of the user's checkout has a counterpart in another one: paths, pytest's arguments, experiment files."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Counterparts:
    """From one checkout to another.

    Attributes:
        top: the folder of the user's checkout, without links.
        worktree: the folder of the other one.
        kept: folders in the user's checkout that hold no code of it, as that of a virtual environment.
    """

    top: Path
    worktree: Path
    kept: tuple[Path, ...] = ()

    def path(self, path: Path) -> Path:
        """The counterpart of an absolute path; the same path outside the repository."""
        # By its name first: a link in the repository is one in the other checkout.
        for name in (Path(os.path.normpath(path)), path.resolve()):
            if name.is_relative_to(self.top):
                if any(name.is_relative_to(kept) for kept in self.kept):
                    return path
                return self.worktree / name.relative_to(self.top)
        return path

    def arguments(self, arguments: Sequence[str], folder: Path) -> list[str]:
        """pytest's arguments, called in ``folder``, for its counterpart."""
        # What follows these selects by name, whatever lies there under it.
        names = [previous in ("-k", "-m") for previous in ("", *arguments)]
        return [
            argument if is_name else self._argument(argument, folder)
            for argument, is_name in zip(arguments, names, strict=False)
        ]

    def _argument(self, argument: str, folder: Path) -> str:
        option, value = "", argument
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            option += equals
        elif argument.startswith("-"):
            # The value of a short option follows it at once: -c/repository/pytest.ini.
            option, value = argument[:2], argument[2:]
            if not _is_absolute(value):
                # Known as a path by its look alone: -rs, -vv.
                return argument
        path, *parts = value.split("::")
        return option + "::".join([self._text(path, folder), *parts])

    def _text(self, path: str, folder: Path) -> str:
        """The counterpart of what may be a path, from ``folder``."""
        if not _is_absolute(path):
            if not self._leaves(path, folder):
                # From the counterpart of the folder it means its counterpart.
                return path
            place = Path(os.path.normpath(folder / path))
            there = self.path(place)
            # A folder outside is its own counterpart, so that what lies outside needs no other name.
            return path if there == place and self.path(folder) == folder else str(there)
        return str(self.path(Path(path)))

    def _leaves(self, path: str, folder: Path) -> bool:
        """Whether a relative path is one of an existing file, and steps out of the repository."""
        folder = folder.resolve()
        if folder.is_relative_to(self.top):
            return os.path.normpath(folder.relative_to(self.top) / path).startswith("..") and _exists(folder / path)
        return _exists(folder / path)

    def environment(self, variables: Mapping[str, str], folder: Path, first: Sequence[Path]) -> dict[str, str | None]:
        """Changes to environment variables that name paths.

        Args:
            folder: where pytest was called.
            first: folders that come first on the path of Python.
        """
        given = variables.get("PYTHONPATH")
        entries = [] if not given else given.split(os.pathsep)
        path = [*map(str, first), *(self._text(entry, folder) for entry in entries)]
        changes: dict[str, str | None] = {}
        if path:
            changes["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
        if options := variables.get("PYTEST_ADDOPTS"):
            changes["PYTEST_ADDOPTS"] = shlex.join(self.arguments(shlex.split(options), folder))
        return changes

    def place_experiments(self, patterns: Sequence[str], files: Sequence[Path], root: Path) -> None:
        """Make the experiment files of the other checkout those that the user's session collected.

        Their text is read from the user's checkout, where relative paths in them mean what they say.

        Args:
            patterns: of experiment files.
            files: those that were collected; what lies outside the repository is the same on both sides.
            root: pytest's root folder, in the user's checkout.
        """
        there = self.path(root.resolve())
        for path in list(self.worktree.rglob("*")):
            if any(path.match(pattern) for pattern in patterns) and not path.is_dir():
                path.unlink()
        for file in files:
            place = there / file.relative_to(root) if file.is_relative_to(root) else self.path(file)
            if place == file:
                continue
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(f"# Read from {file}.\n", encoding="utf-8")
            except OSError as error:
                raise pytest.UsageError(f"--llem-against: {file} has no place on the other side: {error}") from None


def _is_absolute(path: str) -> bool:
    return path.startswith(os.sep)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no path at all
        return False
