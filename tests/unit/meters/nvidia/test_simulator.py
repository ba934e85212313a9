"""The simulated boards show through the real binding what real boards would."""

from __future__ import annotations

import itertools
import math
import random
import statistics
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
    ideal_board,
    install,
    noisy_board,
)
from tests.simulators.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    board = ideal_board(power=200.0, period_s=0.1, phase_s=0.03, lag_s=0.01, resolution_mj=10)
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


def _loaded(hold_s: float = 0.03) -> LoadedPower:
    """Works at 400 W from 1.0 to 1.5 s, and again from 1.6 s on."""
    loaded = LoadedPower(60.0, 200.0, 0.15, hold_s=hold_s, lingering=(0.4, 0.5), afterglow_w=3.0)
    loaded.start_work(1.0, 400.0, rise_s=0.05)
    loaded.end_work(1.5)
    loaded.start_work(1.6, 300.0)
    return loaded


def test_exact_integrals_agree_with_numerical_ones() -> None:
    loaded = _loaded()
    numerical = FunctionPower(loaded.power_w, step_s=1e-4)
    assert loaded.energy_j(0.7, 2.9) == pytest.approx(numerical.energy_j(0.7, 2.9), rel=1e-4)


@pytest.mark.parametrize("lag_s", [0.0, 0.0115, 0.05, 0.12])
def test_a_slow_sensor_is_a_filter_of_first_order(lag_s: float) -> None:
    loaded = _loaded()
    step_s = 2e-5
    sensed_w, moment_s = 60.0, 0.9
    for moment in range(10, 20):
        while moment_s < moment / 10:
            kept = math.exp(-step_s / lag_s) if lag_s else 0.0
            sensed_w = kept * sensed_w + (1.0 - kept) * loaded.power_w(moment_s + step_s / 2)
            moment_s += step_s
        if lag_s:
            assert loaded.sensed_w(moment_s, lag_s) == pytest.approx(sensed_w, abs=0.05)
            numerical = FunctionPower(loaded.power_w).sensed_w(moment_s, lag_s)
            assert numerical == pytest.approx(sensed_w, abs=4.0)
        else:
            assert loaded.sensed_w(moment_s, lag_s) == loaded.power_w(moment_s)


def test_a_tail_counts_in_full_whatever_follows_it() -> None:
    power = LoadedPower(60.0, 200.0, 0.15, hold_s=0.03, lingering=(0.4, 0.5), afterglow_w=3.0)
    power.start_work(1.0, 400.0)
    power.end_work(1.5)
    tail_j = power.tail_j(1.5)
    afterglow_j = 3.0 * 2.0
    assert tail_j == pytest.approx(power.energy_j(1.5, 100.0) - 60.0 * 98.5 - afterglow_j)
    half_j = power.tail_j(1.6)
    drawn_j = power.energy_j(1.5, 1.6) - 60.0 * 0.1 - afterglow_j * (1.0 - math.exp(-0.1 / 2.0))
    assert half_j == pytest.approx(tail_j - drawn_j)
    power.start_work(1.6, 300.0)
    assert (power.tail_j(1.5), power.tail_j(1.6), power.tail_j(1.7)) == (tail_j, half_j, 0.0)
    board = SimulatedBoard(power=power)
    assert board.window_energy_j(1.0, 1.5) == pytest.approx(0.5 * 400.0 + tail_j)
    steps = LoadedPower(60.0, afterglow_w=3.0)
    steps.start_work(1.0, 400.0)
    steps.end_work(1.5)
    assert (steps.power_w(1.5), steps.tail_j(1.5)) == (63.0, 0.0)


def _edges(board: SimulatedBoard, seconds: float) -> list[float]:
    """When each value of the counter could first be read, in seconds, to the tenth of a millisecond."""
    values = [(0.1 + k * 1e-4, board.counter_mj(1000.1 + k * 1e-4)) for k in range(round(seconds * 1e4))]
    return [now_s for (_, before_mj), (now_s, after_mj) in itertools.pairwise(values) if after_mj != before_mj]


