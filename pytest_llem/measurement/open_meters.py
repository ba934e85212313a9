"""The meters that are open, and the idle power of what is loaded on their boards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_llem.meters import open_meter
from pytest_llem.meters.base import Disturbance, IdlePower, Meter

if TYPE_CHECKING:
    from pytest_llem.engines.base import LoadedModel

IdlePowerOf = Callable[["LoadedModel", Meter, Sequence[Disturbance]], IdlePower]
"""See :meth:`OpenMeters.idle_power`."""


class OpenMeters:
    """Each meter is opened once; all are closed together."""

    def __init__(
        self, name: str, device: str, *, lock_timeout_s: float, say: Callable[[str], None], host: str = "auto"
    ) -> None:
        """With the arguments of :func:`pytest_llem.meters.open_meter`."""
        self._name = name
        self._device = device
        self._host = host
        self._lock_timeout_s = lock_timeout_s
        self._say = say
        self._meters: dict[tuple[tuple[str, ...], int], Meter] = {}
        self._idle: dict[tuple[str, ...], tuple[weakref.ref[LoadedModel], IdlePower]] = {}

    def of(self, gpu_uuids: Sequence[str], processes: int = 1) -> Meter:
        """The meter of the boards that a model lies on.

        Args:
            gpu_uuids: the boards; empty for all that this process may see, or none on the CPU.
            processes: how many share the model: on the CPU as many boards are read, where no more are visible.

        Raises:
            pytest_llem.errors.MeterUnavailableError: it cannot work on this machine.
        """
        key = tuple(gpu_uuids), processes
        if key not in self._meters:
            self._meters[key] = open_meter(
                self._name,
                device=self._device,
                gpu_uuids=gpu_uuids or None,
                boards=processes,
                host=self._host,
                lock_timeout_s=self._lock_timeout_s,
                say=self._say,
            )
        return self._meters[key]

    def idle_power(self, model: LoadedModel, meter: Meter, disturbances: Sequence[Disturbance]) -> IdlePower:
        """Power with ``model`` loaded and nothing running, measured once for its boards.

        From then on the pauses before windows keep it fresh, where the meter sees it there; else it is measured again
        for another load. Unknown while something else is at work: that power would be taken for the board's own.
        """
        if disturbances:
            return IdlePower(reason="; ".join(disturbance.text for disturbance in disturbances))
        key = tuple(model.gpu_uuids)
        if key not in self._idle or (self._idle[key][0]() is not model and meter.idle_power_seen() is None):
            self._idle[key] = (weakref.ref(model), meter.idle_power())
        return self._idle[key][1]

    def close(self) -> None:
        """Close the meters. Closing twice is harmless."""
        for meter in self._meters.values():
            meter.close()
        self._meters.clear()
