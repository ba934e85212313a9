"""Carbon and cost of a result's joules: arithmetic alone, whoever measured them.

Carbon is the operational part ``O = E * I`` of the Software Carbon Intensity (ISO/IEC 21031:2024), ``E`` the energy at
the meter of the data centre: joules times its power usage effectiveness (PUE, ISO/IEC 30134-2). The embodied part ``M``
(making the hardware) is not measured, and not counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.measurement.result import ExperimentResult

JOULES_PER_KWH = 3.6e6

MOST_FACTOR = 1e9
"""Of prices and the like: what is multiplied with it stays finite."""


def parse_price(text: str) -> tuple[float, str | None]:
    """A number and the label of its currency: letters, or one sign.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\W\d_]{1,12}|[$£¥₩€₹])?", text.strip())
    if match is None or float(match[1]) > MOST_FACTOR:
        raise ValueError(
            f"{text!r} is no price of a kWh; write a number and, if you like, its currency: 0.30 or 0.30EUR"
        )
    return float(match[1]), match[2]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What turns joules into carbon and cost. All of it is taken as exact.

    Attributes:
        region, intensity_g_per_kwh, source: as of a :class:`pytest_llem.grids.Grid`; ``None`` where no carbon is
            reckoned.
        pue: energy that the data centre takes over that of its computers, at least 1.
        price_per_kwh: of a kilowatt-hour at the data centre's meter; ``None`` where no cost is reckoned.
        currency: of the price, a label alone.
    """

    region: str | None = None
    intensity_g_per_kwh: float | None = None
    source: str | None = None
    pue: float = 1.0
    price_per_kwh: float | None = None
    currency: str | None = None


@dataclass(frozen=True)
class CountedEnergy:
    """The joules of a call that carbon and cost are reckoned from.

    Attributes:
        field: the result's field that holds them.
        joules: ``None`` where they were not measured.
        uncertainty_j: half-width of the 95% interval of ``joules``; ``None`` where none is stated.
    """

    field: str
    joules: float | None
    uncertainty_j: float | None


def counted_energy(result: ExperimentResult) -> CountedEnergy:
    """``energy_total_j`` where the host was read beside the boards, else ``energy_j``."""
    if result.energy_total_j is not None:
        return CountedEnergy("energy_total_j", result.energy_total_j, result.energy_total_uncertainty_j)
    return CountedEnergy("energy_j", result.energy_j, result.energy_uncertainty_j)


def with_footprint(result: ExperimentResult, footprint: Footprint) -> ExperimentResult:
    """The result with carbon in grams of CO2 equivalent and cost, both per call, in place of what it had of them.

    ``carbon_g = E / 3.6e6 * PUE * intensity`` and ``cost = E / 3.6e6 * PUE * price``; so are the half-widths, since
    the factors are taken as exact. Where the joules are not known, neither is known, and ``missing`` says why.
    """
    energy = counted_energy(result)
    per_joule = {
        name: None if per_kwh is None else per_kwh * footprint.pue / JOULES_PER_KWH
        for name, per_kwh in (("carbon_g", footprint.intensity_g_per_kwh), ("cost", footprint.price_per_kwh))
    }
    missing = {name: reason for name, reason in result.missing.items() if name not in per_joule}
    if energy.joules is None:
        why = result.missing.get(energy.field, f"{energy.field} was not measured")
        missing |= {name: why for name, factor in per_joule.items() if factor is not None}
    return replace(
        result,
        carbon_g=_times(energy.joules, per_joule["carbon_g"]),
        carbon_uncertainty_g=_times(energy.uncertainty_j, per_joule["carbon_g"]),
        cost=_times(energy.joules, per_joule["cost"]),
        cost_uncertainty=_times(energy.uncertainty_j, per_joule["cost"]),
        footprint=footprint,
        missing=missing,
    )


def without_footprint(result: ExperimentResult) -> ExperimentResult:
    """What was measured alone."""
    return replace(with_footprint(result, Footprint()), footprint=None)


def calls_per_unit(result: ExperimentResult) -> Mapping[str, float | None]:
    """How many calls make up a functional unit, the ``R`` of the Software Carbon Intensity, by its name.

    A request is a prompt of the dataset, however many of them a call takes. ``None`` where the result does not tell.
    """
    return {
        "call": 1.0,
        "million output tokens": 1e6 / result.output_tokens if result.output_tokens else None,
        "thousand requests": 1e3 / result.prompts if result.prompts else None,
    }


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor
