"""One pair of processes, each a side's, which measure the same experiments and take turns on the device.

Windows come in blocks A B B A, where A is the side that begins: what changes steadily meanwhile, such as a temperature,
cancels within a block. While one side measures, the other waits for what it is told next.
"""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_llem.session.isolation.children import Children
from pytest_llem.session.isolation.process import Launch
from pytest_llem.session.isolation.time_limit import TimeLimit
from pytest_llem.session.journal_line import from_line
from pytest_llem.session.state import llem_session
from pytest_llem.settings import SETTINGS, STARTED_WITH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pytest

    from pytest_llem.records.record import Record
    from pytest_llem.session.against.side import Side
    from pytest_llem.session.deadline import Deadline
    from pytest_llem.session.isolation.process import ChildProcess

# Environment variables by which processes of a session know of each other.
_OURS = "PYTEST_LLEM_"


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment on one side.

    Attributes:
        record: its result; ``None`` where it has none.
        problem: why it has none, with the name of the side.
        skipped: whether that is no failure: it cannot run there, or was given up.
        output: what its process had written, where that has ended.
        idle_power_w: power of the boards at rest before its first window, where it was measured.
        is_due_to_partner: whether it was given up because the other side has no result.
    """

    record: Record | None = None
    problem: str = ""
    skipped: bool = False
    output: str = ""
    idle_power_w: float | None = None
    is_due_to_partner: bool = False


@dataclass(frozen=True)
class Pair:
    """What both sides measured of one experiment.

    Attributes:
        other_first: whether the other side began.
        by_turns: whether both processes were alive, and their windows took turns.
    """

    this: Outcome
    other: Outcome
    other_first: bool
    by_turns: bool

    @property
    def problem(self) -> Outcome | None:
        """Of the side to which it is due that the pair is not whole: a failure before what is skipped."""
        missing = [outcome for outcome in (self.this, self.other) if outcome.record is None]
        return min(missing, key=lambda outcome: (outcome.is_due_to_partner, outcome.skipped)) if missing else None


class Sides:
    """The processes of both sides for one pair: samples that depend on no other pair's."""

    def __init__(
        self,
        config: pytest.Config,
        sides: tuple[Side, Side],
        items: Iterable[pytest.Item],
    ) -> None:
        """Start to import, on both sides at once.

        Args:
            sides: this one and the other.
            items: what they may run.
        """
        self._sides = sides
        self._deadline = llem_session(config).deadline
        items = list(items)
        self._children = tuple(
            Children(
                config,
                items,
                shown=False,
                launch=Launch(
                    (*side.arguments, *_same_settings(config)),
                    side.folder,
                    str(side.python),
                    {**_undone(config), **side.environment},
                ),
            )
            for side in sides
        )
        for children in self._children:
            children.prepare()

    def close(self) -> None:
        """End what imported."""
        for children in self._children:
            children.close()

    def measure(
        self, timeouts_s: Mapping[str, float | None], *, other_first: bool, by_turns: bool = True
    ) -> dict[str, Pair]:
        """Measure the experiments of one load on both sides.

        Args:
            timeouts_s: how long each may take on a side once its model is loaded, by node id, in the order in which
                they run; ``None`` for as long as it likes.
            other_first: whether the other side begins.
            by_turns: whether both processes are alive at once; else the side that begins runs all of them before the
                other one does.
        """
        for children in self._children:
            # Nobody imports while a window is open.
            children.wait()
        runs = tuple(
            _SideRun(side, children, list(timeouts_s), self._deadline)
            for side, children in zip(self._sides, self._children, strict=True)
        )
        order = runs[::-1] if other_first else runs
        found: dict[_SideRun, dict[str, Outcome]] = {run: {} for run in runs}
        with ExitStack() as stack:
            for run in order:
                stack.callback(run.close)
            if by_turns:
                for nodeid, timeout_s in timeouts_s.items():
                    _take_turns(order, nodeid, timeout_s)
                    for run in runs:
                        found[run][nodeid] = run.outcome
            else:
                for run in order:
                    for nodeid, timeout_s in timeouts_s.items():
                        run.begin(nodeid, timeout_s)
                        while run.waits:
                            run.go()
                        found[run][nodeid] = run.outcome
                    run.close()
        this, other = runs
        return {nodeid: Pair(found[this][nodeid], found[other][nodeid], other_first, by_turns) for nodeid in timeouts_s}


def _same_settings(config: pytest.Config) -> list[str]:
    """Arguments by which both sides measure the same in the same way, whatever their ini files say."""
    settings = config.stash[SETTINGS]
    values = {
        "--llem-meter": settings.meter,
        "--llem-rounds": settings.rounds,
        "--llem-min-window": settings.min_window_s,
        "--llem-lock-timeout": settings.lock_timeout_s,
    }
    arguments = [f"{option}={value}" for option, value in values.items() if value is not None]
    ini = {"llem_files": settings.files, "testpaths": config.getini("testpaths")}
    arguments += [f"--override-ini={name}={shlex.join(paths)}" for name, paths in ini.items() if paths]
    # A broken test of the other side concerns no experiment.
    return [*arguments, "--continue-on-collection-errors"]


def _undone(config: pytest.Config) -> dict[str, str | None]:
    """What takes back the changes that this side's code has made to the environment of this process since it was
    started: the other side's has made its own."""
    before = config.stash[STARTED_WITH]
    changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
    return {name: before.get(name) for name in changed if not name.startswith(_OURS)}


def next_turn(first: int, second: int) -> int:
    """Whose window comes next, 0 for the side that begins: A B B A, A B B A and so on.

    Args:
        first, second: windows that each side has. One that had to begin anew catches up.
    """
    if first == second:
        return first % 2
    return int(second < first)


