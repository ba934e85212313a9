"""Grids by country, and what CodeCarbon itself makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pytest

from pytest_llem.footprint import Footprint, with_footprint
from pytest_llem.grids import find_grid
from tests.unit.report.examples import result

if TYPE_CHECKING:
    from pathlib import Path

COUNTRIES = {
    "DEU": {"country_name": "Germany", "carbon_intensity": 380.95, "year": 2023, "total_TWh": 1.0},
    "FRA": {"country_name": "France", "carbon_intensity": 56.039, "year": 2023, "total_TWh": 1.0},
    "CAF": {"country_name": "Central African Republic", "carbon_intensity": 0.0, "year": 2022, "total_TWh": 1.0},
    "NER": {"country_name": "Niger", "carbon_intensity": None, "year": 2022, "total_TWh": 1.0},
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an installed CodeCarbon, as far as metadata tell."""
    (tmp_path / "codecarbon-9.9.dist-info").mkdir()
    (tmp_path / "codecarbon-9.9.dist-info" / "METADATA").write_text("Name: codecarbon\nVersion: 9.9\n")
    file = tmp_path / "codecarbon" / "data" / "private_infra" / "global_energy_mix.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(COUNTRIES))
    # Its import would be seen.
    (tmp_path / "codecarbon" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pycountry", None)
    return file


@pytest.mark.parametrize(("text", "intensity"), [("380.95", 380.95), (" 0 ", 0.0), ("1e3", 1000.0)])
def test_a_number_needs_nothing(text: str, intensity: float) -> None:
    grid = find_grid(text)
    assert (grid.region, grid.intensity_g_per_kwh, grid.source) == (None, intensity, "given")


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e10"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is out of range; use grams of CO2e a kWh as a number, at least 0"):
        find_grid(text)


@pytest.mark.parametrize("code", ["FRA", "fra"])
def test_a_country_is_looked_up(data: Path, code: str) -> None:
    grid = find_grid(code)
    assert (grid.region, grid.intensity_g_per_kwh) == ("FRA", 56.039)
    assert grid.source == "codecarbon 9.9, year 2023"


def test_a_grid_of_nothing_says_that_there_is_none(data: Path) -> None:
    assert find_grid("CAF").intensity_g_per_kwh == 0.0
    assert "which has 0 g, as no grid has: give grams" in find_grid("CAF").source
    assert find_grid("0").source == "given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GER", r"unknown country 'GER'; did you mean DEU \(Germany\)\? Else give grams of CO2e a kWh as a number"),
        ("frence", r"did you mean FRA \(France\)\?"),
        ("DUE", r"did you mean DEU \(Germany\)\?"),
        ("XYZ", "unknown country 'XYZ'; use an ISO 3166 alpha 3 code such as DEU, or give grams"),
        ("", "unknown country ''; use an ISO 3166 alpha 3 code"),
        ("NER", "codecarbon 9.9 has no carbon intensity for NER; give grams of CO2e a kWh as a number"),
    ],
)
def test_what_is_unknown_says_what_may_be_meant(data: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_grid(text)


@pytest.mark.parametrize("text", [None, "{"])
def test_data_that_cannot_be_read_are_no_data(data: Path, text: str | None) -> None:
    data.unlink() if text is None else data.write_text(text)
    with pytest.raises(ValueError, match=r"the data of codecarbon 9\.9 cannot be read: .*; give grams"):
        find_grid("DEU")


def test_without_codecarbon_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_is_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pytest_llem.grids.distribution", nothing_is_installed)
    with pytest.raises(ValueError, match=r'pip install "pytest-llem\[carbon\]", or give grams of CO2e a kWh'):
        find_grid("DEU")


def test_codecarbon_makes_the_same_of_every_country() -> None:
    emissions = pytest.importorskip("codecarbon.core.emissions")
    energy = pytest.importorskip("codecarbon.core.units").Energy
    geography = pytest.importorskip("codecarbon.external.geography").GeoMetadata
    tables = pytest.importorskip("codecarbon.input").DataSource()
    names = {code: known["country_name"] for code, known in tables.get_global_energy_mix_data().items()}
    assert len(names) > 200
    energy_kwh = 0.123
    for code, name in names.items():
        theirs_kg = emissions.Emissions(tables).get_private_infra_emissions(
            energy.from_energy(kWh=energy_kwh), geography(country_iso_code=code, country_name=name)
        )
        ours = with_footprint(result(energy_kwh * 3.6e6), Footprint(**vars(find_grid(code.lower()))))
        assert ours.carbon_g == pytest.approx(theirs_kg * 1000.0, rel=1e-12), code
        assert ours.footprint is not None
        assert version("codecarbon") in str(ours.footprint.source)


def test_codecarbon_brings_the_names_of_other_codes() -> None:
    pytest.importorskip("pycountry")
    with pytest.raises(ValueError, match="'de' is the alpha 2 code of Germany; write its alpha 3 code, DEU"):
        find_grid("de")
    with pytest.raises(ValueError, match=r"no data for 'AND' \(Andorra\), and would itself take the world's average"):
        find_grid("AND")


@pytest.mark.processes
def test_the_offline_tracker_says_the_same() -> None:
    pytest.importorskip("codecarbon")
    code = """
from codecarbon import OfflineEmissionsTracker
tracker = OfflineEmissionsTracker(country_iso_code="DEU", pue=1.2, output_methods=[], log_level="critical")
tracker.start(); tracker.stop()
print(tracker.final_emissions_data.emissions * 1000 / tracker.final_emissions_data.energy_consumed)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(process.stdout) == pytest.approx(find_grid("DEU").intensity_g_per_kwh, rel=1e-9)
