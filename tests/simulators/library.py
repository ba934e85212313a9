"""A machine's NVML library with simulated boards, put beneath ``pynvml``.

``pynvml`` looks each function up in its loaded library by its C name. Here that library is an object whose
attributes are C functions made of Python, so that all of ``pynvml`` above it is the real thing. A function
that is not simulated is missing, as in an old driver: ``NVML_ERROR_FUNCTION_NOT_FOUND``.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from ctypes import c_int, c_void_p
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml

from pytest_llem.meters.base import Clock, SystemClock
from tests.simulators import functions as _functions  # noqa: F401 (fills the registry)
from tests.simulators.clock import SimulatedClock
from tests.simulators.registry import FUNCTIONS, NvmlFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from tests.simulators.board import SimulatedBoard

_WITHOUT_INIT = ("nvmlInitWithFlags", "nvmlInit_v2", "nvmlErrorString")


class SimulatedNvml:
    """NVML on a machine with these boards.

    Attributes:
        boards: in NVML's order.
        clock: the time that the boards live in.
        init_error: what initialising returns; 0: success.
        errors: error codes of functions, by C name, whatever the board; may be changed at any time.
        initialized: how often NVML is initialised at the moment.
        calls: how often each function was called.
    """

    def __init__(
        self,
        boards: Sequence[SimulatedBoard] = (),
        clock: Clock | None = None,
        *,
        init_error: int = 0,
        missing: Collection[str] = (),
        driver_version: str = "580.95.05",
        cuda_driver_version: int = 13000,
    ) -> None:
        """Build the library; :meth:`install` puts it to use.

        Args:
            boards: in NVML's order.
            clock: the time that the boards live in; default: real time.
            init_error: what initialising returns.
            missing: C names of functions that this driver does not have.
            driver_version: version of the driver.
            cuda_driver_version: as NVML packs it, 1000 * major + 10 * minor.
        """
        self.boards = list(boards)
        self.clock = SystemClock() if clock is None else clock
        # Wall-clock time of the clock's zero. Found once: a sample's date must be the same whenever it is read.
        self.epoch_s = self.clock.wall_s() - self.clock.now_s()
        self.init_error = init_error
        self.errors: dict[str, int] = {}
        self.driver_version = driver_version
        self.cuda_driver_version = cuda_driver_version
        self.initialized = 0
        self.calls: dict[str, int] = {}
        self.error_strings: dict[int, Any] = {}
        self._functions = SimpleNamespace(
            **{name: self._c_function(name, *FUNCTIONS[name]) for name in FUNCTIONS.keys() - set(missing)}
        )
        self._before: tuple[Any, dict[str, Any], int] | None = None

    def install(self) -> SimulatedNvml:
        """Put this library beneath ``pynvml``, as if it had been loaded and not yet initialised."""
        if self._before is not None:
            raise RuntimeError("this library is installed already")
        cache = pynvml._nvmlGetFunctionPointer_cache
        self._before = (pynvml.nvmlLib, dict(cache), pynvml._nvmlLib_refcount)
        # The binding caches functions by name: those of the library before must go.
        cache.clear()
        pynvml.nvmlLib = self._functions
        pynvml._nvmlLib_refcount = 0
        return self

    def uninstall(self) -> None:
        """Put back what was there before. Doing it twice is harmless."""
        if self._before is None:
            return
        cache = pynvml._nvmlGetFunctionPointer_cache
        cache.clear()
        pynvml.nvmlLib, functions_before, pynvml._nvmlLib_refcount = self._before
        cache.update(functions_before)
        self._before = None

    def __enter__(self) -> SimulatedNvml:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.uninstall()

    @contextmanager
    def spend_call(self, board: SimulatedBoard, function: str) -> Iterator[None]:
        """Let the time of a call about a board pass, part of it before the board is looked at, the rest after.

        Raises:
            NvmlFailure: the call fails.
        """
        before_s, after_s = board.draw_call_s() if isinstance(self.clock, SimulatedClock) else (0.0, 0.0)
        self._spend(before_s)
        try:
            fault = board.fault(function, self.clock.now_s())
            if fault:
                raise NvmlFailure(fault)
            yield
        finally:
            self._spend(after_s)

    def _spend(self, seconds: float) -> None:
        if isinstance(self.clock, SimulatedClock):
            self.clock.work(seconds)

    def _c_function(self, name: str, function: Callable[..., int], argument_types: Sequence[Any]) -> Any:
        def call(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            if name in self.errors:
                return self.errors[name]
            if not self.initialized and name not in _WITHOUT_INIT:
                return int(pynvml.NVML_ERROR_UNINITIALIZED)
            try:
                return function(self, *arguments)
            except NvmlFailure as failure:
                return failure.code

        # The one function that returns text and no code.
        result_type = c_void_p if name == "nvmlErrorString" else c_int
        return ctypes.CFUNCTYPE(result_type, *argument_types)(call)


def install(boards: Sequence[SimulatedBoard] = (), clock: Clock | None = None, **options: Any) -> SimulatedNvml:
    """Put a machine with these boards beneath ``pynvml``; take it away by ``with`` or ``uninstall()``.

    Args:
        boards: in NVML's order.
        clock: the time that the boards live in; default: real time.
        options: further arguments of :class:`SimulatedNvml`.
    """
    return SimulatedNvml(boards, clock, **options).install()
