"""The environment of a revision: its own code, on top of all else that is installed at present.

A virtual environment holds the project as built from the revision's checkout. That of a virtual environment does not
show the packages of another one, so its interpreter adds them when it starts, see ``overlay_startup``. It is kept in
the cache folder, because to build it can take minutes.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import shutil
import sys
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from pytest_llem.cache import cache_folder
from pytest_llem.session.against import overlay_startup, probe
from pytest_llem.session.against.side import run_command
from pytest_llem.session.against.worktrees import remove_folder

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_llem.session.against.side import Side

_STARTUP = "_llem_overlay"
_COMPLETE = "llem-complete"
_KEPT_S = 30 * 24 * 3600.0
_SHOWN_LINES = 15


@dataclass(frozen=True)
class Project:
    """A distribution that is built from the repository.

    Attributes:
        name: normalised.
        folder: of its build file, below the repository's.
        metadata: the folder that describes it in the present environment.
        pths: the files that put it on the path there.
        source: the folder that it was installed from; ``None`` where that is not known.
    """

    name: str
    folder: Path
    metadata: str
    pths: tuple[str, ...]
    source: Path | None = None


@dataclass(frozen=True)
class Environment:
    """What is installed, as the interpreter tells it.

    Attributes:
        python: the interpreter.
        version: of Python, with how it was built.
        prefix: its folder.
        sites: the folders of installed packages.
        installed: a text for each distribution that changes with it.
        projects: those of the repository.
        paths: what else of the repository ``.pth`` files put on the path.
        has_pip: whether it can install.
    """

    python: Path
    version: str
    prefix: str
    sites: tuple[str, ...]
    installed: tuple[str, ...]
    projects: tuple[Project, ...]
    paths: tuple[str, ...]
    has_pip: bool

    def folders_in(self, top: Path) -> tuple[Path, ...]:
        """Where installed packages lie inside the repository, as those of a virtual environment in it."""
        folders = {Path(folder).resolve() for folder in (self.prefix, *self.sites)}
        return tuple(sorted(folder for folder in folders if top in folder.parents))


def read_environment(side: Side, top: Path, root: Path) -> Environment:
    """Ask an interpreter.

    Args:
        side: whose it is.
        top: the repository's folder.
        root: pytest's root folder in it.

    Raises:
        pytest.UsageError: it cannot be started, or does not answer.
    """
    python, build_folder = side.python, _build_folder(top, root)
    names = [] if build_folder is None else [name for name in [_name(build_folder)] if name is not None]
    source = Path(probe.__file__).read_text(encoding="utf-8")
    done = run_command(
        [str(python), "-c", source], side.variables(), given=json.dumps({"top": str(top), "names": names})
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise pytest.UsageError(f"--llem-against: {python} does not say what is installed: {_last(done)}") from None
    projects = []
    for project in told["projects"]:
        folder = build_folder if project["folder"] is None else Path(project["folder"]).resolve()
        assert folder is not None  # noqa: S101  (named by its build file)
        relative = folder.relative_to(top)
        projects.append(Project(project["name"], relative, project["metadata"], tuple(project["pths"]), folder))
    return Environment(
        python=python,
        version=told["version"],
        prefix=told["prefix"],
        sites=tuple(told["sites"]),
        installed=tuple(told["installed"]),
        projects=tuple(projects),
        paths=tuple(told["paths"]),
        has_pip=told["has_pip"],
    )


def _build_folder(top: Path, root: Path) -> Path | None:
    """The nearest folder with a build file, from the root folder upwards."""
    return next((folder for folder in _upwards(top, root) if is_buildable(folder)), None)


def _upwards(top: Path, root: Path) -> Iterator[Path]:
    yield root
    yield from (folder for folder in root.parents if folder.is_relative_to(top))


def is_buildable(folder: Path) -> bool:
    """Whether a folder has a build file: a pyproject.toml or a setup.cfg of tools alone is none."""
    return (folder / "setup.py").is_file() or "build-system" in _pyproject(folder) or _name(folder) is not None


def _pyproject(folder: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _name(folder: Path) -> str | None:
    """The name of the project in a folder, where its build file says it."""
    name = _pyproject(folder).get("project", {}).get("name")
    if name is None:
        parser = configparser.ConfigParser(interpolation=None)
        with suppress(configparser.Error, UnicodeError):
            parser.read(folder / "setup.cfg", encoding="utf-8")
            name = parser.get("metadata", "name", fallback=None)
    return probe.normalise(name) if isinstance(name, str) else None


def missing_backend(environment: Environment, worktree: Path, variables: Mapping[str, str]) -> str | None:
    """A build backend of the projects that the present environment does not have; ``None`` where it has all.

    Args:
        worktree: where they are checked out.
        variables: environment variables of the interpreter.
    """
    builds = [_pyproject(worktree / project.folder).get("build-system", {}) for project in environment.projects]
    # What PEP 517 says of a project that names none; one that lies in its own folder is there.
    names = [str(build.get("build-backend", "setuptools")) for build in builds if "backend-path" not in build]
    backends = sorted({name.partition(":")[0].partition(".")[0] for name in names})
    find = "import sys, importlib.util as u; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))"
    done = run_command([str(environment.python), "-c", find, *backends], variables)
    missing = done.stdout.split()
    return missing[0] if missing else None


def editable_folders(environment: Environment, root: Path) -> list[Path]:
    """The folders from which modules of the projects are imported, if each is installed as editable; else none.

    Args:
        root: pytest's root folder, for a project whose own is not known.
    """
    folders: list[Path] = []
    for project in environment.projects:
        if not project.pths:
            return []
        named = [Path(line) for pth in project.pths for line in probe.lines(pth)]
        # A finder names its modules; most have them in one of these.
        top = project.source or root
        folders += named or [top / "src" if (top / "src").is_dir() else top]
    return folders


def build_overlay(
    environment: Environment, commit: str, top: Path, worktree: Path, variables: Mapping[str, str]
) -> Path:
    """The interpreter of the environment of a revision, built or found in the cache.

    Args:
        environment: the present one.
        commit: what is checked out in ``worktree``.
        top: the repository's folder.
        variables: environment variables of whatever builds.

    Raises:
        pytest.UsageError: it cannot be built; the text holds the end of what the build wrote.
    """
    data = {
        "sites": environment.sites,
        "pths": [pth for project in environment.projects for pth in project.pths],
        "metadata": [project.metadata for project in environment.projects],
        "top": str(top),
    }
    startup = Path(overlay_startup.__file__).read_text(encoding="utf-8")
    folders = [str(project.folder) for project in environment.projects]
    what = [commit, folders, str(environment.python), environment.version, environment.installed, data, startup]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]
    try:
        cache = cache_folder().resolve() / "environments"
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock"):
            folder = cache / key
            complete = folder / _COMPLETE
            _remove_old(cache, but=folder)
            python = folder / "bin" / "python"
            if not (complete.exists() and _works(python, variables)):
                remove_folder(folder)
                # At its place: what is installed knows the path of its interpreter.
                _create(environment, folder, data, startup, variables)
                _install(environment, python, worktree, variables)
            complete.touch()
            return python
    except OSError as error:
        raise pytest.UsageError(f"--llem-against: the cache folder cannot be used: {error}") from None


def link_what_was_built(environment: Environment, worktree: Path, python: Path) -> None:
    """Link into a checkout what was built from it: extension modules, the file of a version.

    pytest puts the folder of a conftest.py in front of all that is installed, and with it perhaps the packages there.

    Args:
        python: the interpreter of :func:`build_overlay`.
    """
    packages = _packages_of(python.parents[1])
    built = [path for path in packages.iterdir() if path.is_dir() and path.suffix != ".dist-info"]
    for project in environment.projects:
        for source in (worktree / project.folder, worktree / project.folder / "src"):
            for package in built:
                if not (source / package.name).is_dir():
                    continue
                for path in package.rglob("*"):
                    place = source / path.relative_to(packages)
                    if path.is_file() and path.suffix != ".pyc" and not place.exists():
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.symlink_to(path)


def _packages_of(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def _remove_old(cache: Path, but: Path) -> None:
    for folder in cache.iterdir():
        used = folder / _COMPLETE
        if folder.is_dir() and folder != but and used.exists() and time.time() - used.stat().st_mtime > _KEPT_S:
            remove_folder(folder)


def _works(python: Path, variables: Mapping[str, str]) -> bool:
    try:
        return run_command([str(python), "-c", f"import {_STARTUP}"], variables).returncode == 0
    except pytest.UsageError:
        return False


def _create(
    environment: Environment, folder: Path, data: Mapping[str, Any], startup: str, variables: Mapping[str, str]
) -> None:
    done = run_command([str(environment.python), "-m", "venv", "--without-pip", str(folder)], variables)
    if done.returncode:
        raise pytest.UsageError(f"--llem-against: {environment.python} makes no virtual environment: {_last(done)}")
    packages = _packages_of(folder)
    (packages / f"{_STARTUP}.py").write_text(startup, encoding="utf-8")
    (packages / f"{_STARTUP}.json").write_text(json.dumps(data), encoding="utf-8")
    (packages / f"{_STARTUP}.pth").write_text(f"import {_STARTUP}\n", encoding="utf-8")


def _install(environment: Environment, python: Path, worktree: Path, variables: Mapping[str, str]) -> None:
    folders = [worktree / project.folder for project in environment.projects]
    # What the revision does not have is not there.
    folders = sorted({folder for folder in folders if is_buildable(folder)})
    if not folders:
        return
    command = _installer(environment, python)
    for folder in folders:
        done = run_command(
            [*command, "--no-deps", "--no-build-isolation", "--no-index", str(folder)], variables, worktree
        )
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
            raise pytest.UsageError(
                f"--llem-against: {folder.relative_to(worktree.parent)} cannot be built; its build backend must be "
                f"installed here, because nothing is downloaded:\n{end}"
            )


def _installer(environment: Environment, python: Path) -> Sequence[str]:
    if environment.has_pip or find_spec("pip") is not None:
        pip = environment.python if environment.has_pip else sys.executable
        quiet = ["--quiet", "--disable-pip-version-check", "--no-warn-script-location"]
        return [str(pip), "-m", "pip", "--isolated", "--python", str(python), "install", *quiet]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "pip", "install", "--quiet", "--no-config", "--offline", "--python", str(python)]
    raise pytest.UsageError(
        "--llem-against: the project of that revision cannot be installed: there is neither pip nor uv here"
    )


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2] or f"exit status {done.returncode}"