def _take_turns(order: Sequence[_SideRun], nodeid: str, timeout_s: float | None) -> None:
    """Measure one experiment on both sides, window by window."""
    first, second = order
    for run in order:
        run.begin(nodeid, timeout_s)
    while first.waits and second.waits and not (first.is_complete and second.is_complete):
        number = next_turn(first.done, second.done)
        if order[number].is_complete:
            number = 1 - number
        order[number].go()
    for run, partner in ((first, second), (second, first)):
        if run.waits and not partner.waits and partner.outcome.record is None:
            run.stop(f"it did not run on {partner.name}")
        while run.waits:
            run.go()


class _SideRun:
    """One side's process in a pair: what it has done of the experiment that it runs, and what became of it.

    Attributes:
        done, total: windows of the experiment that are over, and that there will be.
        waits: whether the experiment waits for its turn; else it is over.
    """

    def __init__(self, side: Side, children: Children, nodeids: Sequence[str], deadline: Deadline | None) -> None:
        self.name = side.name
        self._children = children
        self._ahead = list(nodeids)
        self._limit = TimeLimit(deadline)
        self._child: ChildProcess | None = None
        self._is_between = False
        self._missing: dict[str, str] = {}
        self._forget()

    @property
    def is_complete(self) -> bool:
        """Whether all windows of the experiment are over."""
        return self.done >= self.total

    def begin(self, nodeid: str, timeout_s: float | None) -> None:
        """Run an experiment until its first window, or to its end."""
        self._forget()
        self._timeout_s = timeout_s
        if self._child is None:
            self._start()
        if nodeid in self._missing:
            self.outcome = Outcome(problem=f"on {self.name}: {self._missing[nodeid]}", skipped=True)
        elif self._child is not None:
            self._is_between = False
            self._child.tell()
            self._follow()
        self._ahead.remove(nodeid)

    def go(self) -> None:
        """It is its turn: run until it waits again, or is over."""
        assert self._child is not None  # noqa: S101  (it waits)
        self.waits = False
        self._child.tell()
        self._limit.resume()
        self._follow()

    def stop(self, why: str) -> None:
        """Give the experiment up."""
        assert self._child is not None  # noqa: S101  (it waits)
        self.waits, self._is_stopped = False, True
        self._child.tell(stop=why)
        self._limit.resume()
        self._follow()

    def close(self) -> None:
        """End the process. Closing twice is harmless."""
        if self._child is not None:
            if self._is_between and not self._child.queue:
                self._child.tell()
            self._child.close()
            self._child = None

    def _start(self) -> None:
        self._child = self._children.start(self._ahead, by_turns=True)
        self._child.tell(nodeids=self._ahead, by_turns=True)
        self._follow()

    def _forget(self) -> None:
        self.done = self.total = 0
        self.waits = self._is_stopped = False
        self.outcome = Outcome()
        self._line: str | None = None
        self._idle_power_w: float | None = None
        self._failure: tuple[str, bool] | None = None

    def _follow(self) -> None:
        """Listen until the process waits for something, or has ended."""
        while self._child is not None and not (self.waits or self._is_between):
            try:
                message = self._child.receive(self._limit.until_s)
            except TimeoutError:
                self._end(f"{self._limit.passed()}, so its process was killed", skipped=self._limit.is_over_budget)
                return
            if message is None:
                self._end(f"its process {self._child.how_it_ended()}", skipped=False)
                return
            self._hear(message, self._child)

    def _hear(self, message: Mapping[str, Any], child: ChildProcess) -> None:
        event = message["event"]
        if event == "missing":
            self._missing |= message["reasons"]
            child.queue = [nodeid for nodeid in child.queue if nodeid not in self._missing]
            self._is_between = True
        elif event in ("start", "loaded"):
            self._limit.begin(self._timeout_s)
            if event == "start":
                child.begin_item(message["output_start"])
        elif event == "turn":
            self.done, self.total = message["done"], message["total"]
            self._idle_power_w = message.get("idle_power_w")
            self.waits = True
            self._limit.pause()
        elif event == "report" and message["report"]["outcome"] != "passed":
            report = message["report"]
            self._failure = (_reason(report["longrepr"]), report["outcome"] == "skipped")
        elif event == "result":
            self._line = message["line"]
        elif event == "finish":
            child.queue.pop(0)
            self._is_between = True
            self._limit.end()
            self.outcome = self._finished()

    def _finished(self) -> Outcome:
        record = None
        try:
            if self._line is not None and self._failure is None:
                record = from_line(self._line)
        except ValueError as error:
            self._failure = (f"what it sent cannot be read: {error}", False)
        why, skipped = self._failure or ("it measured nothing", False)
        problem = "" if record is not None else f"on {self.name}: {why}"
        return Outcome(record, problem, skipped, "", self._idle_power_w, self._is_stopped)

    def _end(self, why: str, *, skipped: bool) -> None:
        """The process has ended, or is ended now; the experiments after this one get another."""
        assert self._child is not None  # noqa: S101  (it was listened to)
        output = self._child.output()
        self.outcome = Outcome(problem=f"on {self.name}: {why}", skipped=skipped, output=output)
        self._child.close()
        self._child = None
        self._is_between = False


def _reason(longrepr: Any) -> str:
    """Why an item failed or was skipped, of a report in plain values."""
    if isinstance(longrepr, list):
        return str(longrepr[-1]).removeprefix("Skipped: ")
    if isinstance(longrepr, dict):
        return str((longrepr.get("reprcrash") or {}).get("message", "it failed"))
    return str(longrepr)
