"""The two sides of a comparison, ready to be measured: where each runs, with what, and what differs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llem.session.against.answers import Answer, ask, differing_versions, listed
from pytest_llem.session.against.counterparts import Counterparts
from pytest_llem.session.against.overlay import (
    Environment,
    build_overlay,
    editable_folders,
    is_buildable,
    link_what_was_built,
    missing_backend,
    read_environment,
)
from pytest_llem.session.against.repository import MISLEADING, GitError, Repository
from pytest_llem.session.against.side import Side
from pytest_llem.session.against.what import What, parse_what
from pytest_llem.session.against.worktrees import open_worktree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@dataclass(frozen=True)
class _Session:
    """What both sides are made of."""

    what: What
    repository: Repository | None
    root: Path
    folder: Path
    arguments: Sequence[str]
    patterns: Sequence[str]
    files: Sequence[Path]
    say: Callable[[str], None]


@contextmanager
def open_sides(
    against: str,
    *,
    root: Path,
    folder: Path,
    arguments: Sequence[str],
    patterns: Sequence[str],
    files: Sequence[Path],
    say: Callable[[str], None],
) -> Iterator[tuple[Side, Side]]:
    """Prepare this side and the other one; what was made for the other is removed at the end.

    Args:
        against: what the user wrote: ``REV``, ``@PYTHON`` or ``REV@PYTHON``.
        root: pytest's root folder.
        folder: where pytest was called.
        arguments: pytest's, as the user gave them.
        patterns: of experiment files, see :attr:`Settings.files`.
        files: the experiment files that this side collected.
        say: called with each line on where the sides' packages come from and what differs.

    Raises:
        pytest.UsageError: there is no such side, or it cannot be compared.
    """
    what = parse_what(against, folder)
    try:
        repository = Repository(root)
    except GitError as error:
        if what.rev is not None:
            raise pytest.UsageError(f"--llem-against {against}: {error}") from None
        repository = None
    session = _Session(what, repository, root, folder, arguments, patterns, files, say)
    this = Side(
        name="this side",
        python=Path(sys.executable),
        folder=folder,
        root=root,
        arguments=(f"--rootdir={root}", *arguments),
        commit=None if repository is None else repository.head(),
    )
    if what.rev is None:
        yield _another_environment(session, this)
        return
    assert repository is not None  # noqa: S101  (without one there is no revision)
    commit = repository.commit_of(what.rev)
    with open_worktree(repository, commit, say) as worktree:
        yield _another_revision(session, repository, this, commit, worktree)


def _another_environment(session: _Session, this: Side) -> tuple[Side, Side]:
    """The same code in another environment."""
    python = session.what.python
    assert python is not None  # noqa: S101  (else there is a revision)
    other = replace(this, name=session.what.text, python=python, environment=_of_interpreter(python))
    top = session.root if session.repository is None else session.repository.top
    projects = {
        project.name for side in (this, other) for project in read_environment(side, top, session.root).projects
    }
    here, there = _ask_both(this, other, projects)
    differences = differing_versions(here, there, ())
    differences += [
        f"{name} from {_places(here, name)} here, from {_places(there, name)} there"
        for name in here.packages
        if here.packages[name] != there.packages[name]
    ]
    code = _code(session)
    _report(session, code, here, code, there, differences)
    return _identified(this, code, here), _identified(other, code, there)


def _another_revision(
    session: _Session, repository: Repository, this: Side, commit: str, worktree: Path
) -> tuple[Side, Side]:
    """The code of a revision, in an environment of its own where the project is installed at all."""
    top, what = repository.top, session.what
    basis = replace(this, python=what.python or this.python, environment=_of_interpreter(what.python))
    environment = read_environment(basis, top, session.root.resolve())
    projects = {project.name for project in environment.projects}
    if what.python is not None and "pytest-llem" not in projects:
        # It says why an interpreter cannot be compared before anything is built for it.
        ask(replace(basis, name=what.text), ())
    is_buildable_there = any(is_buildable(worktree / project.folder) for project in environment.projects)
    lying = _unbuilt(session, environment, worktree, basis) if is_buildable_there else []
    is_built = is_buildable_there and not lying
    counterparts = Counterparts(top, worktree, environment.folders_in(top))
    other = _side_in_worktree(
        session,
        basis,
        counterparts,
        commit,
        [*([] if is_built else [session.root.resolve()]), *lying, *map(Path, environment.paths)],
    )
    if environment.projects and not lying:
        other = _with_overlay(other, environment, repository, commit, worktree)
    for folder in (other.folder, other.root):
        folder.mkdir(parents=True, exist_ok=True)
    counterparts.place_experiments(session.patterns, session.files, session.root)
    here, there = _ask_both(this, other, projects, () if is_built else _packages(other.root))
    _require_own(other, there, [worktree, other.python.parents[1]] if environment.projects else [worktree])
    differences = [] if not repository.changed(commit, session.patterns) else ["the code"]
    differences += differing_versions(here, there, projects)
    differences += [
        f"{name} is not that of the working tree here, but of {_places(here, name)}"
        for name, places in here.packages.items()
        if there.packages[name] and not _all_inside(places, [top], but=environment.folders_in(top))
    ]
    code = _code(session)
    _report(session, code, here, commit, there, differences)
    return _identified(this, code, here), _identified(other, commit, there)


def _side_in_worktree(
    session: _Session, basis: Side, counterparts: Counterparts, commit: str, first: Iterable[Path]
) -> Side:
    """The other side where a revision is checked out, in the environment of ``basis``.

    Args:
        first: folders of this side whose counterparts come first on the path of Python.
    """
    root = counterparts.path(session.root.resolve())
    return replace(
        basis,
        name=session.what.text,
        folder=counterparts.path(session.folder),
        root=root,
        environment={
            **dict.fromkeys(MISLEADING),
            **basis.environment,
            **counterparts.environment(os.environ, session.folder, [counterparts.path(path) for path in first]),
        },
        arguments=(
            f"--rootdir={root}",
            f"--llem-experiments-root={session.root}",
            f"--llem-checkout={counterparts.worktree}",
            *counterparts.arguments(session.arguments, session.folder),
        ),
        commit=commit,
    )


def _with_overlay(side: Side, environment: Environment, repository: Repository, commit: str, worktree: Path) -> Side:
    """The side in an environment that has the projects as they are built from its checkout."""
    python = build_overlay(environment, commit, repository.top, worktree, side.variables())
    # Whether it was built just now or long ago, the same lies there.
    repository.git("clean", "-d", "--force", "-x", "--quiet", folder=worktree)
    link_what_was_built(environment, worktree, python)
    return replace(side, python=python, environment={**side.environment, **_of_interpreter(python)})


def _unbuilt(session: _Session, environment: Environment, worktree: Path, basis: Side) -> list[Path]:
    """The folders of this side's sources, where nothing here can build the other's: those are imported as they lie in
    the checkout, as an editable install does. Empty where they can be built, or this side's are not editable."""
    backend = missing_backend(environment, worktree, basis.variables())
    folders = [] if backend is None else editable_folders(environment, basis.root)
    if folders:
        session.say(
            f"llem: {session.what.text} is not built, because its build backend {backend} is not installed here: its "
            "packages are imported as they lie in its checkout, with the metadata (entry points) of this side"
        )
    return folders


