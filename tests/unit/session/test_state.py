"""The state of a session: idle power is a board's own, and once a load."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.footprint import Footprint
from pytest_llem.meters import open_meter
from pytest_llem.session.state import LlemSession
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install
from tests.simulators.engine import DeviceLostError, FakeEngine
from tests.unit.report.examples import experiment, result

if TYPE_CHECKING:
    from pathlib import Path


class Model:
    """Stands for a load."""

    gpu_uuids = ()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def session() -> LlemSession:
    settings: Any = SimpleNamespace(device="cpu")
    return LlemSession(settings)


def test_idle_power_is_measured_once_for_the_boards_and_then_seen_before_windows() -> None:
    clock = SimulatedClock()
    power = LoadedPower(idle_w=70.0)
    board = SimulatedBoard(power=power)
    first, second = Model(), Model()
    state: Any = session()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        assert meter.idle_power_seen() is None
        assert state.idle_power(first, meter, ()).power_w == pytest.approx(70.0, rel=0.01)
        power.start_work(clock.now_s(), 90.0)  # another model keeps more of the board awake
        clock.sleep(1.0)
        measured_s = clock.now_s()
        state.idle_power(second, meter, ())
        assert clock.now_s() == measured_s
        with meter.window():
            clock.sleep(0.5)
        seen = meter.idle_power_seen()
        assert seen is not None
        assert seen.power_w == pytest.approx(90.0, rel=0.01)


def test_where_it_is_not_seen_idle_power_is_measured_for_each_load() -> None:
    clock = SimulatedClock()
    power = LoadedPower(idle_w=70.0)
    board = SimulatedBoard(power=power, errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED})
    first, second = Model(), Model()
    state: Any = session()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        state.idle_power(first, meter, ())
        power.start_work(clock.now_s(), 90.0)
        clock.sleep(1.0)
        assert state.idle_power(first, meter, ()).power_w == pytest.approx(70.0, rel=0.01)
        assert state.idle_power(second, meter, ()).power_w == pytest.approx(90.0, rel=0.01)


def test_what_somebody_else_draws_is_not_idle_power() -> None:
    clock = SimulatedClock()
    busy = [True]
    board = SimulatedBoard(power=220.0, utilization_percent=lambda _: 60 if busy[0] else 0)
    model = Model()
    state: Any = session()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        idle = state.idle_power(model, meter, meter.check_quiet())
        assert idle.power_w is None
        assert idle.reason is not None
        busy[0] = False
        assert state.idle_power(model, meter, meter.check_quiet()).power_w == pytest.approx(220.0, rel=0.01)


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
