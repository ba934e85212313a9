"""The simulated boards show through the real binding what real boards would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml
import pytest

from tests.simulators import (
    FunctionPower,
    LoadedPower,
    SimulatedBoard,
    SimulatedClock,
    SimulatedNvml,
    SimulatedProcess,
    install,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def nvml(clock: SimulatedClock) -> Iterator[SimulatedNvml]:
    with install(clock=clock) as library:
        pynvml.nvmlInit()
        yield library


def _handle(nvml: SimulatedNvml, board: SimulatedBoard) -> pynvml.c_nvmlDevice_t:
    nvml.boards.append(board)
    return pynvml.nvmlDeviceGetHandleByUUID(board.uuid)


def test_the_counter_moves_only_at_its_updates(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    board = SimulatedBoard(power=200.0, period_s=0.1, phase_s=0.03, lag_s=0.01, resolution_mj=10)
    handle = _handle(nvml, board)
    first_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    changes = []
    for _ in range(1000):
        clock.sleep(0.001)
        energy_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        if energy_mj != first_mj:
            changes.append((round(clock.now_s() - 1000, 3), energy_mj - first_mj))
            first_mj = energy_mj
    assert [step_mj for _, step_mj in changes] == [20_000] * 10
    assert [when_s for when_s, _ in changes] == pytest.approx([0.04 + 0.1 * k for k in range(10)], abs=1.1e-3)
    assert first_mj % 10 == 0


def test_work_told_later_still_counts(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    board = SimulatedBoard(power=LoadedPower(idle_w=50.0, tail_w=150.0, decay_s=0.2))
    handle = _handle(nvml, board)
    start_s, start_mj = clock.now_s(), pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    for _ in range(5):
        board.run(clock, 0.33, 300.0)
        clock.sleep(0.67)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    shown_j = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - start_mj) / 1e3
    true_j = 5 * (0.33 * 300 + 0.67 * 50) + 5 * (150 - 50) * 0.2
    assert shown_j == pytest.approx(true_j, rel=0.02)
    assert board.energy_j(start_s, clock.now_s()) == pytest.approx(true_j, rel=0.02)


def test_exact_integrals_agree_with_numerical_ones() -> None:
    loaded = LoadedPower(idle_w=60.0, tail_w=200.0, decay_s=0.15)
    loaded.start_work(1.0, 400.0, rise_s=0.05)
    loaded.end_work(1.5)
    numerical = FunctionPower(loaded.power_w, step_s=1e-4)
    assert loaded.energy_j(0.7, 2.9) == pytest.approx(numerical.energy_j(0.7, 2.9), rel=1e-4)


def test_frequent_reads_can_cost_counts(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    handle = _handle(nvml, SimulatedBoard(power=100.0, read_loss_s=0.013))
    start_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    for _ in range(100):
        clock.sleep(0.1)
        last_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert (last_mj - start_mj) / 1e3 == pytest.approx(0.87 * 1000, rel=0.01)


def test_a_sensor_that_looks_away_misses_what_happens_then(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    def burst_while_it_looks_away(at_s: float) -> float:
        return 400.0 if at_s % 0.1 < 0.05 else 100.0

    board = SimulatedBoard(power=FunctionPower(burst_while_it_looks_away), duty=0.25)
    handle = _handle(nvml, board)
    start_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    clock.sleep(2.0)
    shown_j = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - start_mj) / 1e3
    assert shown_j == pytest.approx(200.0, rel=0.01)
    assert board.energy_j(1000.0, 1002.0) == pytest.approx(500.0, rel=0.01)


def test_power_usage_is_a_mean_and_fields_tell_both(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    board = SimulatedBoard(power=LoadedPower(idle_w=100.0))
    handle = _handle(nvml, board)
    board.run(clock, 0.5, 300.0)
    assert pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3 == pytest.approx(200.0, rel=0.05)
    average, instant, energy, unknown = pynvml.nvmlDeviceGetFieldValues(
        handle,
        [
            pynvml.NVML_FI_DEV_POWER_AVERAGE,
            pynvml.NVML_FI_DEV_POWER_INSTANT,
            pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
            pynvml.NVML_FI_DEV_ECC_CURRENT,
        ],
    )
    assert average.value.uiVal / 1e3 == pytest.approx(200.0, rel=0.05)
    assert instant.value.uiVal / 1e3 == pytest.approx(300.0)
    assert energy.value.ullVal == pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert energy.timestamp % 1_000_000 == pytest.approx(500_000, abs=1)
    assert unknown.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_samples_carry_their_time(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    handle = _handle(nvml, SimulatedBoard(power=150.0, sample_period_s=0.02, samples_kept=50))
    _, samples = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
    assert len(samples) == 50
    assert {sample.sampleValue.uiVal for sample in samples} == {150_000}
    clock.sleep(0.2)
    newest_us = samples[-1].timeStamp
    _, newer = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, newest_us)
    assert [sample.timeStamp - newest_us for sample in newer] == [20_000 * k for k in range(1, 11)]


def test_processes_and_states_follow_time(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    foreign = SimulatedProcess(4711, "other", used_memory_bytes=None)
    board = SimulatedBoard(
        processes=lambda now_s: [SimulatedProcess(1), foreign] if now_s >= 1001 else [],
        clocks_event_reasons=lambda now_s: 0x40 if now_s >= 1001 else 0,
        temperature_c=lambda now_s: 88 if now_s >= 1001 else 50,
        utilization_percent=None,
    )
    handle = _handle(nvml, board)
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    clock.sleep(1.0)
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert [(process.pid, process.usedGpuMemory) for process in running] == [(1, 1 << 30), (4711, None)]
    assert pynvml.nvmlSystemGetProcessName(4711) == "other"
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == pynvml.nvmlClocksEventReasonHwThermalSlowdown
    assert pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU) == 88
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(handle)


def test_a_slice_has_no_energy_of_its_own(nvml: SimulatedNvml) -> None:
    handle = _handle(nvml, SimulatedBoard(uuid="GPU-1", mig_mode=1, mig_uuids=[None, "MIG-a"]))
    part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 1)
    assert pynvml.nvmlDeviceGetUUID(part) == "MIG-a"
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTotalEnergyConsumption(part)
    whole = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
    assert pynvml.nvmlDeviceGetUUID(whole) == "GPU-1"


def test_calls_take_time(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    handle = _handle(nvml, SimulatedBoard(read_cost_s=0.25))
    before_s, before_cpu_s = clock.now_s(), clock.cpu_s()
    pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert clock.now_s() - before_s == pytest.approx(0.25)
    assert clock.cpu_s() - before_cpu_s == pytest.approx(0.25)


def test_a_function_that_the_driver_lacks(clock: SimulatedClock) -> None:
    with install([SimulatedBoard()], clock, missing=["nvmlDeviceGetMigMode"]):
        pynvml.nvmlInit()
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            pynvml.nvmlDeviceGetMigMode(pynvml.nvmlDeviceGetHandleByIndex(0))
        with pytest.raises(pynvml.NVMLError_FunctionNotFound):
            pynvml.nvmlDeviceGetFanSpeed_v2(pynvml.nvmlDeviceGetHandleByIndex(0), 0)


def test_nothing_is_left_behind() -> None:
    state = (pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache), pynvml._nvmlLib_refcount)
    with install([SimulatedBoard()]):
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            pynvml.nvmlDeviceGetCount()
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == 1
        with install([]):
            pynvml.nvmlInit()
            assert pynvml.nvmlDeviceGetCount() == 0
        assert pynvml.nvmlDeviceGetCount() == 1
    assert (
        pynvml.nvmlLib,
        dict(pynvml._nvmlGetFunctionPointer_cache),
        pynvml._nvmlLib_refcount,
    ) == state
