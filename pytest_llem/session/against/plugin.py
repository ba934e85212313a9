"""``--llem-against WHAT``: the plugin of a session that compares this state of the code with another one."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import gates_of, is_measured, parameters
from pytest_llem.records import rows as benchmark
from pytest_llem.report import junit, phrases
from pytest_llem.session.against import verdicts
from pytest_llem.session.against.comparison import Comparison
from pytest_llem.session.against.expectation import detectable, expectation
from pytest_llem.session.against.sides import open_sides
from pytest_llem.session.deadline import Deadline, now_s
from pytest_llem.session.past_runs import past_runs, predictable
from pytest_llem.session.prediction import Predictor
from pytest_llem.session.reporting import report_item
from pytest_llem.session.resume import begin
from pytest_llem.session.state import llem_session
from pytest_llem.settings import SETTINGS
from pytest_llem.verdict.pairs import MIN_PAIRS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from pytest_llem.records.record import Record
    from pytest_llem.session.against.side import Side
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.judging import Judged


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
        items = [item for item in session.items if is_measured(item)]
        refused = session.testsfailed and not session.config.option.continue_on_collection_errors
        if refused or not items or benchmark.is_disabled(session.config):
            return (yield)
        state = llem_session(session.config)
        with ExitStack() as stack:
            if self._settings.budget_s is not None:
                state.deadline = Deadline(self._settings.budget_s, now_s() + self._settings.budget_s)
                state.deadline.tell_children()
                stack.callback(Deadline.forget)
            self.compare(session, items, state, stack)
        return (yield)

    def compare(
        self, session: pytest.Session, items: Sequence[pytest.Item], state: LlemSession, stack: ExitStack
    ) -> None:
        """Prepare both sides and measure pairs of them.

        Args:
            items: what is measured.
            stack: undoes afterwards what was prepared.
        """
        sides = stack.enter_context(sides_of(self._against, session, items, state.say))
        begin(session, items, self._settings, sides=f"{sides[0].identity} {sides[1].identity}")
        self.measure(session, state, Comparison(session.config, state, sides, items, self.is_open))

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
            item.user_properties.extend(junit.pair_properties(record, self.judge(record)))
            report_item(item)
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session: a journal that is named and could not be written fails it."""
        yield
        state = llem_session(session.config)
        if self._settings.journal is not None and state.journal is not None and state.journal.broken:
            state.fail(session)

    def measure(self, session: pytest.Session, state: LlemSession, comparison: Comparison) -> None:
        """Pair after pair, until nothing is open."""
        settings = self._settings
        self._comparison = comparison
        gates = sum(len(gates_of(item, settings)) for item in comparison.items)
        predictor = Predictor(predictable(comparison.items, settings), past_runs(session.config, settings))
        state.say(f"llem: {expectation(session.config, comparison.items, settings)}")
        while (open_items := comparison.open_items()) and not session.shouldstop:
            number = 1 + min(map(comparison.pairs_of, open_items))
            still_open = sum(self._open_gates(state, item) for item in comparison.items if item.nodeid in open_items)
            pair_s = comparison.expected_s(open_items)
            state.say(f"llem: {phrases.pairs_line(number, settings.pairs, still_open, gates, pair_s)}")
            comparison.next_round(open_items, partial(_why_not_now, state, predictor))
            if number == MIN_PAIRS:
                judged = [found for record in state.records.values() for found in self.judge(record)]
                if (line := detectable(judged, settings)) is not None:
                    state.say(f"llem: {line}")
            if self._has_failed_enough(session, comparison):
                break

    def _has_failed_enough(self, session: pytest.Session, comparison: Comparison) -> bool:
        """``-x`` and ``--maxfail``."""
        most: int = session.config.getoption("maxfail") or 0
        failures = [progress.failure for progress in comparison.progress.values() if progress.failure is not None]
        return 0 < most <= sum(not failure.skipped for failure in failures)

    def judge(self, record: Record) -> list[Judged]:
        """The verdicts on an experiment so far."""
        return verdicts.judge_record(record, self._settings)

    def is_open(self, record: Record) -> bool:
        """Whether another pair may decide a gate of an experiment."""
        return any(judged.verdict.needs_more_runs for judged in self.judge(record))

    def _open_gates(self, state: LlemSession, item: pytest.Item) -> int:
        record = state.records.get(item.nodeid)
        if record is None:
            return len(gates_of(item, self._settings))
        return sum(judged.verdict.needs_more_runs for judged in self.judge(record))


def _why_not_now(state: LlemSession, predictor: Predictor, nodeids: Sequence[str], last_s: float | None) -> str | None:
    """Why the session's time does not suffice for a pair of the experiments of a load; ``None`` where it does.

    Args:
        last_s: what their last pair took, in seconds; ``None`` before the first.
    """
    if state.deadline is None:
        return None
    left_s, needed_s = state.deadline.left_s, last_s
    if needed_s is None:
        # Each side loads the model and measures all of them.
        needed = (predictor.needed(nodeid, load=nodeid == nodeids[0]) for nodeid in nodeids)
        needed_s = 2 * sum(duration.seconds or 0.0 for duration in needed)
    if left_s > 0 and needed_s <= left_s:
        return None
    return (
        f"llem-budget: about {needed_s:.3g} s are needed for a pair, {max(left_s, 0.0):.3g} s are left of "
        f"{state.deadline.budget_s:g} s"
    )


def sides_of(
    against: str, session: pytest.Session, items: Iterable[pytest.Item], say: Callable[[str], None]
) -> AbstractContextManager[tuple[Side, Side]]:
    """This side and another one, see :func:`pytest_llem.session.against.sides.open_sides`."""
    config = session.config
    found = (parameters(item).get("llem_experiment") for item in items)
    return open_sides(
        against,
        root=config.rootpath,
        folder=config.invocation_params.dir,
        arguments=config.invocation_params.args,
        patterns=config.stash[SETTINGS].files,
        files=list(dict.fromkeys(experiment.path for experiment in found if experiment is not None)),
        say=say,
    )
