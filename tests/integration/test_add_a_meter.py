"""A newcomer's walk: a meter of another package is used by its name, without an edit in this one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]
Saved = Callable[[], list[dict[str, Any]]]

METER = """\
from pytest_llem.meters import MeterRequest, SimpleMeter, Window

WATTS = 30.0


class ConstantMeter(SimpleMeter):
    name = "constant"
    estimated = True

    def fill(self, window: Window, started: None) -> None:
        window.joules = WATTS * window.seconds


def open_constant(request: MeterRequest) -> ConstantMeter:
    return ConstantMeter(request)
"""


@pytest.fixture
def _constant(installed: Callable[[str, str, str], Path]) -> None:
    installed("constant_meter", METER, "[pytest_llem.meters]\nconstant = constant_meter:open_constant\n")


@pytest.mark.usefixtures("_constant")
class TestMeterOfAnotherPackage:
    @pytest.mark.parametrize("how", ["option", "ini"])
    def test_its_joules_are_saved(
        self, pytester: pytest.Pytester, run: Run, write: Write, saved: Saved, how: str
    ) -> None:
        write()
        pytester.makeini("[pytest]\nllem_meter = constant\n" if how == "ini" else "[pytest]\n")
        run("--benchmark-json=out.json", *([] if how == "ini" else ["--llem-meter=constant"])).assert_outcomes(passed=1)
        results = [row["extra_info"]["result"] for row in saved()]
        assert {row["extra_info"]["metric"] for row in saved()} == {"energy", "latency"}
        for result in results:
            assert result["meter"] == "constant"
            assert result["energy_j"] == pytest.approx(30.0 * result["latency_s"])

    @pytest.mark.parametrize("watts", ["nan", "inf", "-1"])
    def test_what_is_no_energy_is_null_with_a_reason_and_no_report_breaks(
        self, pytester: pytest.Pytester, run: Run, write: Write, saved: Saved, watts: str
    ) -> None:
        write()
        (pytester.path / "site" / "constant_meter.py").write_text(METER.replace("30.0", f"float('{watts}')"))
        run("--benchmark-json=out.json", "--llem-meter=constant", "--llem-report=out.html").assert_outcomes(passed=1)
        (row,) = saved()
        reason = row["extra_info"]["result"]["missing"]["energy_j"]
        assert f"the constant meter said {watts.removesuffix('1')}" in reason
        assert reason in (pytester.path / "out.html").read_text()

    def test_an_unknown_name_lists_it(self, run: Run) -> None:
        result = run("--llem-meter=constants")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["*--llem-meter: unknown meter 'constants'; use one of auto,*none, constant; did you mean constant?"]
        )

    def test_the_doctor_lists_it(self, pytester: pytest.Pytester) -> None:
        pytester.runpytest_inprocess("--llem-doctor").stdout.fnmatch_lines(["*constant *works:*"])


def test_a_start_without_experiments_looks_for_no_meters(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import importlib.metadata
        looked = []
        find = importlib.metadata.entry_points
        importlib.metadata.entry_points = lambda **names: looked.append(names) or find(**names)

        def pytest_unconfigure():
            print("looked for", looked)
        """
    )
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.run(sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "--llem-meter=estimate")
    result.stdout.fnmatch_lines(["*looked for []*"])
