"""The host by what drivers show under ``/sys/class/hwmon``.

Files, units and names are those of the kernel's Documentation/hwmon/sysfs-interface: ``energyN_input`` in microjoules,
``powerN_average`` in microwatts with ``powerN_average_interval`` in milliseconds. What a chip measures its driver alone
says: graphics cards and disks show power there as well. So two drivers are known, and no other chip is taken for the
host:

* ``amd_energy``: the same counters as RAPL's, of which the sockets (``Esocket0``, ...) hold their cores
  (Documentation/hwmon/amd_energy). Without memory.
* ``power_meter``: ACPI's power meter, of a machine's board controller: the whole machine, its boards included
  (Documentation/hwmon/acpi_power_meter).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.host.counters import CounterHost
from pytest_llem.meters.host.power import PowerHost
from pytest_llem.meters.rapl import Domain

if TYPE_CHECKING:
    from pytest_llem.meters.base import MeterRequest
    from pytest_llem.meters.host import HostSensor

HWMON_ROOT = Path("/sys/class/hwmon")

_NEVER_AGAIN_UJ = 1 << 64
"""Where a 64 bit counter starts again: after 500 years at a kilowatt."""


def open_hwmon(request: MeterRequest) -> HostSensor:
    """The sensor of the host alone where there is one, else that of the whole machine.

    Raises:
        MeterUnavailableError: there is neither, or it cannot be read; the text says why.
    """
    chips = {chip: _text(chip / "name") for chip in sorted(HWMON_ROOT.glob("hwmon*"))}
    try:
        for chip, name in chips.items():
            if name == "amd_energy" and (sockets := _sockets(chip)):
                return CounterHost("hwmon:amd_energy", sockets, request.clock)
        for chip, name in chips.items():
            if name == "power_meter":
                return _power_meter(chip, request)
    except PermissionError as error:
        raise MeterUnavailableError(
            f"no permission to read {error.filename}; as root: chmod a+r {error.filename} (until the next boot)"
        ) from error
    except (OSError, ValueError) as error:
        raise MeterUnavailableError(f"a sensor under {HWMON_ROOT} cannot be read: {error}") from error
    shown = ", ".join(sorted({name for name in chips.values() if name})) or "nothing"
    raise MeterUnavailableError(
        f"no chip under {HWMON_ROOT} measures the host: that needs the driver amd_energy or acpi_power_meter; there is "
        f"{shown}"
    )


def _sockets(chip: Path) -> list[Domain]:
    labels = {path: _text(path) or "" for path in sorted(chip.glob("energy*_label"))}
    domains = [
        Domain(label, "package", path.with_name(path.name.replace("_label", "_input")), _NEVER_AGAIN_UJ)
        for path, label in labels.items()
        if label.startswith("Esocket")
    ]
    for domain in domains:
        domain.read_uj()
    return domains


def _power_meter(chip: Path, request: MeterRequest) -> HostSensor:
    averaged_s = int((chip / "power1_average_interval").read_text()) / 1e3
    if averaged_s <= 0:
        raise MeterUnavailableError(f"{chip} does not say over how long it averages its power")
    sensor = PowerHost("hwmon:power_meter", chip / "power1_average", averaged_s, request.clock)
    sensor.read_w()
    return sensor


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
