"""pytest driven as a user drives it, on an engine that needs no torch; in the folder ``transformers``, on the real one.

Inner sessions run in this process where they can; a test that looks at what is imported, or that ends or crashes a
session, starts a process of its own.
"""

from __future__ import annotations

import gc
import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# A pass takes milliseconds; the windows are as short as they can be.
TINY = """\
model: builtin:tiny-llama
precision: fp32
dataset: {synthetic: {n: 2, input_len: 8}}
max_input_tokens: 8
max_output_tokens: 4
decoder: {preset: deterministic, min_new_tokens: 4}
measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.001}
"""


# Each costs an inner session a part of a second, or hears that this session is measured or divided over processes.
_NOT_INSIDE = "-p no:hypothesispytest -p no:xdist -p no:pytest_cov"


# Inner sessions forget the modules that they import themselves; numpy cannot be imported twice, nor half of Jinja.
_IMPORTED_ONCE = (
    "jinja2.ext",
    "numpy",
    "pytest_llem.collection",
    "pytest_llem.report.html",
    "pytest_llem.report.terminal",
    "pytest_llem.runs",
    "pytest_llem.session.ending",
    "pytest_llem.session.merge",
    "tests.simulators.engine",
)


@pytest.fixture(scope="session", autouse=True)
def _imported_once() -> None:
    """Import what inner sessions share. It stays: the collections before every window need not look at it again."""
    for name in _IMPORTED_ONCE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


@pytest.fixture
def engine() -> str:
    """Arguments that choose the engine of inner sessions, and of the processes that they start."""
    return "-p tests.simulators.engine"


@pytest.fixture(autouse=True)
def _inner_sessions(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    # After ``pytester``, which removes the variable.
    monkeypatch.setenv("PYTEST_ADDOPTS", f"{_NOT_INSIDE} {engine}")
    # What a meter learns of a board of one test is not known in another.
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))


@pytest.fixture
def write(pytester: pytest.Pytester) -> Callable[..., Path]:
    """Write an experiment file: ``write("a.llem.yaml", "name: x")`` adds its lines to the tiny experiment."""

    def write_file(name: str = "tiny.llem.yaml", extra: str = "", base: str = TINY) -> Path:
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(base + extra, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest on the CPU, without the cache that ``--lf`` would need."""

    def run_pytest(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("--llem-cpu", *arguments)

    return run_pytest


@pytest.fixture
def saved(pytester: pytest.Pytester) -> Callable[[], list[dict[str, Any]]]:
    """The rows of ``out.json``."""

    def read() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
        return rows

    return read


@pytest.fixture
def saved_names(saved: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[str]]:
    """The names of the experiments in ``out.json``."""

    def read() -> list[str]:
        return [row["name"] for row in saved() if row["extra_info"]["metric"] == "latency"]

    return read


@pytest.fixture
def on_boards(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest in a process where NVML shows these boards, and nobody waits for them."""

    def run_pytest(boards: str, *arguments: str) -> pytest.RunResult:
        imported = "LoadedPower, SimulatedBoard, SimulatedProcess, install, skip_waits"
        pytester.makeconftest(
            f"from tests.simulators import {imported}\n\nskip_waits()\nsimulated = install({boards})\n"
        )
        return pytester.runpytest_subprocess("--llem-meter=nvml", "--benchmark-json=out.json", *arguments)

    return run_pytest


@pytest.fixture
def installed(pytester: pytest.Pytester) -> Callable[[str, str, str], Path]:
    """Leave on the path what ``pip install`` of another package would: ``installed(module, code, entry_points)``."""

    def install(module: str, code: str, entry_points: str) -> Path:
        folder = pytester.mkdir("site")
        metadata = folder / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(entry_points)
        (folder / f"{module}.py").write_text(code)
        pytester.syspathinsert(folder)
        return folder

    return install
