"""Joules modelled from CPU time, for machines whose sensors cannot be read.

The model is one line: the CPU seconds of this process (all its threads), and of those that it has started, times a
constant power per busy core.
It sees how much the processor worked, not at which clock or voltage, nor memory, nor other parts of the
machine. It follows changes of the work done; its absolute value is only an order of magnitude.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.simple import SimpleMeter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.meters.base import MeterRequest, Window

WATTS_PER_CORE_VARIABLE = "PYTEST_LLEM_WATTS_PER_CORE"

DEFAULT_WATTS_PER_CORE = 5.0
"""Power of one busy core, in watts.

Rated power (TDP) over the number of cores gives 3.8 W for an AMD EPYC 9654 (360 W, 96 cores), 6.3 W for an
Intel Xeon Platinum 8480+ (350 W, 56 cores) and 5.2 W for an Intel Core i9-13900K (125 W, 24 cores); this is
the round value between.
"""


class EstimateMeter(SimpleMeter):
    """CPU seconds of this process and of those that it has started, times watts per core."""

    name = "estimate"
    estimated = True

    def __init__(self, request: MeterRequest) -> None:
        """Fix the model's one constant, the power of one busy core: the request's, else that of the environment
        variable ``PYTEST_LLEM_WATTS_PER_CORE``, else :data:`DEFAULT_WATTS_PER_CORE`, in watts.

        Raises:
            MeterUnavailableError: the figure is not a positive number.
        """
        super().__init__(request)
        self.watts_per_core = _watts_per_core(request.watts_per_core, os.environ)
        self.environment = {"watts_per_core": self.watts_per_core}
        self.warnings = [
            f"energy is estimated, not measured: CPU seconds times {self.watts_per_core:g} W per core "
            f"({WATTS_PER_CORE_VARIABLE}); its uncertainty is not known"
        ]

    def start(self) -> float:
        """CPU seconds used so far."""
        return self.clock.cpu_s()

    def fill(self, window: Window, started: float) -> None:
        """The joules of the CPU seconds since ``started``."""
        cpu_s = self.clock.cpu_s() - started
        if cpu_s > 0:
            window.joules = cpu_s * self.watts_per_core
        else:
            window.reason = (
                "below the resolution of the CPU clock: no CPU time was counted in "
                f"{window.seconds:.3g} s; measure a longer window"
            )


def _watts_per_core(argument: float | None, environ: Mapping[str, str]) -> float:
    if argument is not None:
        origin, given = "watts_per_core", str(argument)
    else:
        origin, given = WATTS_PER_CORE_VARIABLE, environ.get(WATTS_PER_CORE_VARIABLE, str(DEFAULT_WATTS_PER_CORE))
    try:
        watts = float(given)
    except ValueError:
        watts = math.nan
    if not (math.isfinite(watts) and watts > 0):
        raise MeterUnavailableError(f"{origin}={given}: must be a positive number of watts")
    return watts
