"""The account of an experiment's time; and on a simulated board of the recorded kind, how much of it is measured."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from pytest_llem.engines.base import CallTiming, Workload
from pytest_llem.engines.prompts import Prompts
from pytest_llem.measurement.account import Account
from pytest_llem.measurement.open_meters import OpenMeters
from pytest_llem.measurement.protocol import measure_workload
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from tests.simulators import SimulatedBoard, SimulatedClock, install
from tests.simulators.kinds import KINDS


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


class Calls(Workload):
    """Calls of a fixed length: a short prefill at 400 W, then decoding at 200 W."""

    calls = 1
    prompts = Prompts(token_ids=((1, 2, 3),), truncated=0)
    expected_output_tokens = None

    def __init__(
        self, clock: SimulatedClock, board: SimulatedBoard, call_s: float, *, noise: float = 0.0, prefill: bool = False
    ) -> None:
        self._clock, self._board, self._call_s, self._prefill = clock, board, call_s, prefill
        self._noise = noise
        self._draw = random.Random(call_s)  # noqa: S311

    def run(self, index: int) -> int:
        call_s = self._call_s * math.exp(self._draw.gauss(0.0, self._noise))
        self._board.run(self._clock, 0.2 * call_s, 400.0)
        if not self._prefill:
            self._board.run(self._clock, 0.8 * call_s, 200.0)
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


FIVE_SECONDS = Protocol(5, 2, 1.0)


def accounts(
    call_s: float, experiments: int, protocol: Protocol = FIVE_SECONDS, *, phases: bool = False, noise: float = 0.0
) -> list[dict[str, float]]:
    """Where the time of experiments in a row went, on a board that is known."""
    opened = OpenMeters("nvml", "cuda", lock_timeout_s=1.0, say=print)
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
                    idle = opened.idle_power(model, meter, disturbances)
                result = measure_workload(
                    Calls(clock, board, call_s, noise=noise),
                    protocol,
                    meter,
                    idle=idle,
                    disturbances=disturbances,
                    phases=phases,
                    account=account,
                )
                assert result.valid
                found.append(account.spent_s())
    return found


def shares(found: list[dict[str, float]]) -> list[float]:
    """The share of measured time of each."""
    return [spent_s["measured"] / sum(spent_s.values()) for spent_s in found]


@pytest.mark.parametrize("call_s", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_most_of_the_time_is_measured(call_s: float) -> None:
    first, *later = shares(accounts(call_s, 4))
    assert first >= 0.5
    assert min(later) >= 0.68
    assert sum(later) / len(later) >= 0.7


@pytest.mark.parametrize("call_s", [0.1, 0.5])
def test_more_of_it_where_windows_are_joined(call_s: float) -> None:
    settled, joined = (
        shares(accounts(call_s, 4, replace(FIVE_SECONDS, joined=joined)))[1:] for joined in (False, True)
    )
    assert sum(joined) > sum(settled)


@pytest.mark.parametrize("call_s", [0.1, 0.4])
def test_phases_leave_most_of_it(call_s: float) -> None:
    first, *later = shares(accounts(call_s, 3, phases=True))
    assert first >= 0.5
    assert min(later) >= 0.5


@pytest.mark.parametrize("protocol", [FIVE_SECONDS, Protocol(3, 2, 0.3), Protocol(10, 2, 0.2), Protocol(3, 2, 0.0)])
@pytest.mark.parametrize("call_s", [0.03, 0.2, 2.0])
def test_a_host_that_varies_costs_no_more_than_the_rounds_do(protocol: Protocol, call_s: float) -> None:
    for spent_s in accounts(call_s, 5, protocol, noise=0.06):
        assert sum(spent_s.values()) <= 2.2 * spent_s["measured"] + 5.0
