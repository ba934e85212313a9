"""No energy meter: time alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.meters.simple import SimpleMeter

if TYPE_CHECKING:
    from pytest_llem.meters.base import Window


class NoMeter(SimpleMeter):
    """Times windows and reads no energy."""

    name = "none"
    reports_energy = False

    def fill(self, window: Window, started: Any) -> None:  # noqa: ARG002
        """Say why there are no joules."""
        window.reason = "no energy meter is in use"
