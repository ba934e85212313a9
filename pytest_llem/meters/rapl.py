"""Joules of the processor and its memory from RAPL, through Linux's powercap files.

Intel and AMD processors count the energy of a package (and on many servers of its DRAM) and show it in
microjoules under ``/sys/class/powercap/intel-rapl:*``; AMD uses the same names. The package already holds the
cores and the integrated graphics, and ``psys`` holds the packages, so neither is ever added to them.

The counter is the machine's: it holds the work of every process, this one's and the others'.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem.errors import MeasurementError, MeterUnavailableError
from pytest_llem.meters.base import COVERAGE_FACTOR_95, IDLE_LIMIT_S, IdlePower, MeterRequest, Window
from pytest_llem.meters.idle import BlockPower, settled_power
from pytest_llem.meters.simple import SimpleMeter

if TYPE_CHECKING:
    from collections.abc import Sequence

POWERCAP_ROOT = Path("/sys/class/powercap")

POWERCAP_VARIABLE = "PYTEST_LLEM_POWERCAP"
"""Names another folder of powercap's files, for containers, which hide the usual one."""

UPDATE_PERIOD_S = 1e-3
"""Update period of the counters, in seconds.

"Updated approximately every 1 ms": Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3,
section "RAPL Interfaces"; confirmed with its jitter by Haehnel et al., "Measuring Energy Consumption for
Short Code Paths Using RAPL", SIGMETRICS Performance Evaluation Review 40(3), 2012.
"""

COUNTER_STEP_J = 61e-6
"""The coarsest unit in common use, 2**-14 J (the manual's default energy unit)."""

_IDLE_BLOCK_S = 0.2

_HIGHEST_POWER_W = {"package": 1000.0, "psys": 2000.0, "dram": 250.0}
"""More than any such domain can draw, in watts: how soon a counter could wrap around twice, and what is no gain."""


@dataclass(frozen=True)
class Domain:
    """One counter of RAPL.

    Attributes:
        name: unique on this machine, such as ``package-0`` or ``package-0/dram``.
        kind: ``package``, ``dram`` or ``psys``.
        energy_file: the counter, in microjoules.
        range_uj: where the counter starts again at zero, in microjoules.
    """

    name: str
    kind: str
    energy_file: Path
    range_uj: int

    def read_uj(self) -> int:
        """The counter in microjoules."""
        return int(self.energy_file.read_text())


class Counters:
    """Counters that are read together.

    Attributes:
        domains: one for each.
    """

    def __init__(self, domains: Sequence[Domain]) -> None:
        self.domains = domains

    def read(self) -> list[int]:
        """All of them, in microjoules.

        Raises:
            MeasurementError: one cannot be read any more.
        """
        try:
            return [domain.read_uj() for domain in self.domains]
        except (OSError, ValueError) as error:
            raise MeasurementError(f"a RAPL counter could not be read while it was measured: {error}") from error

    def gains_j(self, started: Sequence[int], ended: Sequence[int], seconds: float) -> dict[str, float]:
        """Joules between two reads by domain; a counter that went backwards has started again at its range.

        Args:
            started, ended: what :meth:`read` returned.
            seconds: between the two.

        Raises:
            MeasurementError: they are not known: a counter was set back, or it took so long that one may have started
                again twice, or so little time that none has changed.
        """
        for domain in self.domains:
            if seconds * _HIGHEST_POWER_W[domain.kind] > domain.range_uj / 1e6:
                raise MeasurementError(
                    f"the RAPL counter of {domain.name} may wrap around more than once in "
                    f"{seconds:.3g} s; measure a shorter window"
                )
        gains_j = {
            domain.name: (end - start) % domain.range_uj / 1e6
            for domain, start, end in zip(self.domains, started, ended, strict=True)
        }
        for domain in self.domains:
            # An update may fall between the edges whose energy is older.
            if gains_j[domain.name] > (seconds + UPDATE_PERIOD_S) * _HIGHEST_POWER_W[domain.kind]:
                raise MeasurementError(
                    f"the RAPL counter of {domain.name} cannot have gained {gains_j[domain.name]:.3g} J in "
                    f"{seconds:.3g} s: it was set back"
                )
        if not any(gains_j.values()):
            raise MeasurementError(
                f"below the counter's resolution: no RAPL counter changed in {seconds:.3g} s; measure a longer window"
            )
        return gains_j


