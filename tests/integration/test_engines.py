"""A backend of another package, from its experiment file to its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.engines import BUILT_IN
from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable


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
    installed: Callable[[str, str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{installed('own', ENGINE, ENTRY_POINTS)}:{ROOT}")
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


SERVED = """\
import os

from tests.simulators.engine import FakeEngine

class ServedEngine(FakeEngine):
    def load(self, config, device):
        os.environ["FAKE_OTHER_TOKEN"] = "2:3"
        return super().load(config, device)
"""


def test_one_sweep_over_two_engines_is_compared_per_token_and_says_where_theirs_part(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    write: Callable[..., Path],
    saved: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytester.makepyfile(served=SERVED)
    monkeypatch.syspath_prepend(pytester.path)
    monkeypatch.setitem(BUILT_IN, "vllm", "served:ServedEngine")
    monkeypatch.setenv("FAKE_OTHER_TOKEN", "0:1")
    sections = "pytorch: {batch_size: 2}\nvllm: {max_num_seqs: 2}\nsweep: {backend: [pytorch, vllm]}\n"
    write(extra=sections)
    result = run("--llem-meter=estimate", "--benchmark-json=out.json", "--llem-report=report.html")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "tiny[[]backend:vllm]: prompt 2, position 3: * on pytorch, * on vllm; 1 of 2 sequences differ*",
            "llem: a call is not the same work with each backend: compare joules and seconds per output token",
        ]
    )
    first, second = (row["extra_info"]["result"] for row in saved() if row["extra_info"]["metric"] == "latency")
    # A batch of both prompts on one side, calls of one prompt on the other.
    assert (first["output_tokens"], second["output_tokens"]) == (8, 4)
    assert any(text.startswith("prompt 2, position 3: ") for text in second["warnings"])
    assert not any("position" in text for text in first["warnings"])
    for found in (first, second):
        assert found["energy_per_output_token_j"] == pytest.approx(found["energy_j"] / found["output_tokens"])
    page = (pytester.path / "report.html").read_text()
    assert "Energy per output token against time per output token" in page
