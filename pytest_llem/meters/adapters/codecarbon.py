"""Joules as CodeCarbon reports them (https://codecarbon.io), to compare with.

On a GPU: ``gpu_energy``, of the boards that the model lies on together. On the CPU: ``cpu_energy`` plus
``ram_energy``, of the whole machine; CodeCarbon models the memory always, and the processor (its load times a
rated power) where it cannot read RAPL, so these joules count as estimated.

The tracker is the offline one: nothing is written, sent or locked. CodeCarbon is imported only when the meter
is opened.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, MeterUnavailableError, one_line
from pytest_llem.meters.adapters.peers import PeerMeter
from pytest_llem.meters.base import MeterRequest, Synchronize, Window, no_synchronize

if TYPE_CHECKING:
    from collections.abc import Iterator

JOULES_PER_KWH = 3.6e6

_CPU_COMPONENTS = (
    "energy is that of CPU and RAM of the whole machine as codecarbon reports it: it models the RAM always, and the "
    "CPU where it cannot read RAPL"
)


class CodeCarbonMeter(PeerMeter):
    """Reads windows as tasks of an ``OfflineEmissionsTracker``.

    Attributes:
        estimated: true where it reads the processor.
    """

    name = "codecarbon"

    def __init__(self, request: MeterRequest) -> None:
        """Start a tracker.

        Raises:
            MeterUnavailableError: CodeCarbon is not installed, or it finds no sensor.
        """
        with _quiet_log() as log:
            super().__init__(request, "codecarbon")
            self.estimated = not self.boards
            if self.estimated:
                self.warnings.append(_CPU_COMPONENTS)
            self._tracker: Any = self.module.OfflineEmissionsTracker(
                country_iso_code="USA",
                # Its numbers are NVML's, whatever CUDA_VISIBLE_DEVICES says.
                gpu_ids=[board.index for board in self.boards],
                # What follows could come from the user's configuration of CodeCarbon and change the joules, or
                # make the tracker write, send or lock.
                pue=1.0,
                tracking_mode="machine",
                rapl_include_dram=False,
                rapl_prefer_psys=False,
                force_carbon_intensity_g_co2e_kwh=0.0,
                output_methods=[],
                output_handlers=[],
                emissions_endpoint=False,
                allow_multiple_runs=True,
                log_level="critical",
            )
            self._try_out(log)

    @contextmanager
    def window(self, synchronize: Synchronize = no_synchronize) -> Iterator[Window]:
        """Measure the body of the ``with`` block; see :class:`pytest_llem.meters.base.Meter`."""
        try:
            with super().window(synchronize) as window:
                yield window
        except BaseException:
            # What the work raised is to be seen, and not this.
            with suppress(MeasurementError):
                self._stop_task()
            raise

    def start(self) -> None:
        """Start a task."""
        with _reported():
            self._tracker.start_task()

    def fill(self, window: Window, started: None) -> None:  # noqa: ARG002
        """Stop the task and take its joules."""
        data = self._stop_task()
        joules = {"gpu": data.gpu_energy} if self.boards else {"cpu": data.cpu_energy, "ram": data.ram_energy}
        # Without its part of the processor, the constant for the memory would look like a measurement.
        unknown = [part for part, part_kwh in joules.items() if part_kwh <= 0]
        if unknown:
            window.reason = (
                f"codecarbon reports 0 J for {' and '.join(unknown)} in {window.seconds:.3g} s: below the sensor's "
                "resolution, or it was not read; measure a longer window"
            )
            return
        joules = {part: part_kwh * JOULES_PER_KWH for part, part_kwh in joules.items()}
        window.joules = sum(joules.values())
        if not self.boards:
            window.boards_j = joules
        elif len(self.boards) == 1:
            window.boards_j = {self.boards[0].uuid: joules["gpu"]}

    def close(self) -> None:
        """Stop the tracker and its threads. Closing twice is harmless."""
        with _quiet_log():
            self._tracker.stop()

    def _try_out(self, log: list[str]) -> None:
        """Run an empty task: CodeCarbon looks for its sensors and loads its tables in the first one."""
        try:
            hardware = self._tracker.get_detected_hardware()
            self.start()
            self._stop_task()
        except Exception as error:
            raise MeterUnavailableError(f"CodeCarbon cannot start: {log[0] if log else one_line(error)}") from error
        # Not its gpu_count: that is the number of those requested.
        if self.boards and not hardware["gpu_model"]:
            self.close()
            raise MeterUnavailableError(
                "CodeCarbon finds no GPU; it looks for the command nvidia-smi on the PATH and for "
                "NVML when it is imported",
            )

    def _stop_task(self) -> Any:
        with _reported() as log:
            data = self._tracker.stop_task()
        if data is None:
            raise _failure(log, "it gives no reason")
        return data


@contextmanager
def _reported() -> Iterator[list[str]]:
    """Raise what CodeCarbon raises as an error of this package; its log, without a line on the terminal."""
    with _quiet_log() as log:
        try:
            yield log
        except Exception as error:
            raise _failure(log, one_line(error)) from error


def _failure(log: list[str], otherwise: str) -> MeasurementError:
    return MeasurementError(f"CodeCarbon cannot measure: {log[-1] if log else otherwise}", meter="codecarbon")


@contextmanager
def _quiet_log() -> Iterator[list[str]]:
    """Keep CodeCarbon off the terminal, and collect what went wrong instead.

    By a filter, because its import and every new tracker replace the logger's handler and level.
    """
    logger = logging.getLogger("codecarbon")
    level = logger.level
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        """Let no record pass; keep the errors, and the exceptions that CodeCarbon swallows with a warning."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            messages.append(one_line(error))
        elif record.levelno >= logging.ERROR:
            messages.append(" ".join(record.getMessage().split()))
        return False

    logger.addFilter(keep)
    logger.setLevel(logging.WARNING)
    try:
        yield messages
    finally:
        logger.removeFilter(keep)
        # Before its import the logger has no level; its thread must not be heard afterwards either.
        logger.setLevel(level or logging.CRITICAL)
