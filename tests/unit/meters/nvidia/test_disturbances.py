"""What makes a window invalid, what only labels it, and what nobody can tell."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from pytest_llem.meters import Window, open_meter
from tests.simulators import SimulatedBoard, SimulatedClock, SimulatedProcess, install

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
LISTS_OF_PROCESSES = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")

SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE, HARDWARE = 0x20, 0x40, 0x80, 0x08
IDLE, APPLICATION_CLOCKS, POWER_CAP = 0x01, 0x02, 0x04


def window_of(*boards: SimulatedBoard, missing: tuple[str, ...] = ()) -> Window:
    """A window of one second; what changes at ``at(...)`` changes within it."""
    clock = SimulatedClock()
    with (
        install(boards, clock, missing=missing),
        open_meter("nvml", device="cuda", clock=clock) as meter,
    ):
        assert meter.auto_window_s < 1.0
        # The calibration is over well before.
        clock.sleep(1020.0 - clock.now_s())
        with meter.window() as window:
            clock.work(1.0)
    return window


def at(moment_s: float, before: Any, after: Any) -> Callable[[float], Any]:
    """``after`` from that many seconds after the start of the waiting for the window on."""
    return lambda now_s: after if now_s >= 1020.0 + moment_s else before


class TestThrottling:
    @pytest.mark.parametrize(
        ("reasons", "text"),
        [
            (SOFTWARE_THERMAL, "software thermal slowdown"),
            (HARDWARE | HARDWARE_THERMAL, "hardware thermal slowdown"),
            (HARDWARE | POWER_BRAKE, "hardware power brake"),
            (HARDWARE, "hardware slowdown"),
        ],
    )
    def test_heat_and_hardware_brakes_at_the_end_make_the_window_invalid(self, reasons: int, text: str) -> None:
        window = window_of(SimulatedBoard(uuid="GPU-1", clocks_event_reasons=at(0.5, 0, reasons | POWER_CAP)))
        assert not window.valid
        (throttled,) = window.disturbances
        assert throttled.kind == "throttled"
        assert throttled.text.endswith(f"GPU-1 (NVIDIA Simulated H100) was throttled in the window: {text}")
        assert throttled.text in window.warnings
        # The joules are those that were used, whatever they are worth.
        assert window.joules is not None

    def test_at_the_start_too(self) -> None:
        window = window_of(SimulatedBoard(clocks_event_reasons=at(0.5, SOFTWARE_THERMAL, 0)))
        assert not window.valid

    def test_reasons_are_read_before_the_counter_is_waited_for(self) -> None:
        """They go with the work: 10 ms later nothing is to be seen any more."""

        def until_10_ms_after_the_work(now_s: float) -> int:
            return HARDWARE_THERMAL if 1020.6 < now_s < ended_s[0] + 0.01 else 0

        ended_s = [1e9]
        clock = SimulatedClock()
        board = SimulatedBoard(clocks_event_reasons=until_10_ms_after_the_work, read_cost_s=0.0005)
        with install([board], clock), open_meter("nvml", clock=clock) as meter:
            assert meter.auto_window_s < 1.0
            clock.sleep(1020.0 - clock.now_s())
            with meter.window() as window:
                clock.work(1.0)
                ended_s[0] = clock.now_s()
        assert not window.valid

    @pytest.mark.parametrize("reason", ["thermal", "hardware thermal", "power brake"])
    def test_what_comes_and_goes_within_the_window_is_seen_by_the_time_counters(self, reason: str) -> None:
        window = window_of(SimulatedBoard(throttled_s={reason: at(0.5, 17.0, 17.01)}))
        assert [one.kind for one in window.disturbances] == ["throttled"]
        assert not window.valid

    def test_boards_without_those_fields_have_the_violation_status(self) -> None:
        errors = dict.fromkeys((74, 75, 269, 270, 271), NOT_SUPPORTED)
        window = window_of(SimulatedBoard(throttled_s={"thermal": at(0.5, 0.0, 0.01)}, errors=errors))
        assert [one.text for one in window.disturbances] == [
            "GPU-00000000-0000-0000-0000-000000000000 (NVIDIA Simulated H100) was throttled in the window: "
            "thermal slowdown"
        ]

    def test_what_was_before_the_window_is_none_of_its_business(self) -> None:
        assert window_of(SimulatedBoard(throttled_s={"thermal": at(-1.0, 0.0, 5.0)})).valid

    def test_the_names_that_older_drivers_know_do_as_well(self) -> None:
        board = SimulatedBoard(clocks_event_reasons=HARDWARE_THERMAL)
        assert not window_of(board, missing=("nvmlDeviceGetCurrentClocksEventReasons",)).valid

    def test_a_board_that_does_not_tell_is_valid_and_says_so(self) -> None:
        window = window_of(SimulatedBoard(uuid="GPU-1", clocks_event_reasons=None))
        assert window.valid
        (warning,) = window.warnings
        assert warning.startswith("NVML does not report whether GPU-1")

    def test_a_board_that_counts_but_gives_no_reasons_tells_enough(self) -> None:
        assert window_of(SimulatedBoard(clocks_event_reasons=None, throttled_s={})).warnings == []


class TestLabels:
    @pytest.mark.parametrize(
        ("board", "labels"),
        [
            (SimulatedBoard(clocks_event_reasons=IDLE), []),
            (SimulatedBoard(clocks_event_reasons=POWER_CAP), ["power capped"]),
            (SimulatedBoard(clocks_event_reasons=APPLICATION_CLOCKS), ["application clocks set"]),
            (SimulatedBoard(throttled_s={"power": at(0.5, 0.0, 0.3)}), ["power capped"]),
            (
                SimulatedBoard(clocks_event_reasons=POWER_CAP, throttled_s={"power": at(0.5, 0.0, 0.3)}),
                ["power capped"],
            ),
            (SimulatedBoard(throttled_s={"power": 12.0}), []),
        ],
    )
    def test_a_power_cap_or_set_clocks_are_labels_and_no_faults(self, board: SimulatedBoard, labels: list[str]) -> None:
        window = window_of(board)
        assert window.labels == labels
        assert window.valid
        assert window.warnings == []

    def test_a_label_of_two_boards_is_said_once(self) -> None:
        boards = [SimulatedBoard(uuid=uuid, clocks_event_reasons=POWER_CAP) for uuid in ("GPU-a", "GPU-b")]
        assert window_of(*boards).labels == ["power capped"]


class TestProcesses:
    def test_our_own_process_disturbs_nothing(self) -> None:
        assert window_of(SimulatedBoard(processes=[SimulatedProcess(os.getpid())])).valid

    def test_foreign_processes_are_named(self) -> None:
        foreign = [SimulatedProcess(4711, "train.py"), SimulatedProcess(4712, "serve", used_memory_bytes=None)]
        board = SimulatedBoard(uuid="GPU-1", processes=[SimulatedProcess(os.getpid()), *foreign])
        window = window_of(SimulatedBoard(uuid="GPU-0"), board)
        assert not window.valid
        assert [one.kind for one in window.disturbances] == ["foreign_process"] * 2
        assert "GPU-1" in window.warnings[0]
        assert "PID 4711 (train.py)" in window.warnings[0]
        assert "PID 4712 (serve)" in window.warnings[1]

    @pytest.mark.parametrize(("before", "after"), [([4711], []), ([], [4711])])
    def test_those_that_come_or_go_in_the_window_count(self, before: list[int], after: list[int]) -> None:
        processes = at(0.5, [SimulatedProcess(pid) for pid in before], [SimulatedProcess(pid) for pid in after])
        window = window_of(SimulatedBoard(processes=processes))
        assert len(window.disturbances) == 1

    @pytest.mark.parametrize("code", [NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
    def test_a_board_that_does_not_tell_is_valid_and_says_so(self, code: int) -> None:
        window = window_of(SimulatedBoard(uuid="GPU-1", errors=dict.fromkeys(LISTS_OF_PROCESSES, code)))
        assert window.valid
        (warning,) = window.warnings
        assert "does not report which processes use GPU-1" in warning

    def test_an_older_library_is_asked_in_its_way(self) -> None:
        board = SimulatedBoard(processes=[SimulatedProcess(4711)])
        assert len(window_of(board, missing=LISTS_OF_PROCESSES[:1]).disturbances) == 1

    def test_a_library_without_the_query_is_a_board_that_does_not_tell(self) -> None:
        window = window_of(SimulatedBoard(uuid="GPU-1"), missing=LISTS_OF_PROCESSES)
        (warning,) = window.warnings
        assert "does not report which processes use GPU-1" in warning

    def test_in_a_container_the_one_process_is_ours_and_several_are_foreign(self, proc: Path) -> None:
        (proc / "self/ns/pid").unlink()
        (proc / "self/ns/pid").symlink_to("pid:[4026532999]")
        (proc / str(os.getpid()) / "fd").mkdir(parents=True)
        (proc / str(os.getpid()) / "fd/9").symlink_to("/dev/nvidia-uvm")
        assert window_of(SimulatedBoard(processes=[SimulatedProcess(31337)])).valid
        several = window_of(SimulatedBoard(processes=[SimulatedProcess(31337), SimulatedProcess(31338)]))
        assert ["PID 3133" in text for text in several.warnings] == [True, True]
        hidden = window_of(SimulatedBoard(processes=[]))
        assert hidden.valid
        assert "not even our own" in hidden.warnings[0]
