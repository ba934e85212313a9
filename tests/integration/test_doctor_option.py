"""``--llem-doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulators import SimulatedBoard, install

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _board(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    # Divided by MIG it is refused at once; the counters of others are watched for seconds.
    with install([SimulatedBoard(mig_mode=1)]):
        yield


@pytest.mark.parametrize("arguments", [(), ("--llem-gpu",), ("no/such/path.py",)])
def test_it_prints_runs_nothing_and_succeeds(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile("raise SystemExit('a test module was imported')")
    result = pytester.runpytest_inprocess("--llem-doctor", *arguments)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["Software", "GPUs", "*NVIDIA Simulated H100", "Meters", "  nvml *cannot work: *MIG*"])
    result.stdout.no_fnmatch_line("*test session starts*")
    assert result.stderr.lines == []


def test_without_the_option_nothing_is_printed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*can measure*")