def test_the_counter_lags_by_its_sensor_alone() -> None:
    power = LoadedPower(100.0)
    board = SimulatedBoard(power=power, sensor_lag_s=0.02)
    board.counter_mj(1000.0)
    start_mj = board.counter_mj(1000.05)
    power.start_work(1000.05, 600.0)
    power.end_work(1000.25)
    (during_mj, after_mj) = (board.counter_mj(now_s) for now_s in (1000.25, 1001.05))
    held_back_j = 0.02 * 500.0 * (1.0 - math.exp(-0.15 / 0.02))
    assert during_mj - start_mj == pytest.approx(1e3 * (0.05 * 100 + 0.15 * 600 - held_back_j), abs=2)
    assert after_mj - start_mj == pytest.approx(1e3 * (0.8 * 100 + 0.2 * 600), abs=2)


def test_some_updates_are_late_and_the_lattice_does_not_shift() -> None:
    delays_s = [edge_s % 0.1 for edge_s in _edges(SimulatedBoard(late_share=0.2, phase_s=0.02), 20.0)]
    late_s = [delay_s for delay_s in delays_s if delay_s > 0.0202]
    assert len(late_s) / len(delays_s) == pytest.approx(0.2, abs=0.1)
    assert all(0.028 <= delay_s <= 0.0337 for delay_s in late_s)
    assert min(delays_s) == pytest.approx(0.02, abs=2e-4)


@pytest.mark.parametrize("changes", [{"jitter_s": 0.005}, {"wander_s": 0.005}])
def test_jitter_keeps_the_lattice_and_wandering_loses_it(changes: dict[str, float]) -> None:
    edges_s = _edges(ideal_board(**changes, seed=1), 20.0)
    offsets_s = [edge_s - 0.1 * number for number, edge_s in enumerate(edges_s)]
    assert max(abs(after_s - before_s) for before_s, after_s in itertools.pairwise(offsets_s)) < 0.0102
    assert (max(offsets_s) - min(offsets_s) < 0.0102) == ("jitter_s" in changes)


