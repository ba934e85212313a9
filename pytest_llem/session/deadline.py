"""When a session's budget of time is over, and what runs then is given up.

A pass or a window is never interrupted, nor is a load: what runs is asked between them. A child process knows when its
parent's budget is over.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import pytest

OF_PARENT = "PYTEST_LLEM_DEADLINE"
"""Environment variable that tells child processes: the budget, and its end on the clock that processes share."""

# As fractions of the budget. A session may end 10% late: what runs is given up soon enough before, and a child that
# does not give up by itself a little later.
_GIVE_UP = 0.03
_LATEST = 0.1
_KILL = 0.07


def now_s() -> float:
    """Seconds on the clock by which budgets are kept; it is the same in all processes."""
    return time.monotonic()


@dataclass(frozen=True)
class Deadline:
    """The end of a budget.

    Attributes:
        budget_s: seconds that there were.
        end_s: when they are over, as :func:`now_s` tells it.
    """

    budget_s: float
    end_s: float

    @classmethod
    def of_parent(cls) -> Deadline | None:
        """That of the session which this process is a child of, if it has one."""
        budget_s, _, end_s = os.environ.get(OF_PARENT, "").partition(" ")
        return cls(float(budget_s), float(end_s)) if end_s else None

    def tell_children(self) -> None:
        """Processes that are started from here on know of it, until :meth:`forget`."""
        os.environ[OF_PARENT] = f"{self.budget_s!r} {self.end_s!r}"

    @staticmethod
    def forget() -> None:
        """Processes that are started from here on know of none."""
        os.environ.pop(OF_PARENT, None)

    @property
    def left_s(self) -> float:
        """Seconds that are left; negative afterwards."""
        return self.end_s - now_s()

    @property
    def kill_s(self) -> float:
        """When a child process that still runs is ended, as :func:`now_s` tells it."""
        return self.end_s + _KILL * self.budget_s

    @property
    def given_up(self) -> str:
        """Why something that was begun has no result."""
        spent_s = self.budget_s - self.left_s
        return f"llem-budget: given up: {spent_s:.3g} s of {self.budget_s:g} s are over"

    def watch(self, phase: str, done: int, total: int, last_s: float) -> None:
        """Between two passes or windows: skip the item if it cannot end in time.

        Args:
            phase: what runs, as of :data:`pytest_llem.measurement.windows.Progress`.
            done: passes or windows that are over; ``total``: of how many.
            last_s: seconds of the last one.
        """
        is_round = phase == "round"
        if is_round and done >= total:
            return
        late_s = -self.left_s
        ahead_s = last_s * (total - done if is_round else 1)
        if late_s > _GIVE_UP * self.budget_s or late_s + ahead_s > _LATEST * self.budget_s:
            reason = f"{self.given_up}, and {phase} {done} of {total} has taken {last_s:.3g} s"
            raise pytest.skip.Exception(reason)

    def require_time(self) -> None:
        """After a load: skip the item if nothing is left for it."""
        if self.left_s < -_GIVE_UP * self.budget_s:
            raise pytest.skip.Exception(f"{self.given_up}, and it has not begun to measure")
