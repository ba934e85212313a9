"""The boards that NVML shows to this process.

NVML is reached through ``pynvml``, which is imported only when NVML is opened, so that a run without a GPU
never pays for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters.nvidia.visibility import describe, select_visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Board:
    """One GPU board. What the board or its driver does not report is ``None``.

    Attributes:
        uuid: as NVML spells it, ``GPU-...``.
        index: the number that NVML gives it (PCI order).
        name: product name.
        driver_version: version of the NVIDIA driver.
        cuda_driver_version: newest CUDA version that the driver supports, as ``major.minor``.
        power_limit_w: the power limit in force, in watts.
        mig_enabled: whether the board is divided into MIG slices.
        mig_uuids: UUIDs of its MIG slices, ``MIG-...``; empty without MIG.
        total_memory_bytes: memory of the board, in bytes.
    """

    uuid: str
    index: int
    name: str | None = None
    driver_version: str | None = None
    cuda_driver_version: str | None = None
    power_limit_w: float | None = None
    mig_enabled: bool | None = None
    mig_uuids: tuple[str, ...] = ()
    total_memory_bytes: int | None = None


class Nvml:
    """An initialised NVML library.

    NVML counts how often a process has initialised it, so each instance holds one count of its own and takes
    only that one back: other users of NVML in the process (torch, another meter) are not disturbed.
    """

    def __init__(self) -> None:
        """Load and initialise NVML.

        Raises:
            MeterUnavailableError: there is no binding, no library or no driver; the text says how to fix it.
        """
        try:
            import pynvml
        except ImportError as error:
            raise MeterUnavailableError(
                "the Python package nvidia-ml-py is missing; pip install nvidia-ml-py"
            ) from error
        # Typed as Any on purpose: the binding ships no annotations.
        self.binding: Any = pynvml
        try:
            self.binding.nvmlInit()
        except self.binding.NVMLError as error:
            raise MeterUnavailableError(self._remedy(error)) from error
        self._open = True
        self._handles: dict[str, Any] = {}

    def close(self) -> None:
        """Return this instance's count. Closing twice is harmless."""
        if not self._open:
            return
        self._open = False
        try:
            self.binding.nvmlShutdown()
        except (self.binding.NVMLError_Uninitialized, self.binding.NVMLError_FunctionNotFound):
            # Other code shut it down too often, or the library has no such function: no count is left to return.
            return

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def boards(self) -> list[Board]:
        """Every board this process has permission for, in PCI order, whatever ``CUDA_VISIBLE_DEVICES`` says.

        Boards that cannot be opened (no permission, fallen off the bus) are left out, as CUDA leaves them
        out.

        Raises:
            MeterUnavailableError: NVML cannot enumerate boards at all.
        """
        try:
            return list(self._found())
        except self.binding.NVMLError as error:
            raise MeterUnavailableError(f"NVML cannot list its boards: {error}") from error

    def handle(self, uuid: str) -> Any:
        """NVML's handle of a board that :meth:`boards` has found."""
        return self._handles[uuid]

    def optional(self, query: str, *arguments: Any) -> Any | None:
        """The answer to one of NVML's queries by its name, or ``None`` where NVML cannot answer it."""
        try:
            return getattr(self.binding, query)(*arguments)
        except (self.binding.NVMLError, AttributeError):
            # AttributeError: this release of the binding does not have the query yet.
            return None

    def field_values(self, handle: Any, fields: Iterable[int]) -> dict[int, int]:
        """NVML's field values, whole numbers, by their number; those that the board does not have are left out."""
        kinds = self.binding
        names = {
            kinds.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
            kinds.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
            kinds.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        }
        values = self.optional("nvmlDeviceGetFieldValues", handle, list(fields)) or ()
        return {
            int(value.fieldId): int(getattr(value.value, names[value.valueType]))
            for value in values
            if value.nvmlReturn == kinds.NVML_SUCCESS and value.valueType in names
        }

    def _optional_text(self, query: str, *arguments: Any) -> str | None:
        text = self.optional(query, *arguments)
        return None if text is None else _text(text)

    def _found(self) -> Iterator[Board]:
        nvml = self.binding
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            except nvml.NVMLError_FunctionNotFound:
                raise  # of the library, not of this board
            except nvml.NVMLError:
                continue
            self._handles[uuid] = handle
            yield self._describe(index, uuid, handle)

    def _describe(self, index: int, uuid: str, handle: Any) -> Board:
        ask = self.optional
        cuda = ask("nvmlSystemGetCudaDriverVersion")
        power_limit_mw = ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        mig_mode = ask("nvmlDeviceGetMigMode", handle)
        mig_enabled = None if mig_mode is None else bool(mig_mode[0])
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        return Board(
            uuid=uuid,
            index=index,
            name=self._optional_text("nvmlDeviceGetName", handle),
            driver_version=self._optional_text("nvmlSystemGetDriverVersion"),
            # NVML packs the version as 1000 * major + 10 * minor.
            cuda_driver_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            power_limit_w=None if power_limit_mw is None else power_limit_mw / 1e3,
            mig_enabled=mig_enabled,
            mig_uuids=self._mig_uuids(handle) if mig_enabled else (),
            total_memory_bytes=None if memory is None else int(memory.total),
        )

    def _mig_uuids(self, handle: Any) -> tuple[str, ...]:
        uuids = []
        for index in range(self.optional("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            # Slices may be created at any free index, so an empty one does not end the list.
            slice_handle = self.optional("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            uuid = slice_handle and self._optional_text("nvmlDeviceGetUUID", slice_handle)
            if uuid:
                uuids.append(uuid)
        return tuple(uuids)

    def _remedy(self, error: Exception) -> str:
        nvml = self.binding
        remedies = {
            nvml.NVMLError_LibraryNotFound: "libnvidia-ml.so.1 was not found; install the NVIDIA driver, or start the "
            "container with its GPUs (docker run --gpus all)",
            nvml.NVMLError_DriverNotLoaded: "the NVIDIA kernel driver is not loaded; load it (modprobe nvidia) and try "
            "nvidia-smi",
            nvml.NVMLError_LibRmVersionMismatch: "the NVIDIA driver was updated under the running kernel module; "
            "reboot or reload it",
            nvml.NVMLError_NoPermission: "no permission to open the NVIDIA device files; grant this user access to "
            "/dev/nvidia*",
        }
        otherwise = f"NVML could not be initialised ({error}); see what nvidia-smi says"
        return remedies.get(type(error), otherwise)


def visible_boards() -> list[Board]:
    """The boards that CUDA lets this process use.

    Raises:
        MeterUnavailableError: NVML cannot work here, or ``CUDA_VISIBLE_DEVICES`` names a MIG slice.
    """
    with Nvml() as nvml:
        return list(select_visible(nvml.boards(), os.environ).boards)


def lost_board(board: Board, error: Exception) -> MeasurementError:
    """The error for a board that stopped answering."""
    return MeasurementError(
        f"{describe([board])} stopped answering while it was measured: {error}; the kernel log names "
        "the cause (dmesg | grep -i xid)"
    )


def _text(value: Any) -> str:
    # Older bindings return bytes.
    return value.decode() if isinstance(value, bytes) else str(value)
