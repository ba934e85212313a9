"""NVML's C functions over simulated boards.

Each function is told the C name under which ``pynvml`` looks it up and the C types of its arguments; it fills
in what the caller's pointers (addresses here) point to and returns one of NVML's codes. Those of a board are
told that board in the place of its handle.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import TYPE_CHECKING, Any

import pynvml

from tests.simulators.board import SimulatedBoard, SimulatedProcess, value_at
from tests.simulators.registry import Device, board_function, device_function, system_function

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.simulators.library import SimulatedNvml

# How ``SimulatedBoard.throttled_s`` calls what these fields and policies count.
_THROTTLE_FIELDS = {
    pynvml.NVML_FI_DEV_PERF_POLICY_POWER: "power",
    pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL: "thermal",
    pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN: "thermal",
    pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN: "hardware thermal",
    pynvml.NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN: "power brake",
}
_THROTTLE_POLICIES = {pynvml.NVML_PERF_POLICY_POWER: "power", pynvml.NVML_PERF_POLICY_THERMAL: "thermal"}

# Library and system


@system_function("nvmlInitWithFlags", c_uint)
def init_with_flags(nvml: SimulatedNvml, flags: int) -> int:
    if nvml.init_error:
        return nvml.init_error
    nvml.initialized += 1
    return 0


@system_function("nvmlInit_v2")
def init_v2(nvml: SimulatedNvml) -> int:
    return init_with_flags(nvml, 0)


@system_function("nvmlShutdown")
def shutdown(nvml: SimulatedNvml) -> int:
    nvml.initialized -= 1
    return 0


@system_function("nvmlErrorString", c_int)
def error_string(nvml: SimulatedNvml, code: int) -> int:
    text = pynvml.NVMLError._errcode_to_string.get(code, f"Error {code}")
    # The caller reads the text after this returns, so it must stay where it is.
    buffer = nvml.error_strings.setdefault(code, ctypes.create_string_buffer(text.encode()))
    return ctypes.addressof(buffer)


@system_function("nvmlSystemGetDriverVersion", c_void_p, c_uint)
def driver_version(nvml: SimulatedNvml, buffer: int, size: int) -> int:
    return _write_text(buffer, size, nvml.driver_version)


@system_function("nvmlSystemGetNVMLVersion", c_void_p, c_uint)
def nvml_version(nvml: SimulatedNvml, buffer: int, size: int) -> int:
    return _write_text(buffer, size, f"13.{nvml.driver_version}")


@system_function("nvmlSystemGetCudaDriverVersion", c_void_p)
def cuda_driver_version(nvml: SimulatedNvml, version: int) -> int:
    return _write(c_int, version, nvml.cuda_driver_version)


@system_function("nvmlSystemGetCudaDriverVersion_v2", c_void_p)
def cuda_driver_version_v2(nvml: SimulatedNvml, version: int) -> int:
    return _write(c_int, version, nvml.cuda_driver_version)


@system_function("nvmlSystemGetProcessName", c_uint, c_void_p, c_uint)
def process_name(nvml: SimulatedNvml, pid: int, buffer: int, size: int) -> int:
    for board in nvml.boards:
        for process in value_at(board.processes, nvml.clock.now_s()):
            if process.pid == pid:
                return _write_text(buffer, size, process.name)
    return int(pynvml.NVML_ERROR_NOT_FOUND)


# Which boards


@system_function("nvmlDeviceGetCount_v2", c_void_p)
def count_v2(nvml: SimulatedNvml, count: int) -> int:
    return _write(c_uint, count, len(nvml.boards))


@system_function("nvmlDeviceGetHandleByIndex_v2", c_uint, c_void_p)
def handle_by_index_v2(nvml: SimulatedNvml, index: int, handle: int) -> int:
    if index >= len(nvml.boards):
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    with nvml.spend_call(nvml.boards[index], "nvmlDeviceGetHandleByIndex_v2"):
        return _write(c_void_p, handle, Device(index, nvml.boards[index]).address)


@system_function("nvmlDeviceGetHandleByUUID", c_char_p, c_void_p)
def handle_by_uuid(nvml: SimulatedNvml, uuid: bytes, handle: int) -> int:
    for index, board in enumerate(nvml.boards):
        slices = [Device(index, board, number) for number, name in enumerate(board.mig_uuids) if name]
        for device in (Device(index, board), *slices):
            if device.uuid == uuid.decode():
                with nvml.spend_call(board, "nvmlDeviceGetHandleByUUID"):
                    return _write(c_void_p, handle, device.address)
    return int(pynvml.NVML_ERROR_NOT_FOUND)


@board_function("nvmlDeviceGetIndex", c_void_p)
def index(nvml: SimulatedNvml, board: SimulatedBoard, index: int) -> int:
    return _write(c_uint, index, nvml.boards.index(board))


@board_function("nvmlDeviceGetMinorNumber", c_void_p)
def minor_number(nvml: SimulatedNvml, board: SimulatedBoard, number: int) -> int:
    return _write(c_uint, number, nvml.boards.index(board))


@device_function("nvmlDeviceGetUUID", c_void_p, c_uint)
def uuid(nvml: SimulatedNvml, device: Device, buffer: int, size: int) -> int:
    return _write_text(buffer, size, device.uuid)


@device_function("nvmlDeviceGetName", c_void_p, c_uint)
def name(nvml: SimulatedNvml, device: Device, buffer: int, size: int) -> int:
    return _write_text(buffer, size, device.board.name)


@board_function("nvmlDeviceGetPciInfo_v3", c_void_p)
def pci_info_v3(nvml: SimulatedNvml, board: SimulatedBoard, info: int) -> int:
    pci = pynvml.nvmlPciInfo_t.from_address(info)
    pci.bus = nvml.boards.index(board) + 1
    pci.busId = f"00000000:{pci.bus:02X}:00.0".encode()
    pci.busIdLegacy = f"0000:{pci.bus:02X}:00.0".encode()
    return 0


@board_function("nvmlDeviceGetArchitecture", c_void_p)
def architecture(nvml: SimulatedNvml, board: SimulatedBoard, architecture: int) -> int:
    return _write(c_uint, architecture, board.architecture)


@board_function("nvmlDeviceGetCudaComputeCapability", c_void_p, c_void_p)
def cuda_compute_capability(nvml: SimulatedNvml, board: SimulatedBoard, major: int, minor: int) -> int:
    capability = board.compute_capability
    return _write(c_int, major, capability[0]) or _write(c_int, minor, capability[1])


@board_function("nvmlDeviceGetPersistenceMode", c_void_p)
def persistence_mode(nvml: SimulatedNvml, board: SimulatedBoard, mode: int) -> int:
    return _write(c_uint, mode, board.persistence_mode)


@board_function("nvmlDeviceGetComputeMode", c_void_p)
def compute_mode(nvml: SimulatedNvml, board: SimulatedBoard, mode: int) -> int:
    return _write(c_uint, mode, pynvml.NVML_COMPUTEMODE_DEFAULT)


# MIG


@board_function("nvmlDeviceGetMigMode", c_void_p, c_void_p)
def mig_mode(nvml: SimulatedNvml, board: SimulatedBoard, current: int, pending: int) -> int:
    mode = board.mig_mode
    return _write_optional(c_uint, current, mode) or _write_optional(c_uint, pending, mode)


@board_function("nvmlDeviceGetMaxMigDeviceCount", c_void_p)
def max_mig_device_count(nvml: SimulatedNvml, board: SimulatedBoard, count: int) -> int:
    return _write(c_uint, count, len(board.mig_uuids))


@board_function("nvmlDeviceGetMigDeviceHandleByIndex", c_uint, c_void_p)
def mig_device_handle_by_index(nvml: SimulatedNvml, board: SimulatedBoard, index: int, slice_handle: int) -> int:
    if index >= len(board.mig_uuids) or board.mig_uuids[index] is None:
        return int(pynvml.NVML_ERROR_NOT_FOUND)
    return _write(c_void_p, slice_handle, Device(nvml.boards.index(board), board, index).address)


@device_function("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", c_void_p)
def device_handle_from_mig_device_handle(nvml: SimulatedNvml, device: Device, handle: int) -> int:
    if device.slice_number is None:
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    return _write(c_void_p, handle, Device(device.number, device.board).address)


@device_function("nvmlDeviceIsMigDeviceHandle", c_void_p)
def is_mig_device_handle(nvml: SimulatedNvml, device: Device, is_slice: int) -> int:
    return _write(c_uint, is_slice, int(device.slice_number is not None))


# Energy and power


@board_function("nvmlDeviceGetTotalEnergyConsumption", c_void_p)
def total_energy_consumption(nvml: SimulatedNvml, board: SimulatedBoard, energy_mj: int) -> int:
    return _write(c_ulonglong, energy_mj, board.counter_mj(nvml.clock.now_s()))


@board_function("nvmlDeviceGetPowerUsage", c_void_p)
def power_usage(nvml: SimulatedNvml, board: SimulatedBoard, power_mw: int) -> int:
    now_s = nvml.clock.now_s()
    power_w = board.average_power_w(now_s) if board.power_window_s else board.instant_power_w(now_s)
    return _write(c_uint, power_mw, round(power_w * 1e3))


@board_function("nvmlDeviceGetFieldValues", c_int, c_void_p)
def field_values(nvml: SimulatedNvml, board: SimulatedBoard, count: int, values: int) -> int:
    now_s = nvml.clock.now_s()
    for value in (pynvml.c_nvmlFieldValue_t * count).from_address(values):
        value.nvmlReturn = board.fault(value.fieldId, now_s)
        if value.nvmlReturn:
            continue
        # Of the query, not of the update that it shows.
        value.timestamp = _microseconds(nvml, now_s)
        if value.fieldId == pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION:
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = board.counter_mj(now_s)
        elif value.fieldId in (pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_FI_DEV_POWER_INSTANT):
            average = value.fieldId == pynvml.NVML_FI_DEV_POWER_AVERAGE
            power_w = board.average_power_w(now_s) if average else board.instant_power_w(now_s)
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
            value.value.uiVal = round(power_w * 1e3)
        elif value.fieldId in _THROTTLE_FIELDS and board.throttled_s is not None:
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = _throttled_ns(board, _THROTTLE_FIELDS[value.fieldId], now_s)
        else:
            value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
    return 0


@board_function("nvmlDeviceGetSamples", c_uint, c_ulonglong, c_void_p, c_void_p, c_void_p)
def samples(
    nvml: SimulatedNvml,
    board: SimulatedBoard,
    kind: int,
    after_us: int,
    value_type: int,
    count: int,
    samples: int | None,
) -> int:
    if kind != pynvml.NVML_TOTAL_POWER_SAMPLES:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    # Rounded dates decide: the last sample that the caller knows is not new.
    dated = ((_microseconds(nvml, s), power_w) for s, power_w in board.power_samples(nvml.clock.now_s(), -math.inf))
    found = [(date_us, power_w) for date_us, power_w in dated if date_us > after_us]
    if not found:
        return int(pynvml.NVML_ERROR_NOT_FOUND)
    _write(c_uint, value_type, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT)
    if samples is None:
        # Asked for the number only, NVML tells how many its buffer holds at most.
        return _write(c_uint, count, board.samples_kept)
    room = c_uint.from_address(count).value
    for place, (date_us, power_w) in zip(_array(pynvml.c_nvmlSample_t, room, samples), found, strict=False):
        place.timeStamp = date_us
        place.sampleValue.uiVal = round(power_w * 1e3)
    return _write(c_uint, count, min(room, len(found)))


# State


@board_function("nvmlDeviceGetEnforcedPowerLimit", c_void_p)
def enforced_power_limit(nvml: SimulatedNvml, board: SimulatedBoard, limit_mw: int) -> int:
    return _write_power_limit(nvml, board, limit_mw)


@board_function("nvmlDeviceGetPowerManagementLimit", c_void_p)
def power_management_limit(nvml: SimulatedNvml, board: SimulatedBoard, limit_mw: int) -> int:
    return _write_power_limit(nvml, board, limit_mw)


@board_function("nvmlDeviceGetPowerManagementDefaultLimit", c_void_p)
def power_management_default_limit(nvml: SimulatedNvml, board: SimulatedBoard, limit_mw: int) -> int:
    return _write_power_limit(nvml, board, limit_mw)


@board_function("nvmlDeviceGetPowerManagementLimitConstraints", c_void_p, c_void_p)
def power_management_limit_constraints(nvml: SimulatedNvml, board: SimulatedBoard, lowest: int, highest: int) -> int:
    return _write_power_limit(nvml, board, lowest) or _write_power_limit(nvml, board, highest)


@board_function("nvmlDeviceGetClockInfo", c_uint, c_void_p)
def clock_info(nvml: SimulatedNvml, board: SimulatedBoard, kind: int, clock_mhz: int) -> int:
    clock_hz = value_at(board.sm_clock_hz, nvml.clock.now_s())
    return _write_optional(c_uint, clock_mhz, None if clock_hz is None else round(clock_hz / 1e6))


@board_function("nvmlDeviceGetMaxClockInfo", c_uint, c_void_p)
def max_clock_info(nvml: SimulatedNvml, board: SimulatedBoard, kind: int, clock_mhz: int) -> int:
    return _write(c_uint, clock_mhz, 1980)


@board_function("nvmlDeviceGetTemperature", c_uint, c_void_p)
def temperature(nvml: SimulatedNvml, board: SimulatedBoard, sensor: int, temperature: int) -> int:
    return _write_optional(c_uint, temperature, value_at(board.temperature_c, nvml.clock.now_s()))


@board_function("nvmlDeviceGetTemperatureV", c_void_p)
def temperature_v(nvml: SimulatedNvml, board: SimulatedBoard, temperature: int) -> int:
    celsius = value_at(board.temperature_c, nvml.clock.now_s())
    if celsius is None:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    pynvml.c_nvmlTemperature_v1_t.from_address(temperature).temperature = celsius
    return 0


@board_function("nvmlDeviceGetTemperatureThreshold", c_uint, c_void_p)
def temperature_threshold(nvml: SimulatedNvml, board: SimulatedBoard, kind: int, temperature: int) -> int:
    slowdown = kind == pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
    return _write_optional(c_uint, temperature, board.slowdown_temperature_c if slowdown else None)


@board_function("nvmlDeviceGetViolationStatus", c_uint, c_void_p)
def violation_status(nvml: SimulatedNvml, board: SimulatedBoard, policy: int, status: int) -> int:
    if board.throttled_s is None or policy not in _THROTTLE_POLICIES:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    now_s = nvml.clock.now_s()
    violation = pynvml.c_nvmlViolationTime_t.from_address(status)
    violation.referenceTime = round(now_s * 1e9)
    violation.violationTime = _throttled_ns(board, _THROTTLE_POLICIES[policy], now_s)
    return 0


@board_function("nvmlDeviceGetUtilizationRates", c_void_p)
def utilization_rates(nvml: SimulatedNvml, board: SimulatedBoard, rates: int) -> int:
    percent = value_at(board.utilization_percent, nvml.clock.now_s())
    if percent is None:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    pynvml.c_nvmlUtilization_t.from_address(rates).gpu = percent
    return 0


@board_function("nvmlDeviceGetMemoryInfo", c_void_p)
def memory_info(nvml: SimulatedNvml, board: SimulatedBoard, memory: int) -> int:
    if board.total_memory_bytes is None:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    processes = value_at(board.processes, nvml.clock.now_s())
    info = pynvml.c_nvmlMemory_t.from_address(memory)
    info.total = board.total_memory_bytes
    info.used = sum(process.used_memory_bytes or 0 for process in processes)
    info.free = info.total - info.used
    return 0


@board_function("nvmlDeviceGetCurrentClocksEventReasons", c_void_p)
def current_clocks_event_reasons(nvml: SimulatedNvml, board: SimulatedBoard, reasons: int) -> int:
    return _write_optional(c_ulonglong, reasons, value_at(board.clocks_event_reasons, nvml.clock.now_s()))


@board_function("nvmlDeviceGetCurrentClocksThrottleReasons", c_void_p)
def current_clocks_throttle_reasons(nvml: SimulatedNvml, board: SimulatedBoard, reasons: int) -> int:
    return _write_optional(c_ulonglong, reasons, value_at(board.clocks_event_reasons, nvml.clock.now_s()))


@board_function("nvmlDeviceGetComputeRunningProcesses_v3", c_void_p, c_void_p)
def compute_running_processes_v3(nvml: SimulatedNvml, board: SimulatedBoard, count: int, infos: int | None) -> int:
    return _write_processes(value_at(board.processes, nvml.clock.now_s()), count, infos)


@board_function("nvmlDeviceGetComputeRunningProcesses_v2", c_void_p, c_void_p)
def compute_running_processes_v2(nvml: SimulatedNvml, board: SimulatedBoard, count: int, infos: int | None) -> int:
    return compute_running_processes_v3(nvml, board, count, infos)


@board_function("nvmlDeviceGetGraphicsRunningProcesses_v3", c_void_p, c_void_p)
def graphics_running_processes_v3(nvml: SimulatedNvml, board: SimulatedBoard, count: int, infos: int | None) -> int:
    return _write_processes((), count, infos)


def _microseconds(nvml: SimulatedNvml, moment_s: float) -> int:
    """A moment as NVML's timestamps tell it, in microseconds since 1970."""
    return round((nvml.epoch_s + moment_s) * 1e6)


