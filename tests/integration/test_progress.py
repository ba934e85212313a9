"""The progress line: there for a person at a terminal, nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.processes

ARGUMENTS = ("--llem-cpu", "--llem-meter=none", "--llem-rounds=3", "--llem-min-window=0.1")


def on_a_terminal(folder: Path, *arguments: str) -> str:
    """What pytest writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *ARGUMENTS, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other end was closed
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    assert process.wait() == 0
    return written.decode()


def test_a_person_at_a_terminal_sees_how_far_it_is(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    write()
    shown = on_a_terminal(pytester.path)
    assert "tiny: round 1 of 3, about" in shown
    assert "1 passed" in shown
    assert "round 1 of 3" not in on_a_terminal(pytester.path, "-q")


def test_a_log_has_no_progress(run: Callable[..., pytest.RunResult], write: Callable[..., Path]) -> None:
    write()
    result = run(*ARGUMENTS[1:])
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*round 1 of 3*")
