"""``--llem-against WHAT``: the plugin of a session that compares this state of the code with another one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import gates_of, measures, parameters
from pytest_llem.records import rows as benchmark
from pytest_llem.report import junit
from pytest_llem.report.pairs import detectable_line, progress_line
from pytest_llem.session.against import verdicts
from pytest_llem.session.against.comparison import Comparison
from pytest_llem.session.against.sides import open_sides
from pytest_llem.session.deadline import Deadline, now_s
from pytest_llem.session.reporting import report_item
from pytest_llem.session.resume import begin
from pytest_llem.session.state import llem_session
from pytest_llem.verdict.pairs import FEWEST_PAIRS, detectable_by_pairs, spread_of_pairs

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from pytest_llem.records.record import Record
    from pytest_llem.session.against.sides import Side
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings


class Against:
    """Measures pairs before the first test runs, and then reports each experiment in its place."""

    def __init__(self, settings: Settings, against: str) -> None:
        self._settings = settings
        self._against = against
        self._comparison: Comparison | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """After collection, before the first test: measure.

        Raises:
            pytest.UsageError: there is no other side, or it cannot be compared.
        """
        items = [item for item in session.items if _is_measured(item)]
        refused = session.testsfailed and not session.config.option.continue_on_collection_errors
        if refused or not items or benchmark.is_disabled(session.config):
            return (yield)
        state = llem_session(session.config)
        with ExitStack() as stack:
            if self._settings.budget_s is not None:
                state.deadline = Deadline(self._settings.budget_s, now_s() + self._settings.budget_s)
                state.deadline.tell_children()
                stack.callback(Deadline.forget)
            sides = stack.enter_context(self._open(session, items, state))
            begin(session, items, self._settings, sides=f"{sides[0].identity} {sides[1].identity}")
            self._comparison = Comparison(session.config, state, sides, items, self._is_open)
            self._measure(session, state, self._comparison)
            stack.close()
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """In place of an item's phases: report what became of it on both sides."""
        comparison = self._comparison
        if comparison is None or item.nodeid not in comparison.progress:
            return None
        progress = comparison.progress[item.nodeid]
        record = llem_session(item.config).records.get(item.nodeid)
        if (failure := progress.failure) is not None:
            report_item(item, "skipped" if failure.skipped else "failed", failure.problem, output=failure.output)
        elif record is None:
            why = progress.trouble or "the session was ended before its first pair"
            report_item(item, "skipped", why)
        else:
            item.user_properties.extend(junit.properties(record.result))
            judged = [self._judge(record, metric) for metric in record.gates]
            item.user_properties.extend(junit.pair_properties(record, judged))
            report_item(item)
        return True

    def trouble(self) -> dict[str, str]:
        """Why there are no more pairs of some experiments, by node id."""
        if self._comparison is None:
            return {}
        found = self._comparison.progress.items()
        return {nodeid: progress.trouble for nodeid, progress in found if progress.trouble is not None}
