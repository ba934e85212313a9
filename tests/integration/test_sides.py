"""The two sides of a comparison, on a git repository of the test's own whose project is installed in a virtual
environment of its own, behind which lies the one that the tests run in."""

from __future__ import annotations

import json
import site
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

pytestmark = pytest.mark.processes

EXPERIMENT = "model: builtin:tiny-llama\n"

# Opens the sides as a session would, and says what there is meanwhile.
OPEN = """
import json, os, subprocess, sys
from dataclasses import asdict
from pathlib import Path
import pytest
from pytest_llem.session.against.sides import open_sides

given = json.loads(sys.argv[1])
said = []
root = Path(given["root"])
sides = open_sides(given["against"], root=root, folder=Path.cwd(), arguments=given["arguments"],
                   patterns=["*.llem.yaml"], files=[root / file for file in given["files"]], say=said.append)
try:
    with sides as both:
        told = []
        for side in both:
            done = subprocess.run([str(side.python), *given["command"]], cwd=side.folder, env=side.variables(),
                                  capture_output=True, text=True)
            told.append({**asdict(side), "output": done.stdout + done.stderr})
        print(json.dumps({"said": said, "sides": told}, default=str))
except pytest.UsageError as error:
    print(json.dumps({"said": said, "error": str(error)}))
"""

WHERE = "import thing; print(thing.VALUE, thing.__file__)"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Project:
    """A repository with two commits of the package ``thing``, and something not committed."""

    def __init__(self, folder: Path, setup: str | None, source: str = "src") -> None:
        self.folder = folder
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")
        if setup is not None:
            (folder / "pyproject.toml").write_text(setup)
        self.source = folder / source / "thing"
        self.source.mkdir(parents=True)
        self.write("committed first")
        self.commit("The first")
        git(folder, "tag", "first")
        self.write("committed second")
        self.commit("The second")
        self.write("not committed")

    def write(self, value: str) -> None:
        (self.source / "__init__.py").write_text(f"VALUE = {value!r}\n")

    def commit(self, message: str) -> None:
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", message)

    def worktrees(self) -> list[str]:
        return git(self.folder, "worktree", "list").splitlines()


SETUPTOOLS = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "thing"
version = "1"
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The folder of a virtual environment that sees what the tests' own sees."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages() if path in sys.path]
    (packages / "visible.pth").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def install(environment: Path) -> Callable[..., None]:
    def run_pip(folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "-q", "--no-index"]
        subprocess.run([*command, "--no-deps", "--no-build-isolation", *options, str(folder)], check=True)

    return run_pip


@pytest.fixture
def open_both(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def open_in_process(
        against: str,
        root: Path,
        *,
        folder: Path | None = None,
        arguments: Sequence[str] = (),
        files: Sequence[str] = (),
        command: Sequence[str] = ("-c", WHERE),
    ) -> dict[str, Any]:
        given = {"against": against, "root": root, "arguments": arguments, "files": files, "command": command}
        done = subprocess.run(
            [environment / "bin/python", "-c", OPEN, json.dumps(given, default=str)],
            cwd=folder or root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    return open_in_process


def test_a_revision_is_its_own_code_beside_an_editable_install(
    tmp_path: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", SETUPTOOLS)
    install(project.folder, "-e")
    told = open_both("first", project.folder)
    here, there = told["sides"]
    assert here["output"].startswith("not committed")
    assert there["output"].startswith("committed first")