class RaplMeter(SimpleMeter):
    """Sums the RAPL counters of all packages and their memory.

    Reading them takes tens of microseconds, far less than their update period, which the uncertainty states.
    """

    name = "rapl"

    def __init__(self, request: MeterRequest) -> None:
        """Find the counters under ``request.powercap_root``, see :func:`find_domains`.

        Raises:
            MeterUnavailableError: there are none, or they may not be read; the text says how to fix it.
        """
        super().__init__(request)
        self.domains = find_domains(request.powercap_root)
        self._counters = Counters(self.domains)

    def idle_power(self, limit_s: float = IDLE_LIMIT_S) -> IdlePower:
        """Power of the packages and their memory with nothing of ours running, once it has settled.

        The counters are the machine's, so it includes what other processes do.
        """
        settled = settled_power(self._idle_block, self.clock, limit_s)
        if settled is None:
            return IdlePower(reason="no RAPL counter changed while the idle power was measured")
        return settled.total(limit_s)

    def _idle_block(self) -> list[BlockPower] | None:
        with self.window() as window:
            self.clock.sleep(_IDLE_BLOCK_S)
        if window.joules is None or window.uncertainty_j is None:
            return None
        return [BlockPower.of_window(window.joules, window.uncertainty_j, window.seconds)]

    def start(self) -> list[int]:
        """The counters, in microjoules."""
        return self._counters.read()

    def fill(self, window: Window, started: list[int]) -> None:
        """The energy since the counters read ``started``, with its uncertainty."""
        ended = self._counters.read()
        try:
            window.boards_j = self._counters.gains_j(started, ended, window.seconds)
        except MeasurementError as error:
            window.reason = error.message
            return
        window.joules = math.fsum(window.boards_j.values())
        window.uncertainty_j = half_width_j(window.joules, window.seconds, len(window.boards_j))


def powercap_folder() -> Path:
    """Where powercap's files are: the folder that :data:`POWERCAP_VARIABLE` names, else :data:`POWERCAP_ROOT`."""
    return Path(os.environ.get(POWERCAP_VARIABLE) or POWERCAP_ROOT)


def find_domains(root: Path | None = None) -> list[Domain]:
    """The counters whose sum is the energy of the processors and their memory, each joule once.

    Args:
        root: where powercap's files are; default: :func:`powercap_folder`.

    Raises:
        MeterUnavailableError: there are none, or they may not be read; the text says how to fix it.
    """
    root = root or powercap_folder()
    # Where the folder of the devices itself is shown to a container, subzones lie in their zones alone.
    patterns = "intel-rapl:*/intel-rapl:*", "intel-rapl:*"
    found = {path.name: path for pattern in patterns for path in root.glob(pattern)}
    zones = {found[name]: _zone_name(found[name]) for name in sorted(found)}
    domains = []
    for package, name in zones.items():
        if not name.startswith("package"):
            continue
        domains.append(_domain(package, name, "package"))
        domains += [
            _domain(zone, f"{name}/dram", "dram")
            for zone, zone_name in zones.items()
            if zone.name.startswith(f"{package.name}:") and zone_name == "dram"
        ]
    if not domains:
        domains = [_domain(path, name, "psys") for path, name in zones.items() if name == "psys"]
    if not domains:
        raise MeterUnavailableError(
            f"no RAPL domain under {root}; it needs Linux on an Intel or AMD processor with the "
            "kernel module intel_rapl_msr, and virtual machines and most containers hide it",
        )
    return domains


def _domain(zone: Path, name: str, kind: str) -> Domain:
    energy_file = zone / "energy_uj"
    try:
        domain = Domain(name, kind, energy_file, int((zone / "max_energy_range_uj").read_text()))
        domain.read_uj()
    except PermissionError as error:
        raise MeterUnavailableError(
            f"no permission to read {error.filename}; as root: chmod a+r {energy_file} (until "
            "the next boot; a udev rule makes it last), or give Python the capability CAP_DAC_READ_SEARCH",
        ) from error
    except (OSError, ValueError) as error:
        raise MeterUnavailableError(f"{zone} cannot be read: {error}") from error
    return domain


def _zone_name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        # A zone without a name is not added.
        return ""


def half_width_j(joules: float, seconds: float, counters: int, beyond_s: float = 0.0) -> float:
    """Half-width in joules of the 95% interval of what counters gained between two plain reads.

    With P their mean power, T the update period, x what the reads hold beyond the work and q the step of each of n
    counters::

        u^2 = P^2 (T^2 / 3 + x^2) + n q^2 / 6

    Each edge is late by up to T at a power from nothing to P: where the machine draws less before the work than in it,
    both err in one direction, in every window (rectangular, JCGM 100:2008, 4.3.7). What was drawn beyond the work is
    anything from nothing to twice as much, and a read may show any instant that it took.

    Args:
        joules: of all counters together.
        seconds: between the reads.
        counters: how many.
        beyond_s: x.
    """
    power_w = joules / max(seconds - UPDATE_PERIOD_S, seconds / 2.0) if seconds > 0 else 0.0
    timing_j = power_w * math.hypot(UPDATE_PERIOD_S / math.sqrt(3.0), beyond_s)
    return COVERAGE_FACTOR_95 * math.hypot(timing_j, COUNTER_STEP_J * math.sqrt(counters / 6.0))
