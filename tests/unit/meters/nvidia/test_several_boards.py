"""The sum over several boards of one kind, whose errors have much in common, through the meter."""

from __future__ import annotations

import random

import pytest

from pytest_llem.meters import open_meter
from tests.simulators import SimulatedClock, install
from tests.simulators.kinds import KINDS
from tests.simulators.power import LoadedPower

BOARDS = 4
METERS = 20
WINDOWS = 8


@pytest.mark.parametrize("kind", ["holding", "lagging counter"])
def test_the_interval_of_the_sum_holds(kind: str) -> None:
    covered = 0
    for seed in range(METERS):
        drawn = random.Random(f"{kind}:{seed}")  # noqa: S311  (boards, not secrets)
        clock = SimulatedClock()
        boards = [KINDS[kind](drawn) for _ in range(BOARDS)]
        for number, board in enumerate(boards):
            board.uuid = f"GPU-{kind[:5]}-{seed}-{number}"
        loads = [board.true_power for board in boards if isinstance(board.true_power, LoadedPower)]
        uuids = [board.uuid for board in boards]
        with install(boards, clock), open_meter("nvml", device="cuda", gpu_uuids=uuids, clock=clock) as meter:
            for _ in range(WINDOWS):
                with meter.window() as window:
                    start_s = clock.now_s()
                    for load in loads:
                        load.start_work(start_s, drawn.uniform(200.0, 600.0), 0.0)
                    clock.work(drawn.uniform(0.3, 2.0))
                    end_s = clock.now_s()
                    for load in loads:
                        load.end_work(end_s)
                assert window.joules is not None
                assert window.uncertainty_j is not None
                true_j = sum(board.window_energy_j(start_s, end_s) for board in boards)
                covered += abs(window.joules - true_j) <= window.uncertainty_j
                clock.sleep(drawn.uniform(0.0, 0.5))
    # In 94% where the errors of boards are added in squares, as if they had nothing in common.
    assert covered >= 0.95 * METERS * WINDOWS, covered / (METERS * WINDOWS)
