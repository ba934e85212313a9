"""How a C function of NVML is told: its name, the C types of its arguments, and what it is about.

A handle arrives as what it stands for; a failure leaves as one of NVML's codes.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pynvml

if TYPE_CHECKING:
    from tests.simulators.board import SimulatedBoard
    from tests.simulators.library import SimulatedNvml

FUNCTIONS: dict[str, tuple[Callable[..., int], tuple[Any, ...]]] = {}
"""By C name: what to call with the library and its arguments, and the C types of these."""

_BOARD_STRIDE = 0x10000
_SLICE_STRIDE = 0x100

Function = TypeVar("Function", bound=Callable[..., int])


class NvmlFailure(Exception):  # noqa: N818
    """Leaves a function with one of NVML's error codes."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Device:
    """What a handle stands for: a board or one of its MIG slices."""

    number: int
    board: SimulatedBoard
    slice_number: int | None = None

    @property
    def uuid(self) -> str:
        if self.slice_number is None:
            return self.board.uuid
        return str(self.board.mig_uuids[self.slice_number])

    @property
    def address(self) -> int:
        """The value of its handle, which nothing ever follows."""
        slices = 0 if self.slice_number is None else self.slice_number + 1
        return (self.number + 1) * _BOARD_STRIDE + slices * _SLICE_STRIDE


def system_function(c_name: str, *argument_types: Any) -> Callable[[Function], Function]:
    """A function of the library: called with the library and its own arguments."""

    def register(function: Function) -> Function:
        FUNCTIONS[c_name] = (function, argument_types)
        return function

    return register


def device_function(c_name: str, *argument_types: Any) -> Callable[[Function], Function]:
    """A function of boards and of MIG slices: its first argument, a handle, arrives as a :class:`Device`."""

    def register(function: Function) -> Function:
        def with_handle(nvml: SimulatedNvml, handle: int | None, *arguments: Any) -> int:
            device = _device(nvml, handle)
            with nvml.spend_call(device.board, c_name):
                return function(nvml, device, *arguments)

        FUNCTIONS[c_name] = (with_handle, (c_void_p, *argument_types))
        return function

    return register


def board_function(c_name: str, *argument_types: Any) -> Callable[[Function], Function]:
    """A function of whole boards: its first argument, a handle, arrives as a :class:`SimulatedBoard`."""

    def register(function: Function) -> Function:
        @device_function(c_name, *argument_types)
        def of_whole_board(nvml: SimulatedNvml, device: Device, *arguments: Any) -> int:
            if device.slice_number is not None:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return function(nvml, device.board, *arguments)

        return function

    return register


def _device(nvml: SimulatedNvml, handle: int | None) -> Device:
    number, rest = divmod(handle or 0, _BOARD_STRIDE)
    if not 1 <= number <= len(nvml.boards):
        raise NvmlFailure(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    slices = rest // _SLICE_STRIDE
    return Device(number - 1, nvml.boards[number - 1], slices - 1 if slices else None)