def _ask_both(this: Side, other: Side, projects: Iterable[str], packages: Iterable[str] = ()) -> tuple[Answer, Answer]:
    """What the sides say of the same modules: those that either has of the projects, and some more."""
    here = ask(this, projects, packages)
    there = ask(other, projects, here.packages)
    return (here if here.packages.keys() == there.packages.keys() else ask(this, projects, there.packages)), there


def _of_interpreter(python: Path | None) -> dict[str, str | None]:
    """Changes that make a named interpreter that of commands, too."""
    if python is None:
        return {}
    return {"PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]), "PYTHONHOME": None}


def _packages(root: Path) -> list[str]:
    return [path.parent.name for path in root.glob("*/__init__.py")]


def _require_own(side: Side, answer: Answer, folders: Sequence[Path]) -> None:
    """Check that a revision's packages are the revision's."""
    for name, places in answer.packages.items():
        if not _all_inside(places, folders):
            raise pytest.UsageError(
                f"--llem-against {side.name}: {name} would not be that revision's, but come from {', '.join(places)}"
            )


def _all_inside(places: Iterable[str], folders: Iterable[Path], but: Iterable[Path] = ()) -> bool:
    paths = [Path(place).resolve() for place in places]
    return all(
        any(path.is_relative_to(folder.resolve()) for folder in folders)
        and not any(path.is_relative_to(folder) for folder in but)
        for path in paths
    )


def _code(session: _Session) -> str | None:
    """What this side's code is: its commit, and the hash of what is not committed."""
    repository = session.repository
    head = None if repository is None else repository.head()
    if repository is None or head is None:
        return None
    state = repository.state(head, session.patterns)
    return f"{head}+{state}" if state else head


def _identified(side: Side, code: str | None, answer: Answer) -> Side:
    what = [code, answer.python, sorted(answer.distributions.items())]
    return replace(side, identity=hashlib.sha256(json.dumps(what).encode()).hexdigest())


def _report(
    session: _Session,
    code: str | None,
    here: Answer,
    other_code: str | None,
    there: Answer,
    differences: Sequence[str],
) -> None:
    """Say what is compared."""
    name, say = session.what.text, session.say
    if not differences:
        say(f"llem: both sides, this one and {name}, are equal: {_described(session, code)}, in equal environments")
        return
    for side, what, answer in (("this side", code, here), (name, other_code, there)):
        places = listed([f"{package} from {_places(answer, package)}" for package in answer.packages])
        say(f"llem: {side}: {_described(session, what)}, pytest-llem {answer.pytest_llem}{places and f'; {places}'}")
    if others := [text for text in differences if text != "the code"]:
        say(f"llem: {listed(others)}")


def _described(session: _Session, code: str | None) -> str:
    repository = session.repository
    if repository is None or code is None:
        return "the working tree"
    commit, plus, _ = code.partition("+")
    text = f"commit {repository.subject_of(commit)}"
    if plus:
        count = len(repository.changed(commit, session.patterns))
        text += f" with {count} file{'s' if count != 1 else ''} changed or added since"
    return text


def _places(answer: Answer, package: str) -> str:
    return ", ".join(answer.packages.get(package, ())) or "nowhere"
