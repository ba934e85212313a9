"""The state of a session: idle power is a board's own, and once a load."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_llem.engines.transformers.failures import release
from pytest_llem.errors import MeasurementError
from pytest_llem.meters import open_meter
from pytest_llem.session.state import LlemSession
from tests.simulators import LoadedPower, SimulatedBoard, SimulatedClock, install

if TYPE_CHECKING:
    from pathlib import Path


class Model:
    """Stands for a load."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def session() -> LlemSession:
    settings: Any = SimpleNamespace(device="cpu")
    return LlemSession(settings)


def test_idle_power_is_measured_once_for_each_load() -> None:
    clock = SimulatedClock()
    power = LoadedPower(idle_w=70.0)
    first, second = Model(), Model()
    state: Any = session()
    with install([SimulatedBoard(power=power)], clock), open_meter("nvml", clock=clock) as meter:
        assert state.idle_power(first, meter).power_w == pytest.approx(70.0, rel=0.01)
        power.start_work(clock.now_s(), 90.0)  # another model keeps more of the board awake
        assert state.idle_power(first, meter).power_w == pytest.approx(70.0, rel=0.01)
        assert state.idle_power(second, meter).power_w == pytest.approx(90.0, rel=0.01)


def test_what_somebody_else_draws_is_not_idle_power() -> None:
    clock = SimulatedClock()
    busy = [True]
    board = SimulatedBoard(power=220.0, utilization_percent=lambda _: 60 if busy[0] else 0)
    model = Model()
    state: Any = session()
    with install([board], clock), open_meter("nvml", clock=clock) as meter:
        idle = state.idle_power(model, meter)
        assert idle.power_w is None
        assert idle.reason is not None
        busy[0] = False
        assert state.idle_power(model, meter).power_w == pytest.approx(220.0, rel=0.01)


# As torch passes them on from CUDA.
UNRECOVERABLE = (
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "hardware stack error",
    "invalid program counter",
    "misaligned address",
    "operation not supported on global/shared address space",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "unspecified launch failure",
)


@pytest.mark.parametrize("text", UNRECOVERABLE)
def test_a_gpu_that_is_lost_is_noticed_once(text: str) -> None:
    state = LlemSession(SimpleNamespace(device="cuda", child=None))  # type: ignore[arg-type]
    state.note_failure(RuntimeError("CUDA out of memory"))
    before = state.device_lost
    failure = RuntimeError("generate() failed")
    failure.__cause__ = RuntimeError(f"CUDA error: {text}")
    for _ in range(2):
        state.note_failure(failure)
    assert (before, state.device_lost, len(state.notes)) == (False, True, 1)


def test_a_gpu_that_answers_no_more_is_lost_whatever_failed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    state = LlemSession(SimpleNamespace(device="cuda", child=None))  # type: ignore[arg-type]
    failure = MeasurementError("generate() failed")
    failure.__cause__ = RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    state.note_failure(failure)
    before = state.device_lost

    def fail() -> None:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    release(failure)
    state.note_failure(failure)
    assert (before, state.device_lost) == (False, True)


def test_a_gpu_that_is_lost_in_a_group_of_failures_is_noticed() -> None:
    """pytest raises a group where several fixtures fail in their teardown."""
    lost = MeasurementError("generate() failed")
    lost.__cause__ = RuntimeError("CUDA error: misaligned address")
    state = LlemSession(SimpleNamespace(device="cuda", child=None))  # type: ignore[arg-type]
    state.note_failure(BaseExceptionGroup("teardown", [ValueError("x"), ExceptionGroup("inner", [lost])]))
    assert state.device_lost


def test_failures_that_lead_back_to_themselves_are_followed_once() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__context__ = second, first
    state = LlemSession(SimpleNamespace(device="cuda", child=None))  # type: ignore[arg-type]
    state.note_failure(first)
    assert not state.device_lost
