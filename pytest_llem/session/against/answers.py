"""What the sides say of themselves, asked for before anything is measured: see ``hello``, which they run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.session.against import PROTOCOL
from pytest_llem.session.against.side import run_command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_llem.session.against.side import Side

_VERSION = "import importlib.metadata as m; print(m.version('pytest-llem'))"
_MOST_NAMED = 8


@dataclass(frozen=True)
class Answer:
    """A side's code, as its interpreter finds it.

    Attributes:
        python: version of Python, with how it was built.
        pytest_llem: version of this package.
        distributions: installed versions, by normalised name.
        packages: by top-level module of the project what it is imported from; nothing for one that is not there.
    """

    python: str
    pytest_llem: str
    distributions: Mapping[str, str]
    packages: Mapping[str, tuple[str, ...]]


def ask(side: Side, distributions: Iterable[str], packages: Iterable[str] = ()) -> Answer:
    """What a side says.

    Args:
        distributions: those of the project, whose modules are asked for.
        packages: more top-level modules.

    Raises:
        pytest.UsageError: it cannot be compared; the text names it and says why.
    """
    given = json.dumps({"distributions": sorted(distributions), "packages": sorted(packages)})
    done = _run(side, "-m", "pytest_llem.session.against.hello", given=given)
    if done.returncode:
        raise _refusal(side, done)
    # What start-up files of the environment print comes before it.
    told = _decoded(done.stdout)
    if told.get("protocol") != PROTOCOL:
        raise pytest.UsageError(
            f"{_of(side)}: its pytest-llem {told.get('pytest_llem', '')} measures pairs in another way than this "
            f"one: install the same version in both"
        )
    packages_told = {name: tuple(locations) for name, locations in told["packages"].items()}
    return Answer(told["python"], told["pytest_llem"], told["distributions"], packages_told)


def _decoded(output: str) -> dict[str, Any]:
    try:
        told = json.loads(output.rpartition("\n")[2])
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _refusal(side: Side, done: subprocess.CompletedProcess[str]) -> pytest.UsageError:
    """Why a side did not answer."""
    last = done.stderr.strip().rpartition("\n")[2]
    if "No module named" not in last or "pytest_llem" not in last:
        return pytest.UsageError(f"{_of(side)}: {side.python} does not answer: {last or done.returncode}")
    version = _run(side, "-c", _VERSION)
    if version.returncode:
        return pytest.UsageError(f"{_of(side)}: {side.python} has no pytest-llem: install it there")
    installed = version.stdout.strip().rpartition("\n")[2]
    return pytest.UsageError(f"{_of(side)}: its pytest-llem {installed} is too old to be measured in pairs")


def _run(side: Side, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return run_command([str(side.python), *arguments], side.variables(), side.folder, given)


def _of(side: Side) -> str:
    return "--llem-against: this side" if side.name == "this side" else f"--llem-against {side.name}"


def differing_versions(this: Answer, other: Answer, projects: Iterable[str]) -> list[str]:
    """What differs between the environments of the sides, but for the project itself: a text each."""
    found = []
    if this.python != other.python:
        found.append(f"Python {_short(this, other, this)} here, {_short(this, other, other)} there")
    names = sorted({*this.distributions, *other.distributions}.difference(projects))
    for name in names:
        here, there = (side.distributions.get(name, "missing") for side in (this, other))
        if here != there:
            found.append(f"{name} {here} here, {there} there")
    return found


def _short(this: Answer, other: Answer, answer: Answer) -> str:
    """The version of Python, and how it was built where that alone differs."""
    versions = [side.python.partition(" ")[0] for side in (this, other)]
    return " ".join(answer.python.split()) if len(set(versions)) == 1 else answer.python.partition(" ")[0]


def listed(texts: Sequence[str]) -> str:
    """Some texts in one line, the first of many."""
    more = len(texts) - _MOST_NAMED
    return "; ".join([*texts[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])
