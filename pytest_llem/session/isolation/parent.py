"""Experiments in child processes: a crash or a hang of one costs that one alone.

The parent keeps the session (collection, reports, saving, verdicts) and hands each model's experiments to one child,
which is a pytest run with the same arguments. What the child reports is published as if the parent had run it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.items import gates_of, measures, parameters, timeout_s
from pytest_llem.session.isolation.children import Children
from pytest_llem.session.isolation.time_limit import TimeLimit
from pytest_llem.session.journal_line import from_line
from pytest_llem.session.reporting import report_phase, skipped_at
from pytest_llem.session.state import SESSION, llem_session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pytest_llem.session.isolation.process import ChildProcess
    from pytest_llem.session.reporting import Outcome, When
    from pytest_llem.settings import Settings

_AFTER: dict[When, When] = {"setup": "call", "call": "teardown", "teardown": "teardown"}


def is_isolated(item: pytest.Item, settings: Settings) -> bool:
    """Whether an item runs in a child: with ``--llem-isolate`` each experiment, and all that measures once the GPU
    failed in this process."""
    if item.get_closest_marker("skip") is not None:
        return False
    experiment = parameters(item).get("llem_experiment")
    if experiment is not None and experiment.errors:
        return False
    session = item.config.stash.get(SESSION, None)
    if session is not None and session.device_lost:
        return measures(item)
    return settings.isolate and experiment is not None


class Isolation:
    """The plugin that runs items in children, one child at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: ChildProcess | None = None
        self._children: Children | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """After the last item: end the child, which may hold a board's memory."""
        try:
            return (yield)
        finally:
            self.close()
            if self._children is not None:
                self._children.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """In place of an item's phases: run it in a child process, if it is to run there."""
        if not is_isolated(item, self._settings):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        _ItemRun(item, self).follow()
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def child_for(self, item: pytest.Item) -> ChildProcess:
        """The child that runs this item next; a fresh one where there is none."""
        if self._child is None or self._child.queue[:1] != [item.nodeid]:
            self.close()
            if self._children is None:
                items = [other for other in item.session.items if is_isolated(other, self._settings)]
                self._children = Children(item.config, items, shown=item.config.getoption("capture") == "no")
            self._child = self._children.start(list(_group(item, self._settings)))
        return self._child

    def lose_nursery(self) -> None:
        """The child was ended with its nursery."""
        self.close()
        if self._children is not None:
            self._children.lose()

    def count(self, item: pytest.Item, line: str) -> None:
        """A result counts: its item has passed."""
        record = replace(from_line(line), gates=gates_of(item, self._settings))
        llem_session(item.config).count(record)

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None


class _ItemRun:
    """One item, as its child reports it."""

    def __init__(self, item: pytest.Item, isolation: Isolation) -> None:
        self._item = item
        self._isolation = isolation
        self._phase: When = "setup"
        self._reports: list[pytest.TestReport] = []
        self._started_s = time.monotonic()
        self._timeout_s = timeout_s(item)

    def follow(self) -> None:
        """Report what the child says, until the item is finished or its child is gone."""
        begun = False
        result: str | None = None
        limit = TimeLimit(llem_session(self._item.config).deadline)
        child = self._isolation.child_for(self._item)
        # A fresh child collects and imports torch before its first item, which is no part of the experiment.
        limit.begin(self._timeout_s if child.served else None)
        while True:
            try:
                message = child.receive(limit.until_s)
            except TimeoutError:
                if limit.is_over_budget:
                    self._isolation.close()
                    self._pass_on()
                    self._skip(f"{limit.passed()}, so its process was ended")
                    return
                child.dump()
                why = f"{limit.passed()}, so its process was killed"
                break
            if message is None:
                if child.served and not begun:
                    # It ended between two items, as it does when it has lost the GPU: the rest runs in a fresh one.
                    self._isolation.close()
                    limit.end()
                    child = self._isolation.child_for(self._item)
                    continue
                why = f"the process of this experiment {child.how_it_ended()}"
                if child.is_orphaned:
                    # No fault of this item, of which nothing was passed on yet.
                    self._isolation.lose_nursery()
                    self._reports.clear()
                    self._phase, begun, result = "setup", False, None
                    limit.end()
                    child = self._isolation.child_for(self._item)
                    continue
                break
            event = message["event"]
            if event in ("start", "loaded"):
                # Whether it had to load depends on what ran before, so loading has a limit of its own.
                self._started_s = time.monotonic()
                limit.begin(self._timeout_s)
            if event == "start":
                begun = True
                child.begin_item(message["output_start"])
            elif event == "report":
                self._note(message["report"])
            elif event == "result":
                result = message["line"]
            elif event == "finish":
                self._pass_on()
                try:
                    if result is not None:
                        self._isolation.count(self._item, result)
                except ValueError as error:
                    self._fail(f"its process sent a result that cannot be read: {error}", "")
                child.finish_item()
                if not child.queue:
                    self._isolation.close()
                return
        output = child.output()
        self._isolation.close()
        self._pass_on()
        self._fail(why, output)

    def _note(self, values: dict[str, Any]) -> None:
        config = self._item.config
        # Lists in JSON; pytest knows by the type that this is where and why an item was skipped.
        if isinstance(values["longrepr"], list):
            values["longrepr"] = tuple(values["longrepr"])
        report = config.hook.pytest_report_from_serializable(config=config, data=values)
        self._phase = _AFTER[report.when]
        self._reports.append(report)

    def _pass_on(self) -> None:
        for report in self._reports:
            self._item.ihook.pytest_runtest_logreport(report=report)

    def _fail(self, why: str, output: str) -> None:
        """Report what the child could not: the phase that it was in failed; there was nothing left to tear down."""
        self._report("failed", why, [("Output of the process", output)] if output else [])

    def _skip(self, why: str) -> None:
        """Report an item that was given up."""
        self._report("skipped", skipped_at(self._item, why))

    def _report(
        self, outcome: Outcome, message: str | tuple[str, int, str], sections: Sequence[tuple[str, str]] = ()
    ) -> None:
        seconds = time.monotonic() - self._started_s
        report_phase(self._item, self._phase, outcome, message, sections=sections, seconds=seconds)
        if self._phase != "teardown":
            report_phase(self._item, "teardown")


def _group(item: pytest.Item, settings: Settings) -> Iterator[str]:
    """This item and those after it that run in a child and load the same model."""
    items = item.session.items
    model = parameters(item).get("llem_model")
    for other in items[items.index(item) :]:
        if parameters(other).get("llem_model") != model:
            return
        if is_isolated(other, settings):
            yield other.nodeid
