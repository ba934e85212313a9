"""Joules modelled from CPU time, for machines whose sensors cannot be read.

The model is one line: the CPU seconds of this process (all its threads) times a constant power per busy core.
It sees how much the processor worked, not at which clock or voltage, nor memory, nor other parts of the
machine. It follows changes of the work done; its absolute value is only an order of magnitude.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.base import Clock, Synchronize, UnwatchedMeter, Window, no_synchronize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WATTS_PER_CORE_VARIABLE = "PYTEST_LLEM_WATTS_PER_CORE"

DEFAULT_WATTS_PER_CORE = 5.0
"""Power of one busy core, in watts.

Rated power (TDP) over the number of cores gives 3.8 W for an AMD EPYC 9654 (360 W, 96 cores), 6.3 W for an
Intel Xeon Platinum 8480+ (350 W, 56 cores) and 5.2 W for an Intel Core i9-13900K (125 W, 24 cores); this is
the round value between.
"""


class EstimateMeter(UnwatchedMeter):
    """CPU seconds of this process times watts per core."""

    name = "estimate"
    estimated = True
    reports_energy = True
    auto_window_s = 1.0

    def __init__(self, clock: Clock, watts_per_core: float | None = None) -> None:
        """Fix the model's one constant.

        Args:
            clock: where time and CPU time are read.
            watts_per_core: power of one busy core in watts; default: the environment variable
                ``PYTEST_LLEM_WATTS_PER_CORE``, else :data:`DEFAULT_WATTS_PER_CORE`.

        Raises:
            MeterUnavailableError: the figure is not a positive number.
        """
        self._clock = clock
        self.watts_per_core = _watts_per_core(watts_per_core, os.environ)
        self._warning = (
            f"energy is estimated, not measured: CPU seconds times {self.watts_per_core:g} W per core "
            f"({WATTS_PER_CORE_VARIABLE}); its uncertainty is not known"
        )

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Measure the body of the ``with`` block; see :class:`pytest_llem.meters.base.Meter`."""
        window = Window(warnings=[self._warning])
        synchronize()
        start_cpu_s = self._clock.cpu_s()
        start_s = self._clock.now_s()
        yield window
        synchronize()
        window.seconds = self._clock.now_s() - start_s
        cpu_s = self._clock.cpu_s() - start_cpu_s
        if cpu_s > 0:
            window.joules = cpu_s * self.watts_per_core
        else:
            window.reason = (
                "below the resolution of the CPU clock: no CPU time was counted in "
                f"{window.seconds:.3g} s; measure a longer window"
            )

    def __enter__(self) -> EstimateMeter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _watts_per_core(argument: float | None, environ: Mapping[str, str]) -> float:
    text = environ.get(WATTS_PER_CORE_VARIABLE)
    if argument is not None:
        origin, value = "watts_per_core", argument
    elif text is None:
        return DEFAULT_WATTS_PER_CORE
    else:
        origin = WATTS_PER_CORE_VARIABLE
        try:
            value = float(text)
        except ValueError:
            value = math.nan
    if not (math.isfinite(value) and value > 0):
        shown = text if argument is None else argument
        raise MeterUnavailableError(f"{origin}={shown}: must be a positive number of watts", meter="estimate")
    return value
