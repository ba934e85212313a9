"""A git repository with two commits."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_llem.session.against.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


@pytest.fixture
def git() -> Callable[..., str]:
    def run(folder: Path, *arguments: str) -> str:
        command = ["git", *IDENTITY, "-c", "protocol.file.allow=always", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    return run


@pytest.fixture
def make_repository(tmp_path: Path, git: Callable[..., str]) -> Callable[[str], Repository]:
    def make(name: str) -> Repository:
        folder = tmp_path / name
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")
        for number in ("first", "second"):
            (folder / "a.py").write_text(f"{number} = 1\n")
            git(folder, "add", "-A")
            git(folder, "commit", "-q", "-m", f"The {number}")
            git(folder, "tag", number)
        return Repository(folder)

    return make


@pytest.fixture
def repository(
    make_repository: Callable[[str], Repository], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_repository("repository")
