"""The state of a session: a device that is lost, a load that was waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.footprint import Footprint
from pytest_llem.session.state import LlemSession
from tests.simulators.engine import DeviceLostError, FakeEngine
from tests.unit.report.examples import experiment, result


def session() -> LlemSession:
    settings: Any = SimpleNamespace(device="cpu")
    return LlemSession(settings)


class Engine(FakeEngine):
    """Notes what it is asked about."""

    def __init__(self) -> None:
        self.asked: list[BaseException] = []

    def is_device_lost(self, failure: BaseException) -> bool:
        self.asked.append(failure)
        return super().is_device_lost(failure)


@pytest.mark.parametrize("child", [None, 3])
def test_a_device_that_is_lost_is_noticed_once(child: int | None) -> None:
    first, second = Engine(), Engine()
    settings: Any = SimpleNamespace(device="cuda", child=child)
    state = LlemSession(settings, engines={"pytorch": first, "own": second})
    state.note_failure(RuntimeError("out of memory"))
    before = state.device_lost
    for _ in range(2):
        state.note_failure(DeviceLostError())
    assert (before, state.device_lost) == (False, True)
    # A child's parent says it.
    assert len(state.notes) == (child is None)
    assert (len(first.asked), len(second.asked)) == (2, 1)


def test_without_an_engine_there_is_no_device_to_lose() -> None:
    state: Any = session()
    state.note_failure(DeviceLostError())
    assert not state.device_lost


def test_a_load_counts_for_the_item_that_waited_for_it_or_for_none() -> None:
    state: Any = session()
    state.note_load(5.0)
    assert state.open_account().spent_s()["load"] == 5.0
    state.note_load(5.0)
    state.note_report(SimpleNamespace(nodeid="measures nothing", when="teardown", outcome="passed"))
    assert "load" not in state.open_account().spent_s()


def test_further_runs_carry_the_sessions_carbon() -> None:
    settings: Any = SimpleNamespace(footprint=Footprint(intensity_g_per_kwh=400.0))
    state = LlemSession(settings)
    state.count(experiment(more_runs=(result(50.0),)))
    (record,) = state.records.values()
    weights_g = [run.carbon_g for run in (record.result, *record.more_runs)]
    assert weights_g == pytest.approx([100.0 / 3.6e6 * 400, 50.0 / 3.6e6 * 400])
