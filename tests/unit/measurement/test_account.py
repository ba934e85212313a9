"""The account of an experiment's time; and on a simulated board of the recorded kind, how much of it is measured."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.engines.base import CallTiming
from pytest_llem.engines.prompts import Prompts
from pytest_llem.measurement.account import Account
from pytest_llem.measurement.protocol import measure_workload
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from pytest_llem.session.state import LlemSession
from tests.simulators import SimulatedBoard, SimulatedClock, install
from tests.simulators.kinds import KINDS

if TYPE_CHECKING:
    from pathlib import Path


def test_every_second_belongs_to_the_innermost_entry() -> None:
    clock = SimulatedClock()
    account = Account(clock.now_s)
    clock.sleep(1.0)
    with account.of("sensor"):
        clock.sleep(2.0)
        with account.of("tokens"):
            clock.sleep(4.0)
        clock.sleep(8.0)
        account.move("measured", 3.0)
    account.add("load", 16.0)
    assert account.spent_s() == pytest.approx(
        {"load": 16.0, "tokens": 4.0, "sensor": 7.0, "measured": 3.0, "other": 1.0}
    )


def test_a_body_that_raises_closes_its_entry() -> None:
    clock = SimulatedClock()
    account = Account(clock.now_s)
    with pytest.raises(KeyError), account.of("idle"):
        raise KeyError
    clock.sleep(1.0)
    assert account.spent_s() == {"other": 1.0}


class Calls:
    """Calls of a fixed length: a short prefill at 400 W, then decoding at 200 W."""

    calls = 1
    prompts = Prompts(token_ids=((1, 2, 3),), truncated=0)
    expected_output_tokens = None

    def __init__(self, clock: SimulatedClock, board: SimulatedBoard, call_s: float, *, prefill: bool = False) -> None:
        self._clock, self._board, self._call_s, self._prefill = clock, board, call_s, prefill

    def run(self, index: int) -> int:
        self._board.run(self._clock, 0.2 * self._call_s, 400.0)
        if not self._prefill:
            self._board.run(self._clock, 0.8 * self._call_s, 200.0)
        return 1 if self._prefill else 5

    def output_tokens(self, index: int, output: int) -> list[list[int]]:
        return [list(range(output))]

    def time_tokens(self, index: int) -> CallTiming:
        self.run(index)
        return CallTiming(0.2 * self._call_s, 0.2 * self._call_s)

    def prefill(self) -> Calls:
        return Calls(self._clock, self._board, self._call_s, prefill=True)

    def synchronize(self) -> None:
        """Nothing is queued."""

    def reset_peak_memory(self) -> None:
        """Nothing is kept."""

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        return 1, None


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def shares(call_s: float, experiments: int, *, phases: bool = False, joined: bool = False) -> list[float]:
    """Share of measured time of experiments in a row, five rounds of a second each, on a board that is known."""
    settings: Any = SimpleNamespace(device="cuda")
    state = LlemSession(settings)
    model: Any = type("Model", (), {"gpu_uuids": ()})()
    clock, found = SimulatedClock(), []
    board = KINDS["recorded"](random.Random(1))  # noqa: S311
    with install([board], clock):
        with open_meter("nvml", clock=clock) as meter:
            assert meter.auto_window_s
        with open_meter("nvml", clock=clock) as meter:
            for _ in range(experiments):
                account = Account(clock.now_s)
                with account.of("checks"):
                    disturbances = meter.check_quiet()
                with account.of("sensor"):
                    assert meter.auto_window_s
                with account.of("idle"):
                    idle = state.idle_power(model, meter, disturbances)
                result = measure_workload(
                    Calls(clock, board, call_s),
                    Protocol(5, 2, 1.0, joined=joined),
                    meter,
                    idle=idle,
                    disturbances=disturbances,
                    phases=phases,
                    account=account,
                )
                assert result.valid
                spent_s = account.spent_s()
                found.append(spent_s["measured"] / sum(spent_s.values()))
    return found


@pytest.mark.parametrize("call_s", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_most_of_the_time_is_measured(call_s: float) -> None:
    first, *later = shares(call_s, 4)
    assert first >= 0.5
    assert min(later) >= 0.68
    assert sum(later) / len(later) >= 0.7


@pytest.mark.parametrize("call_s", [0.1, 0.5])
def test_more_of_it_where_windows_are_joined(call_s: float) -> None:
    settled, joined = (shares(call_s, 4, joined=joined)[1:] for joined in (False, True))
    assert sum(joined) > sum(settled)


@pytest.mark.parametrize("call_s", [0.1, 0.5])
def test_half_of_it_where_phases_are_wanted(call_s: float) -> None:
    assert min(shares(call_s, 2, phases=True)) >= 0.5
