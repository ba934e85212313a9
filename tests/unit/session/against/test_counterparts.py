"""What of the user's checkout has a counterpart in another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.session.against.counterparts import Counterparts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def counterparts(tmp_path: Path) -> Counterparts:
    for name in ("repository/tests", "repository/.venv", "worktree", "outside", "repository-2"):
        (tmp_path / name).mkdir(parents=True)
    return Counterparts(tmp_path / "repository", tmp_path / "worktree", (tmp_path / "repository/.venv",))


@pytest.mark.parametrize(
    ("argument", "counterpart"),
    [
        ("{tmp}/repository/tests/a.py::b[c::/d]", "{tmp}/worktree/tests/a.py::b[c::/d]"),
        ("{tmp}/repository", "{tmp}/worktree"),
        ("{tmp}/repository-2", "{tmp}/repository-2"),
        ("{tmp}/outside/../repository/tests", "{tmp}/worktree/tests"),
        ("{tmp}/link/tests", "{tmp}/worktree/tests"),
        ("tests/a.py", "tests/a.py"),
        ("../outside", "{tmp}/outside"),
        ("../repository/tests", "{tmp}/worktree/tests"),
        ("-c{tmp}/repository/a.ini", "-c{tmp}/worktree/a.ini"),
        ("--confcutdir={tmp}/repository", "--confcutdir={tmp}/worktree"),
        ("--rootdir=.", "--rootdir=."),
        ("--llem-against=@{tmp}/repository/.venv", "--llem-against=@{tmp}/repository/.venv"),
        ("-k", "-k"),
        ("a or b", "a or b"),
        ("", ""),
    ],
)
def test_arguments(counterparts: Counterparts, tmp_path: Path, argument: str, counterpart: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "repository")
    argument, counterpart = (text.replace("{tmp}", str(tmp_path)) for text in (argument, counterpart))
    assert counterparts.arguments([argument], tmp_path / "repository") == [counterpart]


def test_relative_arguments_from_outside_the_repository(counterparts: Counterparts, tmp_path: Path) -> None:
    there = counterparts.arguments(["repository/tests", "outside", "--rootdir=repository", "--maxfail=1"], tmp_path)
    assert there == [f"{tmp_path}/worktree/tests", "outside", f"--rootdir={tmp_path}/worktree", "--maxfail=1"]


@pytest.mark.parametrize("name", ["repository", "outside"])
def test_names_of_tests_are_no_paths(counterparts: Counterparts, tmp_path: Path, name: str) -> None:
    for option in ("-k", "-m"):
        assert counterparts.arguments([option, name, "repository"], tmp_path) == [
            option,
            name,
            f"{tmp_path}/worktree",
        ]


def test_variables_that_name_paths(counterparts: Counterparts, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    given = {
        "PYTHONPATH": f"{folder}:{tmp_path}/outside:tests::{folder}/.venv/lib:{folder}/src",
        "PYTEST_ADDOPTS": f"-c '{folder}/a b.ini' -x",
    }
    there = counterparts.environment(given, folder, [tmp_path / "worktree"])
    assert there == {
        "PYTHONPATH": f"{tmp_path}/worktree:{tmp_path}/outside:tests::{folder}/.venv/lib:{tmp_path}/worktree/src",
        "PYTEST_ADDOPTS": f"-c '{tmp_path}/worktree/a b.ini' -x",
    }
    assert counterparts.environment({}, folder, []) == {}
