"""The child's side of isolated experiments: run the items that the parent names, and report each."""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.descendants import end_with_parent
from pytest_llem.engines import get_engine
from pytest_llem.errors import UnavailableError
from pytest_llem.items import parameters
from pytest_llem.session.isolation.process import DUMP_SIGNAL
from pytest_llem.session.journal_line import as_line
from pytest_llem.session.state import SESSION, llem_session

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_llem.settings import Settings

# Saving, reporting, selecting, stopping, debugging, distributing.
_NOT_THE_CHILDS: dict[str, object] = {
    "benchmark_json": None,
    "benchmark_save": None,
    "benchmark_autosave": None,
    "benchmark_compare": None,
    "benchmark_compare_fail": None,
    "benchmark_histogram": None,
    "xmlpath": None,
    "log_file": None,
    "basetemp": None,
    "cacheclear": False,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "maxfail": 0,
    "usepdb": False,
    "trace": False,
    "numprocesses": None,
    "maxprocesses": None,
    "dist": "no",
    "distload": False,
    "tx": [],
    "llem_isolate": False,
    "llem_ray": None,
    "llem_shard": None,
    "llem_resume": False,
    "llem_journal": None,
    "llem_against": None,
    "llem_bisect": None,
}


def leave_out_the_parents(config: pytest.Config) -> None:
    """Before anything reads the options: what concerns the session as a whole is the parent's."""
    for name, value in _NOT_THE_CHILDS.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)


class IsolatedChild:
    """The plugin of a child."""

    def __init__(self, settings: Settings) -> None:
        descriptor = settings.child
        assert descriptor is not None  # noqa: S101
        # Processes that a test starts do not keep the line to the parent open.
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._session: pytest.Session | None = None
        self._began_s = time.perf_counter()
        # The session's locks keep others off the boards in use here.
        end_with_parent()
        # What the parent shows of a child that died. Not captured yet: pytest captures while it collects and runs.
        self._output = os.dup(2)
        faulthandler.register(DUMP_SIGNAL, file=self._output)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep the session, to end it early."""
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        """After every other selection: the parent's items, in its order."""
        yield
        by_nodeid = {item.nodeid: item for item in items}
        order = self._listen()
        missing = {nodeid: "it was not collected" for nodeid in order["nodeids"] if nodeid not in by_nodeid}
        if order["by_turns"]:
            # Another version may lack a field that an experiment has.
            refused = {nodeid: _refusal(by_nodeid[nodeid]) for nodeid in order["nodeids"] if nodeid in by_nodeid}
            missing |= {nodeid: why for nodeid, why in refused.items() if why is not None}
            self._send(event="missing", reasons=missing)
            self._listen()
            assert self._session is not None  # noqa: S101  (it has started)
            llem_session(self._session.config).await_turn = self._await_turn
        elif missing:
            raise pytest.UsageError(f"not collected in the child process: {', '.join(missing)}")
        items[:] = [by_nodeid[nodeid] for nodeid in order["nodeids"] if nodeid not in missing]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Before the first item: import its backend, which is no part of the experiment and has no time limit."""
        experiment = parameters(session.items[0]).get("llem_experiment") if session.items else None
        if experiment is not None:
            # What cannot be imported is the item's to report.
            with suppress(UnavailableError):
                get_engine(experiment.valid_config.backend)
        # The first item has waited for this process as it waits for its model.
        llem_session(session.config).note_load(time.perf_counter() - self._began_s)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """A model is loaded: from here on the time of the experiment itself counts."""
        value = yield
        if fixturedef.argname == "llem_model":
            self._send(event="loaded")
        return value

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """An item begins and ends, however often a plugin runs it. After the GPU failed, the rest is for another
        process."""
        assert self._session is not None  # noqa: S101  (it has started)
        # Sent by this side: when the parent hears of it, the item may have written already.
        self._send(event="start", output_start=os.fstat(self._output).st_size)
        done = yield
        state = self._session.config.stash.get(SESSION, None)
        if state is not None:
            if (record := state.records.get(item.nodeid)) is not None:
                self._send(event="result", line=as_line(record))
            if state.device_lost:
                self._session.shouldstop = "the GPU failed"
        self._send(event="finish")
        # The parent answers once the result is in the journal.
        self._listen()
        return done

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of an item is over."""
        assert self._session is not None  # noqa: S101  (it has started)
        config = self._session.config
        values = config.hook.pytest_report_to_serializable(config=config, report=report)
        self._send(event="report", report=values)

    def _await_turn(self, done: int, total: int) -> None:
        """See :data:`pytest_llem.measurement.windows.AwaitTurn`: others measure meanwhile."""
        assert self._session is not None  # noqa: S101  (it has started)
        idle_power_w = llem_session(self._session.config).idle_power_w
        self._send(event="turn", done=done, total=total, idle_power_w=idle_power_w)
        if (why := self._listen().get("stop")) is not None:
            raise pytest.skip.Exception(why)

    def _listen(self) -> dict[str, Any]:
        # Nothing is said any more only where the parent has died, and the kernel ends this process with it.
        answer: dict[str, Any] = json.loads(self._lines.readline() or "{}")
        return answer

    def _send(self, **message: Any) -> None:
        # What a plugin puts into a report and JSON cannot hold arrives as text.
        self._socket.sendall(json.dumps(message, default=str).encode() + b"\n")


def _refusal(item: pytest.Item) -> str | None:
    """Why an item's experiment does not validate, if it does not."""
    experiment = parameters(item).get("llem_experiment")
    return None if experiment is None or not experiment.errors else "; ".join(experiment.errors)
