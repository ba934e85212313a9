from __future__ import annotations

import pynvml
import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.nvidia.library import Board, Nvml, visible_boards
from tests.simulators import SimulatedBoard, SimulatedClock, install

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


def test_what_a_board_says() -> None:
    board = SimulatedBoard(uuid="GPU-1", name="NVIDIA H100", power_limit_w=650.5, total_memory_bytes=80 << 30)
    with install([board], cuda_driver_version=12080), Nvml() as nvml:
        assert nvml.boards() == [
            Board(
                uuid="GPU-1",
                index=0,
                name="NVIDIA H100",
                driver_version="580.95.05",
                cuda_driver_version="12.8",
                power_limit_w=650.5,
                mig_enabled=False,
                total_memory_bytes=80 << 30,
            )
        ]


def test_what_a_board_does_not_say_is_none() -> None:
    names = (
        "nvmlDeviceGetName",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMemoryInfo",
    )
    silent = SimulatedBoard(uuid="GPU-1", errors=dict.fromkeys(names, NOT_SUPPORTED))
    absent = ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion")
    with install([silent], missing=absent), Nvml() as nvml:
        assert nvml.boards() == [Board(uuid="GPU-1", index=0)]


def test_mig_slices_are_found_behind_free_indices() -> None:
    board = SimulatedBoard(uuid="GPU-1", mig_mode=1, mig_uuids=["MIG-a", None, "MIG-b"])
    with install([board]), Nvml() as nvml:
        (found,) = nvml.boards()
    assert found.mig_enabled
    assert found.mig_uuids == ("MIG-a", "MIG-b")


def test_a_board_without_permission_has_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_NO_PERMISSION}
    boards = [SimulatedBoard(uuid="GPU-0", errors=refused), SimulatedBoard(uuid="GPU-1")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with install(boards):
        assert [board.uuid for board in visible_boards()] == ["GPU-1"]


class TestInitialisation:
    def test_each_instance_gives_back_its_own_count(self) -> None:
        with install([SimulatedBoard()]) as library:
            first, second = Nvml(), Nvml()
            first.close()
            first.close()
            assert library.initialized == 1
            assert len(second.boards()) == 1
            second.close()
            assert library.initialized == 0

    def test_closing_after_a_foreign_shutdown_is_harmless(self) -> None:
        with install([SimulatedBoard()]):
            nvml = Nvml()
            pynvml.nvmlShutdown()
            nvml.close()

    @pytest.mark.parametrize(
        ("code", "mend"),
        [
            (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "modprobe nvidia"),
            (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
            (pynvml.NVML_ERROR_NO_PERMISSION, "/dev/nvidia"),
            (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
        ],
    )
    def test_a_driver_that_does_not_work_says_how_to_mend_it(self, code: int, mend: str) -> None:
        with install(init_error=code), pytest.raises(MeterUnavailableError, match=mend):
            Nvml()

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_library(name: str) -> None:
            raise OSError(name)

        with install() as library:
            monkeypatch.setattr(pynvml, "nvmlLib", None)
            monkeypatch.setattr(pynvml, "CDLL", no_library)
            with pytest.raises(MeterUnavailableError, match=r"libnvidia-ml\.so\.1 was not found"):
                Nvml()
            monkeypatch.undo()
            assert library.calls == {}

    def test_a_lost_board_is_left_out(self) -> None:
        clock = SimulatedClock()
        with install([SimulatedBoard(lost_at_s=clock.now_s())], clock), Nvml() as nvml:
            assert nvml.boards() == []