def test_samples_are_dated_later_than_they_are_taken(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    power = LoadedPower(100.0)
    board = SimulatedBoard(power=power, phase_s=0.0132)
    power.start_work(999.5, 600.0)
    power.end_work(999.7)
    _, samples = pynvml.nvmlDeviceGetSamples(_handle(nvml, board), pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
    assert len(samples) == 120
    delays_s = [sample.timeStamp % 20_000 / 1e6 for sample in samples]
    late_s = [delay_s for delay_s in delays_s if delay_s > 0.005]
    assert len(late_s) == 24
    assert all(0.01 <= delay_s <= 0.011 for delay_s in late_s)
    assert all(delay_s <= 0.003 for delay_s in delays_s if delay_s not in late_s)
    now_us = clock.wall_s() * 1e6
    for sample, delay_s in zip(samples, delays_s, strict=True):
        taken_s = clock.now_s() + (sample.timeStamp - now_us) / 1e6 - delay_s - 0.003
        # A moment of the wall clock is known to some tenths of a microsecond only.
        assert sample.sampleValue.uiVal / 1e3 == pytest.approx(power.sensed_w(taken_s, board.sensor_lag_s), abs=0.1)


def test_a_sample_can_be_a_mean_and_can_be_read_late() -> None:
    power = LoadedPower(100.0)
    board = ideal_board(power=power, phase_s=0.0132, sample_mean_s=0.02, sample_delay_s=0.07)
    power.start_work(999.915, 500.0)
    assert board.power_samples(1000.001, 0.0)[-1] == pytest.approx((999.92, 200.0))
    assert board.power_samples(1000.011, 0.0)[-1] == pytest.approx((999.94, 500.0))


def test_noise_of_samples_is_told_once_and_some_are_missing() -> None:
    board = noisy_board(power=100.0)
    seen: dict[float, float] = {}
    for now in range(2000):
        for date_s, power_w in board.power_samples(1000.0 + now / 10, 0.0):
            assert seen.setdefault(date_s, power_w) == power_w
    powers_w = list(seen.values())
    assert 1.0 - len(powers_w) / (202.3 * 50) == pytest.approx(0.02, abs=0.005)
    assert statistics.mean(powers_w) == pytest.approx(100.0, abs=0.2)
    assert statistics.stdev(powers_w) == pytest.approx(1.0, abs=0.1)
    assert statistics.correlation(powers_w[:-1], powers_w[1:]) == pytest.approx(0.85, abs=0.03)


def test_frequent_reads_can_cost_counts(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    handle = _handle(nvml, ideal_board(power=100.0, read_loss_s=0.013))
    start_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    for _ in range(100):
        clock.sleep(0.1)
        last_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert (last_mj - start_mj) / 1e3 == pytest.approx(0.87 * 1000, rel=0.01)


def test_a_sensor_that_looks_away_misses_what_happens_then(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    def burst_while_it_looks_away(at_s: float) -> float:
        return 400.0 if at_s % 0.1 < 0.05 else 100.0

    board = ideal_board(power=FunctionPower(burst_while_it_looks_away), duty=0.25)
    handle = _handle(nvml, board)
    start_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    clock.sleep(2.0)
    shown_j = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - start_mj) / 1e3
    assert shown_j == pytest.approx(200.0, rel=0.01)
    assert board.energy_j(1000.0, 1002.0) == pytest.approx(500.0, rel=0.01)


def test_power_usage_is_a_mean_and_fields_tell_both(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    board = ideal_board(power=LoadedPower(idle_w=100.0))
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
    handle = _handle(nvml, ideal_board(power=150.0, sample_period_s=0.02, samples_kept=50))
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
    handle = _handle(nvml, SimulatedBoard(read_cost_s=0.25, errors={"nvmlDeviceGetUUID": 999}))
    before_s, before_cpu_s = clock.now_s(), clock.cpu_s()
    pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert clock.now_s() - before_s == pytest.approx(0.25)
    assert clock.cpu_s() - before_cpu_s == pytest.approx(0.25)
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceGetUUID(handle)
    assert clock.now_s() - before_s == pytest.approx(0.5)


def test_values_are_of_a_moment_within_the_call(nvml: SimulatedNvml, clock: SimulatedClock) -> None:
    costs_s = (0.002, 0.03)
    handle = _handle(nvml, SimulatedBoard(read_cost_s=costs_s, temperature_c=lambda now_s: round((now_s - 1000) * 1e6)))
    parts: dict[float, list[float]] = {cost_s: [] for cost_s in costs_s}
    for _ in range(1000):
        before_s = clock.now_s()
        taken_s = 1000 + pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) / 1e6
        cost_s = round(clock.now_s() - before_s, 6)
        parts[cost_s].append((taken_s - before_s) / cost_s)
    for of_cost in parts.values():
        assert -0.001 <= min(of_cost) < 0.02
        assert 0.98 < max(of_cost) <= 1.001
        assert statistics.mean(of_cost) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS.keys())
def test_boards_of_every_kind_count_what_they_draw(
    draw: Callable[[random.Random], SimulatedBoard], nvml: SimulatedNvml, clock: SimulatedClock
) -> None:
    board = draw(random.Random(3))  # noqa: S311
    handle = _handle(nvml, board)
    clock.sleep(1.5)
    start_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    from_s = board.last_update_s(clock.now_s())
    work_start_s = clock.now_s()
    board.run(clock, 1.0, 400.0)
    work_end_s = clock.now_s()
    clock.sleep(30.0)
    shown_j = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - start_mj) / 1e3
    until_s = board.last_update_s(clock.now_s())
    # Reads of 30 ms reach into the next period at times.
    assert shown_j == pytest.approx(board.energy_j(from_s, until_s), abs=130.0 * board.period_s + 1.0)
    assert board.window_energy_j(work_start_s, work_end_s) == pytest.approx(400.0, abs=110.0)
    same, other = draw(random.Random(3)), draw(random.Random(4))  # noqa: S311
    assert (board.seed, board.phase_s) == (same.seed, same.phase_s) != (other.seed, other.phase_s)


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
