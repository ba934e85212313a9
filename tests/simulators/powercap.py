"""The counters of processors, as Linux's powercap shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.meters.base import SystemClock
from pytest_llem.meters.rapl import Domain
from tests.simulators.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RANGE_UJ = 262_143_328_850


class PowercapTree:
    """A copy of ``/sys/class/powercap``: zones side by side, subzones inside their zone as well."""

    def __init__(self, root: Path) -> None:
        self.root = root / "powercap"
        self.devices = root / "devices"
        self.root.mkdir()

    def add(self, zone: str, name: str, energy_uj: int = 1_000_000) -> None:
        place = self.devices / zone
        if zone.count(":") == 2:
            place = self.devices / zone.rpartition(":")[0] / zone
        place.mkdir(parents=True)
        (self.root / zone).symlink_to(place)
        (place / "name").write_text(f"{name}\n")
        (place / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        (place / "energy_uj").touch()
        self.set(zone, energy_uj)

    def set(self, zone: str, energy_uj: int) -> None:
        """By one write of as many digits, so that nobody reads half of it."""
        with (self.root / zone / "energy_uj").open("r+b") as file:
            file.write(f"{energy_uj:020}\n".encode())


class PowercapClock(SimulatedClock):
    """Time in which the zones of a tree draw power, and their counters are updated each millisecond.

    Attributes:
        powers_w: by zone, in watts; may be changed at any time.
        energies_j: what each has truly drawn, in joules.
    """

    def __init__(self, tree: PowercapTree, powers_w: Mapping[str, float]) -> None:
        super().__init__()
        self._tree = tree
        self.powers_w = dict(powers_w)
        self.energies_j = dict.fromkeys(powers_w, 0.0)

    def sleep(self, seconds: float) -> None:
        before_s = self.now_s()
        super().sleep(seconds)
        self._draw(before_s)

    def work(self, seconds: float, cpu_share: float = 1.0) -> None:
        before_s = self.now_s()
        super().work(seconds, cpu_share)
        self._draw(before_s)

    def _draw(self, before_s: float) -> None:
        passed_s = self.now_s() - before_s
        since_update_s = self.now_s() % 1e-3
        for zone, power_w in self.powers_w.items():
            self.energies_j[zone] += passed_s * power_w
            if since_update_s < passed_s:
                shown_j = self.energies_j[zone] - since_update_s * power_w
                self._tree.set(zone, round(shown_j * 1e6))


def count_watts(power_w: float) -> None:
    """Let every counter that meters of this process read count so many watts, in the time that they live in.

    Files cannot count by themselves; which there are, they say all the same.
    """
    clock = SystemClock()

    def read_uj(self: Domain) -> int:
        return round(clock.now_s() * power_w * 1e6) % self.range_uj

    Domain.read_uj = read_uj  # type: ignore[method-assign]
