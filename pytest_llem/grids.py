"""Grams of CO2 equivalent that a kilowatt-hour of a country's grid stands for.

The numbers are CodeCarbon's (https://codecarbon.io), read from the file that it ships and takes them from itself where
it has no other source: ``carbon_intensity`` in ``global_energy_mix.json``, a country's mean over a year, most of it
from Our World in Data. CodeCarbon is not imported, since pandas comes with it, and nothing is asked of the network.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATA = "codecarbon/data/private_infra/global_energy_mix.json"
_NUMBER = "grams of CO2e a kWh as a number"
_CODE = "an ISO 3166 alpha 3 code such as DEU"
_MOST_NAMED = 3
# What is multiplied with it stays finite.
_MOST = 1e9


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where electricity comes from.

    Attributes:
        region: ISO 3166 alpha 3 code of the country; ``None`` where its intensity was given as a number.
        intensity_g_per_kwh: grams of CO2 equivalent a kilowatt-hour.
        source: who says so.
    """

    region: str | None
    intensity_g_per_kwh: float
    source: str


def find_grid(text: str) -> Grid:
    """The grid that a user names.

    Args:
        text: an ISO 3166 alpha 3 code in letters of either case, or grams of CO2 equivalent a kilowatt-hour.

    Raises:
        ValueError: it is neither, or CodeCarbon's data are not there or hold no number for the country; the message
            says what would be right. CodeCarbon itself takes the world's average for a country that it does not know.
    """
    text = text.strip()
    try:
        given = float(text)
    except ValueError:
        return _of_country(text)
    if not 0 <= given <= _MOST:
        raise ValueError(f"{text!r} is out of range; use {_NUMBER}, at least 0, or {_CODE}")
    return Grid(region=None, intensity_g_per_kwh=given, source="given")


def _of_country(text: str) -> Grid:
    countries, version = _read_data()
    code = text.upper()
    if code not in countries:
        raise ValueError(_unknown(text, {code: str(known["country_name"]) for code, known in countries.items()}))
    intensity, year = (countries[code].get(key) for key in ("carbon_intensity", "year"))
    if not isinstance(intensity, int | float):
        raise ValueError(f"codecarbon {version} has no carbon intensity for {code}; give {_NUMBER}")
    source = f"codecarbon {version}, year {year}"
    if intensity == 0:
        source += f", which has 0 g, as no grid has: give {_NUMBER}"
    return Grid(region=code, intensity_g_per_kwh=float(intensity), source=source)


def _read_data() -> tuple[Mapping[str, Mapping[str, Any]], str]:
    """The countries by code, and the version of CodeCarbon."""
    try:
        found = distribution("codecarbon")
    except PackageNotFoundError:
        raise ValueError(
            "a country's grid intensity comes from codecarbon, which is not installed: pip install "
            f'"pytest-llem[carbon]", or give {_NUMBER}'
        ) from None
    try:
        with open(found.locate_file(_DATA), encoding="utf-8") as file:  # type: ignore[call-overload]  # noqa: PTH123
            return json.load(file), found.version
    except (OSError, ValueError) as error:
        raise ValueError(f"the data of codecarbon {found.version} cannot be read: {error}; give {_NUMBER}") from None


def _unknown(text: str, names: Mapping[str, str]) -> str:
    """What to say of a country that is not there, with those that may be meant."""
    country = _iso_3166(text)
    if country is not None and country.alpha_3 in names:
        return f"{text!r} is the alpha 2 code of {country.name}; write its alpha 3 code, {country.alpha_3}"
    if country is not None:
        return (
            f"codecarbon has no data for {text!r} ({country.name}), and would itself take the world's average; "
            f"give {_NUMBER}"
        )
    near = [f"{code} ({names[code]})" for code in _near(text.casefold(), names)]
    meant = f"did you mean {' or '.join(near)}? Else" if near else f"use {_CODE}, or"
    return f"unknown country {text!r}; {meant} give {_NUMBER}"


def _iso_3166(code: str) -> Any:
    """The country of an alpha 2 or alpha 3 code, by the package that CodeCarbon brings; ``None`` if it is none."""
    try:
        from pycountry import countries
    except ImportError:
        return None
    return countries.get(alpha_2=code.upper()) or countries.get(alpha_3=code.upper())


def _near(text: str, names: Mapping[str, str]) -> list[str]:
    """Codes of countries whose name begins so; else of those whose name or code is nearly this, the nearest first."""
    if begun := [code for code, name in names.items() if text and name.casefold().startswith(text)]:
        return begun[:_MOST_NAMED]
    codes = {name.casefold(): code for code, name in names.items()} | {code.casefold(): code for code in names}
    return [*dict.fromkeys(codes[near] for near in difflib.get_close_matches(text, codes, n=_MOST_NAMED))]
