"""What a child says of one item, gathered until the item is over or its child is gone: plain data, without pytest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_llem.session.isolation.time_limit import TimeLimit

if TYPE_CHECKING:
    from pytest_llem.session.deadline import Deadline
    from pytest_llem.session.isolation.process import ChildProcess


@dataclass
class Outcome:
    """What became of one item.

    Attributes:
        nodeid: pytest's name of it.
        reports: of its phases, as pytest serialises them.
        line: its result, as a line of the journal; ``None`` where it has none.
        failure: why its child could not finish it; ``None`` where it did.
        given_up: why it was not begun, or ended with the session's time; ``None`` where it was neither.
        output: what its child had written, where that failed.
        seconds: since it began, where it was not finished.
    """

    nodeid: str
    reports: list[dict[str, Any]] = field(default_factory=list)
    line: str | None = None
    failure: str | None = None
    given_up: str | None = None
    output: str = ""
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether its child lives and waits to go on."""
        return self.failure is None and self.given_up is None


class Source(Protocol):
    """Where children come from."""

    def child_for(self, nodeid: str) -> ChildProcess:
        """The child that runs this item next; a fresh one where there is none."""

    def lose_nursery(self) -> None:
        """The child was ended with the process that it was forked from."""

    def close(self) -> None:
        """End the child."""


def follow(nodeid: str, timeout_s: float | None, source: Source, deadline: Deadline | None = None) -> Outcome:
    """Listen to the child that runs an item. One that did not finish it is closed.

    Args:
        nodeid: the item.
        timeout_s: how long it may take once its model is loaded, in seconds; ``None`` for as long as it likes.
        source: of its child.
        deadline: when the session's time is over.
    """
    outcome = Outcome(nodeid)
    began_s = time.monotonic()
    begun = False
    limit = TimeLimit(deadline)
    child = source.child_for(nodeid)
    # A fresh child collects and imports torch before its first item, which is no part of the experiment.
    limit.begin(timeout_s if child.served else None)
    while True:
        try:
            message = child.receive(limit.until_s)
        except TimeoutError:
            if limit.is_over_budget:
                outcome.given_up = f"{limit.passed()}, so its process was ended"
            else:
                child.dump()
                outcome.failure = f"{limit.passed()}, so its process was killed"
            break
        if message is None:
            if child.served and not begun:
                # It ended between two items, as it does when it has lost the GPU: the rest runs in a fresh one.
                source.close()
                limit.end()
                child = source.child_for(nodeid)
                continue
            outcome.failure = f"the process of this experiment {child.how_it_ended()}"
            if child.is_orphaned:
                # No fault of this item, of which nothing was passed on yet.
                source.lose_nursery()
                outcome, begun = Outcome(nodeid), False
                limit.end()
                child = source.child_for(nodeid)
                continue
            break
        event = message["event"]
        if event in ("start", "loaded"):
            # Whether it had to load depends on what ran before, so loading has a limit of its own.
            began_s = time.monotonic()
            limit.begin(timeout_s)
        if event == "start":
            begun = True
            child.begin_item(message["output_start"])
        elif event == "report":
            outcome.reports.append(message["report"])
        elif event == "result":
            outcome.line = message["line"]
        elif event == "finish":
            return outcome
    outcome.line = None
    outcome.output = child.output() if outcome.given_up is None else ""
    outcome.seconds = time.monotonic() - began_s
    source.close()
    return outcome
