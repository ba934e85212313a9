"""Where the joules of a call went: parts that have nothing in common and add up to the whole.

With the energy of the boards ``E``, their idle power ``P`` and the latency ``t`` of a call, and of its prefill ``E_p``
and ``t_p``::

    idle      P t
    prefill   E_p - P t_p
    decode    (E - E_p) - P (t - t_p)
    host      what the processor and its memory took in the same windows, their idle power in it
    rest      the whole less all of these

The whole is the energy of boards and host together where the host was read, else that of the boards. A part whose
terms were not all measured is left out, and the rest holds it: without the idle power that is all of the boards'
energy. ``E_p``, ``P`` and ``E`` are measured apart, so their half-widths add in quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_llem.measurement.result import ExperimentResult

Name = Literal["idle", "prefill", "decode", "host", "rest"]

PARTS: dict[Name, str] = {
    "idle": "idle",
    "prefill": "prefill above idle",
    "decode": "decode above idle",
    "host": "host",
    "rest": "rest",
}
"""What the parts are called, in the order in which they are shown."""

_ROUNDING = 1e-9
"""Of the whole: so little is left of floats, and no part."""


@dataclass(frozen=True)
class Part:
    """A part of the joules of a call.

    Attributes:
        joules: may be less than nothing, where a difference is smaller than its uncertainty.
        half_width_j: of its 95% interval; ``None`` where one of its terms states none.
    """

    name: Name
    joules: float
    half_width_j: float | None


@dataclass(frozen=True)
class Joules:
    """The joules of a call and their parts, which add up to them.

    Attributes:
        whole_j: boards and host together where the host was read, else the boards.
        half_width_j: of its 95% interval.
        with_host: whether the host was read.
    """

    whole_j: float
    half_width_j: float | None
    with_host: bool
    parts: tuple[Part, ...]

    def part(self, name: Name) -> Part | None:
        """One of the parts."""
        return next((part for part in self.parts if part.name == name), None)


def joules_of(result: ExperimentResult) -> Joules | None:
    """Divide the joules of a call; ``None`` where they were not measured, or nothing of them is known apart."""
    boards_j, latency_s = result.energy_j, result.latency_s
    if boards_j is None or latency_s is None:
        return None
    with_host = result.energy_host_j is not None and result.energy_total_j is not None
    whole_j, half_width_j = boards_j, result.energy_uncertainty_j
    if with_host and result.energy_total_j is not None:
        whole_j, half_width_j = result.energy_total_j, result.energy_total_uncertainty_j
    parts = _of_boards(result, latency_s)
    left_half_width_j = _left_half_width_j(result, latency_s, parts)
    if with_host and result.energy_host_j is not None:
        parts.append(Part("host", result.energy_host_j, result.energy_host_uncertainty_j))
    if not parts or whole_j <= 0:
        return None
    rest_j = whole_j - math.fsum(part.joules for part in parts)
    if abs(rest_j) > _ROUNDING * abs(whole_j):
        parts.append(Part("rest", rest_j, left_half_width_j))
    return Joules(whole_j, half_width_j, with_host, tuple(parts))


def _of_boards(result: ExperimentResult, latency_s: float) -> list[Part]:
    idle_w, idle_u_w = result.idle_power_w, result.idle_power_uncertainty_w
    if idle_w is None:
        return []
    parts = [Part("idle", idle_w * latency_s, _over(idle_u_w, latency_s))]
    phases: tuple[tuple[Name, float | None, float | None, float | None], ...] = (
        ("prefill", result.prefill_energy_j, result.prefill_energy_uncertainty_j, result.prefill_latency_s),
        ("decode", result.decode_energy_j, result.decode_energy_uncertainty_j, result.decode_latency_s),
    )
    for name, joules, half_width_j, seconds in phases:
        if joules is not None and seconds is not None:
            parts.append(Part(name, joules - idle_w * seconds, _together(half_width_j, _over(idle_u_w, seconds))))
    return parts


def _left_half_width_j(result: ExperimentResult, latency_s: float, parts: list[Part]) -> float | None:
    """Of what of the boards' energy is in none of these parts."""
    names = {part.name for part in parts}
    if "decode" in names:
        return None  # nothing is left of them: what is, is no difference of these terms
    terms, seconds = [result.energy_uncertainty_j], latency_s
    if "prefill" in names:
        terms.append(result.prefill_energy_uncertainty_j)
        seconds -= result.prefill_latency_s or 0.0
    if "idle" in names:
        terms.append(_over(result.idle_power_uncertainty_w, seconds))
    return _together(*terms)


def _over(power_w: float | None, seconds: float) -> float | None:
    return None if power_w is None else power_w * seconds


def _together(*half_widths_j: float | None) -> float | None:
    known = [half_width for half_width in half_widths_j if half_width is not None]
    return math.hypot(*known) if len(known) == len(half_widths_j) else None
