"""The images of containers/ are not built; their install steps run here, and their lock files fit the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "containers"
KINDS = ("cpu", "cuda")
UV = (sys.executable, "-m", "uv")

# Left out below: they take nine tenths of the time, and torch's build for the CPU is not on PyPI.
LARGE = {"bitsandbytes", "sympy", "torch", "transformers"}


def instructions(kind: str) -> dict[str, list[str]]:
    """The arguments of each kind of instruction of a Containerfile, in their order."""
    text = (FOLDER / f"Containerfile.{kind}").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for word, arguments in re.findall(r"^([A-Z]+) (.*)$", text, flags=re.MULTILINE):
        found.setdefault(word, []).append(arguments)
    return found


def locked(kind: str) -> Iterator[Requirement]:
    text = (FOLDER / f"requirements-{kind}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?![#]).+$", text, flags=re.MULTILINE):
        requirement, *hashes = line.split(" --hash=")
        assert hashes, line
        yield Requirement(requirement.strip())


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_file_has_what_the_package_takes(kind: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins: dict[str, list[str]] = {}
    for requirement in locked(kind):
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        pins.setdefault(requirement.name, []).append(pin.version)
    for wanted in map(Requirement, [*project["dependencies"], *extras["bnb"], *extras["lora"], "hatchling"]):
        assert wanted.name in pins
        assert all(wanted.specifier.contains(version) for version in pins[wanted.name]), wanted
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"torch=={pins['torch'][0].removesuffix('+cpu')} " in readme


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_comes_from_elsewhere_than_pypi_and_torch_and_the_official_python(kind: str) -> None:
    texts = [
        (FOLDER / name).read_text(encoding="utf-8") for name in (f"Containerfile.{kind}", f"requirements-{kind}.txt")
    ]
    hosts = set(re.findall(r"https?://([^/\s\"]+)", "\n".join(texts)))
    assert hosts - {"github.com", "pytest-llem.readthedocs.io"} <= {"download.pytorch.org"}
    assert [image.partition("/")[0] for image in instructions(kind)["FROM"]] == ["docker.io"]


@pytest.mark.processes
def test_the_install_steps_make_an_environment_that_starts(tmp_path: Path) -> None:
    """Those of the CPU's image, with what its context has, on the present Python; what is large is left out."""
    context = tmp_path / "src"
    for pattern in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE):
        for source in ROOT.glob(pattern):
            target = context / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    requirements = context / "containers" / "requirements-cpu.txt"
    large = rf"^(?:{'|'.join(LARGE)})==.*\n(?:    .*\n)+"
    requirements.write_text(re.sub(large, "", requirements.read_text(encoding="utf-8"), flags=re.MULTILINE))

    python = tmp_path / "python"
    subprocess.run([*UV, "venv", "--quiet", "--seed", f"--python={sys.executable}", python], check=True)
    path = f"{python / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHON", "COV_"))}
    environment |= {"PATH": path, "PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", command], cwd=context, env=environment, capture_output=True, text=True, check=False
        )

    found = instructions("cpu")
    steps = [re.sub(r"--(?:mount=|find-links )\S+", "", step) for step in found["RUN"] if "pip install" in step]
    assert len(steps) == 2
    for step in steps:
        done = run(step)
        assert done.returncode == 0, done.stderr
    complaints = run("pip check").stdout
    assert set(re.findall(r"requires (.+), which is not installed", complaints)) <= LARGE
    assert "has requirement" not in complaints

    done = run(" ".join(word for key in ("ENTRYPOINT", "CMD") for word in json.loads(found[key][0])))
    assert done.returncode == 0, done.stderr
    (accelerate,) = (str(pin.specifier) for pin in locked("cpu") if pin.name == "accelerate")
    assert re.search(rf"accelerate +{accelerate.removeprefix('==')}\n", done.stdout), done.stdout


@pytest.mark.processes
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_what_is_locked_for_gpus_fits_together(tmp_path: Path, python: str) -> None:
    """Resolved for the image's platform, from wheels alone; gigabytes of CUDA are not downloaded."""
    command = [*UV, "pip", "install", "--dry-run", "--require-hashes", "--only-binary=:all:", f"--target={tmp_path}"]
    command += [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_28"]
    done = subprocess.run(
        [*command, "-r", FOLDER / "requirements-cuda.txt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert " + torch==2.13.0\n" in done.stderr
