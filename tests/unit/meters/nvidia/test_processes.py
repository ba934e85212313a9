"""Whose processes are on a board, by process tables made up of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.meters.nvidia.processes import foreign_pids, processes_are_hidden

if TYPE_CHECKING:
    from pathlib import Path

OWN = 100


def add(proc: Path, pid: int, parent: int, *, cuda: bool = False, name: str = "python") -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0 -1 4194304")
    (folder / "fd/0").symlink_to("/dev/null")
    (folder / "fd/1").symlink_to("/dev/nvidia0")
    if cuda:
        (folder / "fd/7").symlink_to("/dev/nvidia-uvm")


def enter_container(proc: Path) -> None:
    (proc / "self/ns/pid").unlink()
    (proc / "self/ns/pid").symlink_to("pid:[4026532999]")


@pytest.fixture(autouse=True)
def _own(proc: Path) -> None:
    add(proc, 1, 0)
    add(proc, OWN, 1, cuda=True)


def test_this_process_and_what_descends_from_it_are_ours(proc: Path) -> None:
    add(proc, 101, OWN, name="a (strange) name")
    add(proc, 102, 101)
    add(proc, 200, 1)
    assert foreign_pids([OWN, 101, 102], OWN, proc) == []
    assert foreign_pids([OWN, 200, 102, 300], OWN, proc) == [200, 300]


def test_a_parent_is_not_ours(proc: Path) -> None:
    add(proc, 110, OWN)
    assert foreign_pids([OWN], 110, proc) == [OWN]


def test_outside_containers_one_process_alone_is_foreign_too(proc: Path) -> None:
    assert foreign_pids([4711], OWN, proc) == [4711]


def test_in_a_container_one_process_alone_is_ours_if_we_have_cuda_open(proc: Path) -> None:
    enter_container(proc)
    assert foreign_pids([4711], OWN, proc) == []
    (proc / str(OWN) / "fd/7").unlink()
    assert foreign_pids([4711], OWN, proc) == [4711]


def test_in_a_container_as_many_are_ours_as_have_cuda_open_and_beyond_that_nobody_can_tell(proc: Path) -> None:
    enter_container(proc)
    add(proc, 101, OWN, cuda=True)
    add(proc, 102, OWN)
    assert foreign_pids([4711, 4712], OWN, proc) == []
    assert foreign_pids([4713, 4711, 4712], OWN, proc) == [4711, 4712, 4713]


@pytest.mark.parametrize("hidden", [False, True])
def test_children_of_one_parent_are_ours_to_each_other_if_it_is_the_root(proc: Path, hidden: bool) -> None:
    """Two processes that measure by turns; a child that is its own root takes its sibling for a stranger."""
    add(proc, 101, OWN, cuda=True)
    add(proc, 102, OWN, cuda=True)
    (proc / str(OWN) / "fd/7").unlink()
    listed = [101, 102]
    if hidden:
        enter_container(proc)
        listed = [4711, 4712]
    assert foreign_pids(listed, OWN, proc) == []
    assert foreign_pids([*listed, 4713], OWN, proc) == ([*listed, 4713] if hidden else [4713])
    assert foreign_pids(listed, 101, proc) == (listed if hidden else [102])


def test_in_a_container_that_shows_our_own_pid_the_others_are_foreign(proc: Path) -> None:
    enter_container(proc)
    assert foreign_pids([OWN, 4711], OWN, proc) == [4711]


def test_a_container_that_hides_even_ours_is_noticed(proc: Path) -> None:
    assert not processes_are_hidden([], OWN, proc)
    enter_container(proc)
    assert processes_are_hidden([], OWN, proc)
    assert not processes_are_hidden([4711], OWN, proc)
    (proc / str(OWN) / "fd/7").unlink()
    assert not processes_are_hidden([], OWN, proc)


def test_a_machine_without_a_process_table_takes_none_for_ours_but_itself(tmp_path: Path) -> None:
    assert foreign_pids([OWN, 200], OWN, tmp_path / "none") == [200]