def _throttled_ns(board: SimulatedBoard, reason: str, now_s: float) -> int:
    seconds = (board.throttled_s or {}).get(reason, 0.0)
    return round(value_at(seconds, now_s) * 1e9)


def _write(kind: Any, address: int, value: int) -> int:
    kind.from_address(address).value = value
    return 0


def _write_optional(kind: Any, address: int, value: int | None) -> int:
    return int(pynvml.NVML_ERROR_NOT_SUPPORTED) if value is None else _write(kind, address, value)


def _write_text(address: int, size: int, text: str) -> int:
    data = text.encode() + b"\0"
    if len(data) > size:
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    ctypes.memmove(address, data, len(data))
    return 0


def _array(kind: Any, length: int, address: int) -> Iterator[Any]:
    return iter((kind * length).from_address(address))


def _write_processes(processes: Sequence[SimulatedProcess], count: int, infos: int | None) -> int:
    room = c_uint.from_address(count).value
    _write(c_uint, count, len(processes))
    if room < len(processes):
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    for process, info in zip(processes, _array(pynvml.c_nvmlProcessInfo_v3_t, room, infos or 0), strict=False):
        info.pid = process.pid
        info.usedGpuMemory = (
            pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value
            if process.used_memory_bytes is None
            else process.used_memory_bytes
        )
    return 0


def _write_power_limit(nvml: SimulatedNvml, board: SimulatedBoard, address: int) -> int:
    limit_w = value_at(board.power_limit_w, nvml.clock.now_s())
    return _write_optional(c_uint, address, None if limit_w is None else round(limit_w * 1e3))
