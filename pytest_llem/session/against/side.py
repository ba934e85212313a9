"""One state of the code, and how its processes are started."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pytest_llem.session.against.repository import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: ``this side``, or what the user wrote.
        python: its interpreter.
        folder: working directory of its processes: this side's is where pytest was called, the other's its counterpart.
        root: pytest's root folder, and its counterpart.
        environment: changes to ``os.environ``; ``None`` for a variable that must not be set.
        arguments: pytest's, for its processes.
        commit: hash of the commit that its code is, or is based on; ``None`` where that is not known.
        identity: hash of its code and of the environment that the code runs in.
    """

    name: str
    python: Path
    folder: Path
    root: Path
    environment: Mapping[str, str | None] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    commit: str | None = None
    identity: str = ""

    def variables(self) -> dict[str, str]:
        """All environment variables of its processes."""
        changed = {**os.environ, **self.environment}
        return {name: value for name, value in changed.items() if value is not None}


def run_command(
    command: Sequence[str], variables: Mapping[str, str], folder: Path | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command of a side to its end.

    Args:
        variables: its environment variables; those of git's hooks are left out.
        folder: its working directory; default: this process's.
        given: what it reads.

    Raises:
        pytest.UsageError: it cannot be started.
    """
    try:
        return subprocess.run(  # noqa: S603  (without a shell)
            command,
            cwd=folder,
            env=clean_environment(variables),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise pytest.UsageError(f"--llem-against: {command[0]} cannot be started: {error}") from None
