"""A backend of another package, from its experiment file to its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = """\
[pytest_llem.engines]
own = own:OwnEngine
broken = nowhere.to.be.found:Engine
"""
ENGINE = """\
from tests.simulators.engine import FakeEngine

class OwnEngine(FakeEngine):
    def load(self, config, device):
        print("LOADED BY", config.backend, config.from_pretrained)
        return super().load(config, device)
"""


def test_it_is_measured_and_one_that_is_broken_is_skipped(
    pytester: pytest.Pytester,
    write: Callable[..., Path],
    saved: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = pytester.mkdir("installed")
    info = installed / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (installed / "own.py").write_text(ENGINE)
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{ROOT}")
    listed = "[{name: good, backend: own, passthrough: {from_pretrained: {x: 1}}}, {name: bad, backend: broken}"
    write(extra=f"experiments: {listed}, {{name: none, backend: tensorrt}}]\n", base=TINY)
    result = pytester.runpytest_subprocess("--llem-cpu", "--benchmark-json=out.json", "-rsP")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["LOADED BY own {'x': 1}"])
    result.stdout.fnmatch_lines(["SKIPPED*needs tensorrt_llm: pip install tensorrt-llm"])
    result.stdout.fnmatch_lines(["SKIPPED*backend broken: nowhere.to.be.found:Engine cannot be imported: *'nowhere'"])
    result.stdout.no_fnmatch_line("*Traceback*")
    planned = pytester.runpytest_subprocess("--llem-cpu", "--llem-plan")
    planned.stdout.fnmatch_lines(["    memory: 1.00 MiB weights *", "    memory: unknown: backend broken: *"])
    assert {row["name"] for row in saved()} >= {"good"}
