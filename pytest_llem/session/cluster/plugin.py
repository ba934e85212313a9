"""The plugin of a session whose experiments run on the machines of a Ray cluster.

What they tell is reported and counted here as it comes, as if the items had run in this process; the rest of the
session (verdicts, reports, saving) knows no difference.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import is_measured
from pytest_llem.options import RAY_HERE
from pytest_llem.session.against.counterparts import Counterparts
from pytest_llem.session.cluster.dispatch import Dispatch, Told
from pytest_llem.session.cluster.messages import WORKING_DIRECTORY, Order
from pytest_llem.session.cluster.needs import groups_of
from pytest_llem.session.isolation.publishing import publish
from pytest_llem.session.journal_line import from_line
from pytest_llem.session.reporting import report_item
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_llem.records.record import Record
    from pytest_llem.session.cluster.connection import Cluster
    from pytest_llem.settings import Settings

# What decides how pytest runs is the session's; all other variables are those of the machine.
_OF_PYTEST = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")


class Distribution:
    """Runs on a cluster what a session measures, before the other tests, which run here.

    Args:
        address: of the cluster, see :class:`~pytest_llem.session.cluster.connection.Cluster`.
    """

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings = settings
        self._address = address
        self._items: dict[str, pytest.Item] = {}
        self._ran_on: dict[str, str] = {}
        self._dispatch: Dispatch | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """After collection: note what is going to be measured, of which a journal may hold a part."""
        self._items = {item.nodeid: item for item in session.items if is_measured(item)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Once the journal is there: measure, then run the other tests.

        Raises:
            pytest.UsageError: there is no such cluster, or it cannot run experiments.
        """
        config = session.config
        refused = session.testsfailed and not config.option.continue_on_collection_errors
        if refused or not self._items:
            return None
        travels = self._address != RAY_HERE
        if travels and not config.invocation_params.dir.is_relative_to(config.rootpath):
            raise pytest.UsageError(
                f"--llem-ray={self._address}: the root folder {config.rootpath} is brought to the machines: call "
                "pytest in it, or below"
            )
        cluster = _connect(config, self._address, config.rootpath if travels else None)
        state = llem_session(config)
        say = state.say if config.get_verbosity() >= 0 else lambda _: None
        orders = _Orders(config, travels=travels)
        self._dispatch = Dispatch(cluster, orders, on_gpus=self._settings.device == "cuda", say=say)
        state.measure_elsewhere = self.measure_again
        here = [item for item in session.items if item.nodeid not in self._items]
        left = [item for item in session.items if item.nodeid in self._items]
        try:
            with closing(self._dispatch.run(groups_of(left))) as tell:
                for told in tell:
                    self._report(told)
                    _stop_if_asked(session)
        finally:
            # Rows and reports are in the session's order, whichever result came first.
            nodeids = dict.fromkeys((*self._items, *state.records))
            state.records = {nodeid: state.records[nodeid] for nodeid in nodeids if nodeid in state.records}
        # By pytest's own loop failures so far would be errors of collection.
        for item, following in zip(here, [*here, None][1:], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            _stop_if_asked(session)
        return True

    def measure_again(self, timeouts_s: Mapping[str, float | None]) -> tuple[dict[str, Record], str | None]:
        """Run items once more, each load on the machine that ran it, as
        :func:`pytest_llem.session.isolation.reruns.measure_again` does here."""
        assert self._dispatch is not None  # noqa: S101  (something was measured)
        found: dict[str, Record] = {}
        problem: str | None = None
        by_node: dict[str | None, list[pytest.Item]] = {}
        for nodeid in timeouts_s:
            by_node.setdefault(self._ran_on.get(nodeid), []).append(self._items[nodeid])
        for node, items in by_node.items():
            for told in self._dispatch.run(groups_of(items), node):
                outcome = told.outcome
                try:
                    if outcome.line is not None:
                        found[told.item.nodeid] = from_line(outcome.line)
                        continue
                    problem = outcome.failure or outcome.given_up or "it was not measured in the fresh process"
                except ValueError as error:
                    problem = f"what the fresh process sent cannot be read: {error}"
        return found, problem

    def _report(self, told: Told) -> None:
        item, outcome = told.item, told.outcome
        if told.hello is not None:
            self._ran_on[item.nodeid] = told.hello.node
            for report in outcome.reports:
                report["user_properties"].append(("llem.machine", told.machine))
            if self._address != RAY_HERE:
                outcome.reports = _with_paths(outcome.reports, told.hello.working_directory, item.config.rootpath)
        if outcome.failure is not None:
            outcome.failure += f" (on {told.machine})"
        if told.lost:
            report_item(item, "failed", outcome.failure)
            return
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        publish(item, outcome, self._settings)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class _Orders:
    """Makes orders of this session.

    Args:
        travels: whether they are for other machines, to which the root folder is brought.
    """

    def __init__(self, config: pytest.Config, *, travels: bool) -> None:
        arguments: Sequence[str] = config.invocation_params.args
        folder = config.invocation_params.dir
        environment = {name: os.environ.get(name) for name in _OF_PYTEST}
        if travels:
            from pathlib import Path

            there = Counterparts(config.rootpath.resolve(), Path(WORKING_DIRECTORY))
            arguments = (f"--rootdir={WORKING_DIRECTORY}", *there.arguments(arguments, folder))
            options = there.environment(os.environ, folder, ()).get("PYTEST_ADDOPTS")
            environment["PYTEST_ADDOPTS"] = options
            folder = there.path(folder)
        self._arguments, self._folder, self._environment = arguments, folder, environment

    def __call__(self, timeouts_s: Mapping[str, float | None], gpus: int) -> Order:
        return Order(timeouts_s, self._arguments, str(self._folder), self._environment, gpus)


def _stop_if_asked(session: pytest.Session) -> None:
    """As pytest does between two tests."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)


def _connect(config: pytest.Config, address: str, files: Path | None) -> Cluster:
    """Connect until the end of the process, which is then as it was before."""
    config.add_cleanup(partial(_restore_environment, dict(os.environ)))
    if address == RAY_HERE and "ray" not in sys.modules:
        # Without a token others on the network could run code here. Ray looks when it is imported, and never again.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        from pytest_llem.session.cluster.connection import Cluster
    except ImportError as error:
        raise pytest.UsageError(
            f"--llem-ray: Ray cannot be imported ({error}): pip install 'pytest-llem[ray]'"
        ) from None
    cluster = Cluster(address, files)
    config.add_cleanup(cluster.close)
    return cluster


def _restore_environment(before: Mapping[str, str]) -> None:
    """Undo what Ray, once it is imported, does to the variables of this process."""
    for name in {*before, *os.environ}:
        if name.startswith("RAY_") or name == "PYTHONBREAKPOINT":
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _with_paths(reports: list[dict[str, object]], there: str, here: Path) -> list[dict[str, object]]:
    """Reports in which the files that were brought to a machine are those that lie here."""
    found: list[dict[str, object]] = json.loads(json.dumps(reports).replace(there, json.dumps(str(here))[1:-1]))
    return found
