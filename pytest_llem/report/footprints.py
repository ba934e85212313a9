"""Carbon and cost of results, by functional unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_llem.footprint import JOULES_PER_KWH, Footprint, calls_per_unit, counted_energy
from pytest_llem.report import phrases
from pytest_llem.report.quantities import UNKNOWN, with_uncertainty

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import Record

TITLE = "Carbon and cost"
NOT_COUNTED = "not counted"
UNITS = ("call", "million output tokens", "thousand requests")
HEADINGS = ("experiment", "quantity", *(f"per {unit}" for unit in UNITS), "from")
SCI_HEADINGS = ("no.", "experiment", "E", "I", "O = E \N{MULTIPLICATION SIGN} I", "M", "cost", "from", "notes")

_WH_PER_JOULE = 1e3 / JOULES_PER_KWH
# A scientific notation begins where plain numbers have more digits than that.
_DIGITS = 6


def shown(results: Iterable[ExperimentResult]) -> bool:
    """Whether carbon or cost was asked for."""
    return any(result.footprint is not None for result in results)


def rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """What goes below :data:`HEADINGS`: a row for the carbon and one for the cost of each result, as far as they were
    asked for."""
    found = []
    for record in records:
        result, footprint = record.result, record.result.footprint
        if footprint is None:
            continue
        if footprint.intensity_g_per_kwh is not None:
            found.append((record.name, "CO2e", *(carbon(result, unit) for unit in UNITS), source(result)))
        if footprint.price_per_kwh is not None:
            found.append((record.name, "cost", *(cost(result, unit) for unit in UNITS), source(result)))
    return found


def sci_cells(result: ExperimentResult, unit: str) -> tuple[str, ...]:
    """What goes below :data:`SCI_HEADINGS` between the experiment and the notes, for one functional unit ``R``.

    ``E`` is the energy at the data centre's meter, ``I`` the grid's intensity, ``M`` the embodied carbon.
    """
    footprint = result.footprint or Footprint()
    energy, intensity = counted_energy(result), footprint.intensity_g_per_kwh
    return (
        _of_unit(result, unit, energy.joules, energy.uncertainty_j, "Wh", _WH_PER_JOULE * footprint.pue),
        UNKNOWN if intensity is None else f"{intensity:g} g/kWh",
        carbon(result, unit),
        NOT_COUNTED,
        cost(result, unit),
        energy.field,
    )


def carbon(result: ExperimentResult, unit: str) -> str:
    """Grams of CO2 equivalent of a functional unit, with the half-width of their interval."""
    return _of_unit(result, unit, result.carbon_g, result.carbon_uncertainty_g, "g")


def cost(result: ExperimentResult, unit: str) -> str:
    """Cost of a functional unit in the currency of the price, with the half-width of its interval."""
    calls = calls_per_unit(result)[unit]
    if result.cost is None or calls is None:
        return UNKNOWN
    currency = (result.footprint and result.footprint.currency) or ""
    half_width = result.cost_uncertainty
    return _money(result.cost * calls, None if half_width is None else half_width * calls, currency)


def source(result: ExperimentResult) -> str:
    """Which joules are counted and what read them, with what must not be missed of them."""
    return f"{counted_energy(result).field}, {phrases.meter(result)}{'' if result.valid else ', INVALID'}"


def terms(footprint: Footprint) -> str:
    """``380.95 g CO2e a kWh (DEU, codecarbon 3.3.2, year 2023), 0.3 EUR a kWh, PUE 1.2``."""
    parts = []
    if footprint.intensity_g_per_kwh is not None:
        origin = ", ".join(text for text in (footprint.region, footprint.source) if text)
        parts.append(f"{footprint.intensity_g_per_kwh:g} g CO2e a kWh ({origin})")
    if footprint.price_per_kwh is not None:
        parts.append(f"{footprint.price_per_kwh:g} {footprint.currency or ''}".rstrip() + " a kWh")
    return ", ".join([*parts, f"PUE {footprint.pue:g}"])


def explanation(results: Iterable[ExperimentResult]) -> str:
    """How carbon and cost are reckoned; their name stands before it."""
    found = dict.fromkeys(terms(result.footprint) for result in results if result.footprint is not None)
    return (
        f"by {'; '.join(found)}: taken as exact, so that intervals are those of the joules; embodied carbon is "
        f"{NOT_COUNTED}"
    )


def _of_unit(
    result: ExperimentResult, unit: str, value: float | None, half_width: float | None, symbol: str, factor: float = 1.0
) -> str:
    calls = calls_per_unit(result)[unit]
    if value is None or calls is None:
        return UNKNOWN
    scale = calls * factor
    return with_uncertainty(value * scale, None if half_width is None else half_width * scale, symbol)


def _money(value: float, half_width: float | None, currency: str) -> str:
    """``0.00123 ± 0.00002 EUR``: nobody writes prefixes of a currency. Digits as of ``with_uncertainty``."""
    digits = 4
    if half_width and value:
        digits = max(2, 2 + math.floor(math.log10(abs(value))) - math.floor(math.log10(half_width)))
    width = "?" if half_width is None else f"{half_width:#.2g}".rstrip(".")
    return f"{value:#.{min(digits, _DIGITS)}g}".rstrip(".") + f" ± {width} {currency}".rstrip()
