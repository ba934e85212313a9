"""The two sides of a comparison, on a git repository of the test's own whose project is installed in a virtual
environment of its own, behind which lies the one that the tests run in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pytest_llem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.processes

# Opens the sides as a session would, and says what there is meanwhile.
OPEN = """
import json, subprocess, sys
from dataclasses import asdict
from pathlib import Path
import pytest
from pytest_llem.session.against.sides import open_sides

given, said = json.loads(sys.argv[1]), []
root = Path(given["root"])
sides = open_sides(given["against"], root=root, folder=Path.cwd(), arguments=given["arguments"],
                   patterns=["*.llem.yaml"], files=[root / file for file in given["files"]], say=said.append)
try:
    with sides as both:
        told = []
        for side in both:
            done = subprocess.run([str(side.python), *given["command"]], cwd=side.folder, env=side.variables(),
                                  capture_output=True, text=True)
            told.append({**asdict(side), "output": (done.stdout + done.stderr).strip()})
        print(json.dumps({"said": said, "sides": told}, default=str), flush=True)
        if given["waits"]:
            sys.stdin.read()
except pytest.UsageError as error:
    print(json.dumps({"said": said, "error": str(error)}))
"""

VALUE = ("-c", "import thing; print(thing.VALUE)")

SETUPTOOLS = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "thing"
version = "1"
"""

# Its editable installs put a finder in front of all others.
FINDER = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "thing"
version = "1"
"""
BACKEND = '''\
import os, zipfile

INFO = "thing-1.dist-info"
FINDER = """
import importlib.util, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "thing":
            return importlib.util.spec_from_file_location(name, {!r}, submodule_search_locations=[])
sys.meta_path.insert(0, Finder)
"""

def _wheel(folder, files):
    name = "thing-1-py3-none-any.whl"
    files[f"{INFO}/METADATA"] = "Metadata-Version: 2.1\\nName: thing\\nVersion: 1\\n"
    files[f"{INFO}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{INFO}/RECORD"] = "".join(f"{file},,\\n" for file in [*files, f"{INFO}/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    source = "src/thing" if os.path.exists("src") else "thing"
    with open(f"{source}/__init__.py") as file:
        return _wheel(folder, {"thing/__init__.py": file.read(), "thing/made/version.py": "made = True"})

def build_editable(folder, config_settings=None, metadata_directory=None):
    finder = FINDER.format(os.path.abspath("src/thing/__init__.py"))
    return _wheel(folder, {"_thing_finder.py": finder, "thing.pth": "import _thing_finder\\n"})
'''


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


class Project:
    """A repository with two commits of the package ``thing``, and something not committed."""

    def __init__(self, folder: Path, setup: str | None, source: str = "src") -> None:
        self.folder = folder
        self.source = folder / source / "thing"
        self.source.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main")
        if setup is not None:
            (folder / "pyproject.toml").write_text(setup)
        (folder / "backend.py").write_text(BACKEND)
        (folder / ".gitignore").write_text("*.egg-info\n__pycache__\n")
        self.write("first")
        self.commit("The first")
        git(folder, "tag", "first")
        self.write("second")
        self.commit("The second")
        self.write("not committed")

    def write(self, value: str) -> None:
        (self.source / "__init__.py").write_text(f"VALUE = {value!r}\n")

    def commit(self, message: str) -> None:
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", message)

    def worktrees(self) -> list[str]:
        return git(self.folder, "worktree", "list").splitlines()[1:]


def make_environment(folder: Path, *visible: str) -> Path:
    """A virtual environment whose ``.pth`` file has these lines."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "visible.pth").write_text("".join(f"{line}\n" for line in visible))
    return packages


@pytest.fixture
def visible() -> list[str]:
    """Lines of a ``.pth`` file: this checkout, and what the tests' own environment sees."""
    folders = [folder for folder in site.getsitepackages() if folder in sys.path]
    checkout = str(Path(pytest_llem.__file__).parents[1])
    return [checkout, *(f"import site; site.addsitedir({folder!r})" for folder in folders)]


@pytest.fixture
def environment(tmp_path: Path, visible: list[str]) -> Path:
    """The folder of this side's virtual environment."""
    make_environment(tmp_path / "environment", *visible)
    return tmp_path / "environment"


