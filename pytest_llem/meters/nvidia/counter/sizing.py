"""How long a window must be for its energy to be known as well as it is to be.

An edge that is dated wrongly by u_t costs P u_t of an energy P tau, and a counter in steps of q costs
q / sqrt(6). So the half-width of the 95% interval is the wanted share r of the energy for::

    tau = 1.96 / r * sqrt(u_t^2 + (q / (sqrt(6) P))^2)

with P the idle power, since a window draws at least that (60 W where it is not known). What dates the ends of a window:

* edges of their own: ``u_t^2 = 2 u_e^2 + (0.15 J / P)^2``. u_e is what an edge is dated by; 0.15 J is about what idle
  power before and after the work, and how far the board has settled, leave open (on two H200 and on simulated boards);
* unaligned reads, each late by up to a period: ``u_t = T / sqrt(6)``.
"""

from __future__ import annotations

import math

from pytest_llem.meters.base import COVERAGE_FACTOR_95

_SETTLING_J = 0.15
_LEAST_PERIODS = 5.0
_LEAST_S, _MOST_S = 0.2, 10.0
_ASSUMED_IDLE_W = 60.0


def least_window_s(
    period_s: float,
    resolution_j: float,
    relative_uncertainty: float,
    idle_power_w: float | None = None,
    edge_error_s: float | None = None,
) -> float:
    """Least seconds of a window.

    Args:
        period_s: time between two updates of the counter, in seconds.
        resolution_j: its smallest step, in joules.
        relative_uncertainty: half-width of the 95% interval of one window, as a share of its energy.
        idle_power_w: in watts, where it is known.
        edge_error_s: what an edge is dated by, standard uncertainty in seconds; ``None`` between plain reads.
    """
    power_w = idle_power_w or _ASSUMED_IDLE_W
    if edge_error_s is None:
        date_s = period_s / math.sqrt(6.0)
    else:
        date_s = math.hypot(math.sqrt(2.0) * edge_error_s, _SETTLING_J / power_w)
    seconds = COVERAGE_FACTOR_95 / relative_uncertainty * math.hypot(date_s, resolution_j / (math.sqrt(6.0) * power_w))
    return min(max(seconds, _LEAST_PERIODS * period_s, _LEAST_S), _MOST_S)
