"""From what each board says about a window to what the window says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.meters.base import Disturbance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.meters.base import Window
    from pytest_llem.meters.nvidia.window_energy import WindowEnergy


@dataclass(frozen=True)
class Reading:
    """One board's energy in a window.

    Attributes:
        uuid: the board.
        energy: ``None`` where it is unknown.
        reason: why not, in a sentence that names the board.
        reset: whether the reason is a counter that went backwards.
        warnings: what a reader of the number must know.
        doubtful: whether the board's sensors have contradicted each other too often to be believed.
    """

    uuid: str
    energy: WindowEnergy | None = None
    reason: str | None = None
    reset: bool = False
    warnings: tuple[str, ...] = ()
    doubtful: bool = False


def fill_energy(window: Window, readings: Sequence[Reading]) -> None:
    """Sum the boards into the window.

    Boards of one model err alike: their sensors lag and settle in the same way, so that errors have one sign. How much
    they have in common is not known, and half-widths add up as if that were all (JCGM 100:2008, 5.2.2): for its size,
    the sum is known as precisely as each board. A sum that does not exceed its own half-width is below the resolution:
    unknown, with the reason.
    """
    for reading in readings:
        window.warnings += [text for text in reading.warnings if text not in window.warnings]
        if reading.energy is not None:
            window.boards_j[reading.uuid] = reading.energy.joules
        if reading.reset and reading.reason is not None:
            window.disturb(Disturbance("reset", reading.reason))
        if reading.doubtful:
            text = f"the energy counter and the power samples of {reading.uuid} disagree window after window"
            window.disturb(Disturbance("sensors", text))
    # A reset comes first: it is the cause where several boards give a reason.
    unknown = sorted((reading for reading in readings if reading.energy is None), key=lambda reading: not reading.reset)
    if unknown:
        window.reason = "; ".join(reading.reason or "no reason given" for reading in unknown)
        return
    energies = [reading.energy for reading in readings if reading.energy is not None]
    joules = math.fsum(energy.joules for energy in energies)
    uncertainty_j = math.fsum(energy.uncertainty_j for energy in energies)
    if joules <= uncertainty_j:
        window.boards_j.clear()
        window.reason = (
            f"below the sensor's resolution: {joules:.3g} J with an uncertainty of {uncertainty_j:.3g} J in "
            f"{window.seconds:.3g} s; measure a longer window"
        )
        return
    window.joules = joules
    window.uncertainty_j = uncertainty_j