@pytest.fixture
def install(environment: Path) -> Callable[..., None]:
    def run_pip(folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install", "--no-index"]
        subprocess.run([*command, "-q", "--no-deps", "--no-build-isolation", *options, str(folder)], check=True)

    return run_pip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPATH")


@pytest.fixture
def start(environment: Path) -> Callable[..., subprocess.Popen[str]]:
    def start_process(
        against: str,
        root: Path,
        *,
        folder: Path | None = None,
        arguments: Sequence[str] = (),
        files: Sequence[str] = (),
        command: Sequence[str] = VALUE,
        waits: bool = False,
    ) -> subprocess.Popen[str]:
        given = {"against": against, "root": str(root), "arguments": arguments, "files": files, "command": command}
        return subprocess.Popen(
            [environment / "bin/python", "-c", OPEN, json.dumps({**given, "waits": waits})],
            cwd=folder or root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_process


@pytest.fixture
def open_both(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., dict[str, Any]]:
    def open_in_process(*arguments: Any, **options: Any) -> dict[str, Any]:
        with start(*arguments, **options) as process:
            output, problems = process.communicate()
        assert process.returncode == 0, problems
        told: dict[str, Any] = json.loads(output)
        return told

    return open_in_process


def outputs(told: dict[str, Any]) -> list[str]:
    assert "sides" in told, told
    return [side["output"] for side in told["sides"]]


@pytest.mark.parametrize(
    ("setup", "source", "options"),
    [
        (SETUPTOOLS, "src", ["-e"]),  # a path
        (SETUPTOOLS, "here", ["-e"]),  # a finder behind all others
        (SETUPTOOLS, "src", ["--config-settings=editable_mode=strict", "-e"]),  # a folder of links
        (FINDER, "src", ["-e"]),  # a finder in front of all others
        (SETUPTOOLS, "src", []),  # not editable
    ],
)
def test_a_revision_is_its_own_code_however_the_project_is_installed(
    tmp_path: Path,
    install: Callable[..., None],
    open_both: Callable[..., dict[str, Any]],
    setup: str,
    source: str,
    options: list[str],
) -> None:
    if source == "here":
        setup += '[tool.setuptools]\npackages = ["thing"]\npackage-dir = {thing = "here/thing"}\n'
    project = Project(tmp_path / "repository", setup, source)
    install(project.folder, *options)
    before = git(project.folder, "status", "--porcelain")
    told = open_both("first", project.folder)
    assert outputs(told) == ["not committed", "first"]
    assert told["sides"][1]["commit"] == git(project.folder, "rev-parse", "first")
    assert told["sides"][0]["identity"] != told["sides"][1]["identity"]
    # Nothing of the user's is touched, and nothing is left.
    assert (project.source / "__init__.py").read_text() == "VALUE = 'not committed'\n"
    assert git(project.folder, "status", "--porcelain") == before
    assert project.worktrees() == []
    assert not list((tmp_path / "cache/pytest-llem/worktrees").glob("*/*-*"))
    here, there, *more = told["said"]
    # What is installed need not be what lies there.
    assert [line.startswith("llem: thing is not that of the working tree here") for line in more] == [True] * (
        not options
    )
    assert "(The second) with " in here
    assert "(The first), pytest-llem" in there
    assert "environments/" in there


def test_metadata_of_the_working_tree_are_not_the_revisions(
    tmp_path: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", SETUPTOOLS)
    (project.source / "new.py").write_text("")
    (project.folder / "pyproject.toml").write_text(SETUPTOOLS + '[project.entry-points.pytest11]\nx = "thing.new"\n')
    install(project.folder, "-e")
    # As pytest looks for plugins.
    found = "[e.value for d in m.distributions() for e in d.entry_points if e.group == 'pytest11' and e.name == 'x']"
    entries = f"import importlib.metadata as m; print({found})"
    told = open_both("first", project.folder, command=["-c", entries])
    assert outputs(told) == ["['thing.new']", "[]"]


def test_an_environment_is_kept_by_commit_and_built_anew_where_it_is_broken(
    tmp_path: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", FINDER, ".")
    install(project.folder)

    def open_revision(rev: str) -> Path:
        """The folder of its environment."""
        # From the root folder, where the package lies: what a build makes is beside it, built just now or long ago.
        command = ["-c", "import thing, thing.made.version; print(thing.VALUE, thing.__file__)"]
        there = open_both(rev, project.folder, command=command)["sides"][1]
        value = {"first": "first", "main": "second"}[rev]
        assert there["output"] == f"{value} {there['root']}/thing/__init__.py"
        return Path(there["python"]).parents[1]

    built = open_revision("first")
    (built / "mine").touch()
    old = built.with_name("0" * 20)
    old.mkdir()
    (old / "llem-complete").touch()
    os.utime(old / "llem-complete", (0, 0))
    assert open_revision("first") == built
    assert (built / "mine").exists()
    assert not old.exists()
    assert open_revision("main") != built
    (built / "bin/python").unlink()
    assert open_revision("first") == built
    assert not (built / "mine").exists()


def test_a_project_that_is_not_installed_comes_from_the_worktree(
    tmp_path: Path, open_both: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path / "repository", None, ".")
    (project.folder / "below").mkdir()
    told = open_both("first", project.folder, folder=project.folder / "below")
    # This side needs to be told where its code is: the working directory is another.
    assert "No module named 'thing'" in outputs(told)[0]
    assert outputs(told)[1] == "first"
    assert not (tmp_path / "cache/pytest-llem/environments").exists()
    assert told["sides"][1]["folder"] == told["sides"][1]["root"] + "/below"
    monkeypatch.setenv("PYTHONPATH", str(project.folder))
    told = open_both("first", tmp_path / "repository", folder=project.folder / "below")
    assert outputs(told) == ["not committed", "first"]
    # On the path of Python, and named by no distribution.
    monkeypatch.delenv("PYTHONPATH")
    packages = next((tmp_path / "environment").glob("lib/python*/site-packages"))
    (packages / "mine.pth").write_text(f"{project.folder}\n")
    assert outputs(open_both("first", project.folder, folder=project.folder / "below")) == ["not committed", "first"]


def test_code_that_would_not_be_the_revisions_is_refused(
    tmp_path: Path, environment: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", FINDER)
    install(project.folder, "-e")
    packages = next(environment.glob("lib/python*/site-packages"))
    # Put there by hand: no distribution has it.
    (packages / "mine.pth").write_text("import _thing_finder\n")
    told = open_both("first", project.folder)
    assert told["error"].startswith("--llem-against first: thing would not be that revision's, but come from ")
    assert "/repository/src/thing" in told["error"]


def test_equal_sides_are_said_to_be_equal(
    tmp_path: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]], environment: Path
) -> None:
    project = Project(tmp_path / "repository", FINDER)
    project.write("second")
    (project.folder / "new.llem.yaml").write_text("model: x\n")
    install(project.folder, "-e")
    for against in ("HEAD", f"@{environment}", f"HEAD@{environment}/bin/python"):
        told = open_both(against, project.folder)
        assert len(told["said"]) == 1, told
        assert told["said"][0].startswith(f"llem: both sides, this one and {against}, are equal: commit ")
        assert told["sides"][0]["identity"] == told["sides"][1]["identity"]
    (project.folder / "helper.py").write_text("")
    assert "with 1 file changed or added since" in open_both("HEAD", project.folder)["said"][0]


def test_another_environment_has_the_same_code(
    tmp_path: Path, visible: list[str], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", None, ".")
    packages = make_environment(tmp_path / "another", *visible)
    info = packages / "helper-2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: helper\nVersion: 2\n")
    told = open_both("@../another", project.folder)
    assert outputs(told) == ["not committed", "not committed"]
    assert told["sides"][1]["python"] == str(tmp_path / "another/bin/python")
    assert told["said"][-1] == "llem: helper missing here, 2 there"
    assert told["sides"][0]["identity"] != told["sides"][1]["identity"]
    assert outputs(open_both("first@../another", project.folder)) == ["not committed", "first"]


def test_an_interpreter_that_cannot_be_compared_is_refused_by_name(
    tmp_path: Path, visible: list[str], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", None, ".")
    checkout = Path(visible[0])

    def refusal(name: str) -> str:
        told: dict[str, Any] = open_both(f"@{tmp_path / name}", project.folder)
        return str(told["error"]).removeprefix(f"--llem-against @{tmp_path / name}: ")

    make_environment(tmp_path / "bare")
    assert refusal("bare") == f"{tmp_path}/bare/bin/python has no pytest-llem: install it there"
    packages = make_environment(tmp_path / "old")
    (packages / "pytest_llem").mkdir()
    (packages / "pytest_llem/__init__.py").write_text("")
    (packages / "pytest_llem-0.1.dist-info").mkdir()
    (packages / "pytest_llem-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 0.1\n")
    assert refusal("old") == "its pytest-llem 0.1 is too old to be measured in pairs"
    packages = make_environment(tmp_path / "newer", *visible[1:])
    shutil.copytree(checkout / "pytest_llem", packages / "pytest_llem")
    (packages / "pytest_llem/session/against/__init__.py").write_text("PROTOCOL = 99\n")
    assert f"its pytest-llem {pytest_llem.__version__} measures pairs in another way" in refusal("newer")
    (tmp_path / "broken").write_text("no program")
    (tmp_path / "broken").chmod(0o755)
    assert "cannot be started" in refusal("broken")


def test_a_build_that_fails_shows_its_end(
    tmp_path: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", FINDER)
    (project.folder / "backend.py").write_text("raise RuntimeError('no way')\n")
    project.commit("Broken")
    (project.folder / "backend.py").write_text(BACKEND)
    install(project.folder, "-e")
    error = open_both("HEAD", project.folder)["error"]
    assert "cannot be built; its build backend must be installed here" in error
    assert "no way" in error
    assert project.worktrees() == []


def test_without_the_build_backend_packages_are_imported_as_they_lie_in_the_checkout(
    tmp_path: Path, install: Callable[..., None], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", SETUPTOOLS)
    (project.folder / "pyproject.toml").write_text(SETUPTOOLS.replace("setuptools.build_meta", "not_there.backend"))
    project.write("second")
    project.commit("Built by what is not here")
    project.write("not committed")
    (project.folder / "pyproject.toml").write_text(SETUPTOOLS)
    install(project.folder, "-e")
    told = open_both("HEAD", project.folder)
    assert told["said"][0].startswith("llem: HEAD is not built, because its build backend not_there is not installed")
    assert outputs(told) == ["not committed", "second"]
    assert told["sides"][1]["python"] == told["sides"][0]["python"]
    assert not (tmp_path / "cache/pytest-llem/environments").exists()


def test_what_a_killed_session_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], open_both: Callable[..., dict[str, Any]]
) -> None:
    project = Project(tmp_path / "repository", None, ".")
    with start("first", project.folder, waits=True) as killed, start("first", project.folder, waits=True) as living:
        assert killed.stdout is not None
        assert living.stdout is not None
        lines = [output.readline() for output in (killed.stdout, living.stdout)]
        left, kept = (Path(json.loads(line)["sides"][1]["root"]) for line in lines)
        assert len(project.worktrees()) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        (left / "thing").chmod(0o500)
        assert outputs(open_both("first", project.folder))[1] == "first"
        assert not left.exists()
        assert (kept / "thing").exists()
        assert len(project.worktrees()) == 1
        living.communicate("")
    assert project.worktrees() == []
    assert not list(kept.parent.glob("*-*"))


def test_experiment_files_are_this_sides(tmp_path: Path, open_both: Callable[..., dict[str, Any]]) -> None:
    project = Project(tmp_path / "repository", None, ".")
    (project.folder / "old.llem.yaml").write_text("model: old\n")
    (project.folder / "test_old.py").write_text("")
    project.commit("With experiments")
    (project.folder / "old.llem.yaml").unlink()
    (project.folder / "test_old.py").unlink()
    (project.folder / "new").mkdir()
    (project.folder / "new/new.llem.yaml").write_text("model: new\n")
    show = "import glob; print(sorted(glob.glob('**/*old*', recursive=True) + glob.glob('**/*.yaml', recursive=True)))"
    told = open_both(
        "HEAD",
        project.folder,
        files=["new/new.llem.yaml"],
        arguments=[f"{project.folder}/new::x", "new"],
        command=["-c", show],
    )
    assert outputs(told) == ["['new/new.llem.yaml']", "['new/new.llem.yaml', 'test_old.py']"]
    root = told["sides"][1]["root"]
    assert told["sides"][1]["arguments"] == [
        f"--rootdir={root}",
        f"--llem-experiments-root={project.folder}",
        f"--llem-checkout={root}",
        f"{root}/new::x",
        "new",
    ]
    assert told["sides"][0]["arguments"][0] == f"--rootdir={project.folder}"
