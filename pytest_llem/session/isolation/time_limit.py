"""How long a child process may stay silent: ``timeout_s`` of what it runs, and the end of the session's time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.session.deadline import now_s

if TYPE_CHECKING:
    from pytest_llem.session.deadline import Deadline


class TimeLimit:
    """The limits of one child, whichever comes first.

    Args:
        deadline: when the session's time is over, if it has a limit.
    """

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline
        self._timeout_s: float | None = None
        self._timeout_at_s: float | None = None
        self._left_s: float | None = None

    def begin(self, timeout_s: float | None) -> None:
        """An item begins, or its model is loaded: from here on it may take that long."""
        self._timeout_s, self._left_s = timeout_s, None
        self._timeout_at_s = None if timeout_s is None else now_s() + timeout_s

    def pause(self) -> None:
        """The item waits for another process, which costs it no time."""
        if self._timeout_at_s is not None:
            self._left_s, self._timeout_at_s = self._timeout_at_s - now_s(), None

    def resume(self) -> None:
        """It goes on."""
        if self._left_s is not None:
            self._timeout_at_s, self._left_s = now_s() + self._left_s, None

    def end(self) -> None:
        """The item is over."""
        self.begin(None)

    @property
    def until_s(self) -> float | None:
        """When the first limit passes, on the monotonic clock; ``None`` for never."""
        ends_s = (self._timeout_at_s, None if self._deadline is None else self._deadline.kill_s)
        return min((end_s for end_s in ends_s if end_s is not None), default=None)

    @property
    def is_over_budget(self) -> bool:
        """Whether the session's time is what has passed."""
        return self._deadline is not None and self.until_s == self._deadline.kill_s

    def passed(self) -> str:
        """What has passed, in words."""
        if self._deadline is not None and self.is_over_budget:
            return self._deadline.given_up
        return f"timeout_s: still running after {self._timeout_s:g} s"
