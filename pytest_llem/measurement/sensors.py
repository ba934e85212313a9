"""How samples of power follow the true power: the sensors that are known, and how likely each is a priori."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sensor:
    """How samples follow the true power.

    Attributes:
        delay_s: dead time.
        lag_s: time constant of the filter of first order; 0: none.
        mean_s: the stretch that a sample is the mean of, before the dead time; 0: it is of an instant.
    """

    delay_s: float
    lag_s: float
    mean_s: float = 0.0

    def ages_s(self, bins: int = 48) -> np.ndarray:
        """Bounds of stretches before a sample's date that have equal weight in it, the youngest first."""
        shares = np.arange(bins) / bins
        if self.mean_s:
            return self.delay_s + np.append(shares, 1.0) * self.mean_s
        bounds_s = -self.lag_s * np.log1p(-shares)
        # The last one has the mean age of all that is older.
        return self.delay_s + np.append(bounds_s, bounds_s[-1] + 2.0 * self.lag_s)


LAGS_S = tuple(float(lag_s) for lag_s in np.arange(0.009, 0.0165, 0.001))
SENSORS = (
    *(Sensor(delay_s, lag_s) for lag_s in LAGS_S for delay_s in (0.002, 0.003, 0.004)),
    *(Sensor(delay_s, 0.0, mean_s) for mean_s in (0.020, 0.025) for delay_s in (-0.001, 0.0, 0.001)),
)
USUAL = Sensor(0.003, 0.0125)
KINDS = (USUAL, Sensor(0.0, 0.0, 0.020))
# Log of the prior of each: 10 to 14 ms and 3 ms on two H200; means of a period on older boards.
LOG_PRIOR = np.array(
    [
        -5.0
        if sensor.mean_s
        else -0.5 * ((sensor.lag_s - USUAL.lag_s) / 0.0012) ** 2 - 0.5 * ((sensor.delay_s - USUAL.delay_s) / 0.001) ** 2
        for sensor in SENSORS
    ]
)
