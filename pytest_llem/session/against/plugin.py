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
from pytest_llem.session.against.sides import open_sides
from pytest_llem.session.deadline import Deadline, now_s
from pytest_llem.session.past_runs import past_runs, predictable
from pytest_llem.session.prediction import Predictor
from pytest_llem.session.reporting import report_item
from pytest_llem.session.resume import begin
from pytest_llem.session.state import llem_session
from pytest_llem.settings import SETTINGS
from pytest_llem.verdict.pairs import MIN_PAIRS, detectable_by_pairs, expected_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from pytest_llem.records.record import Record
    from pytest_llem.session.against.sides import Side
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.judging import Judged
    from pytest_llem.verdict.limits import Limit
    from pytest_llem.verdict.spread import Spread

# Of differences of pairs, where nothing is known of them: quiet processes, and ones that differ by 2%.
_USUAL_SPREADS = (0.01, 0.028)


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
        state.say(f"llem: {self._expectation(session, comparison.items)}")

        def refuse(nodeids: Sequence[str], last_s: float | None) -> str | None:
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

        while (open_items := comparison.open_items()) and not session.shouldstop:
            number = 1 + min(map(comparison.pairs_of, open_items))
            still_open = sum(self._open_gates(state, item) for item in comparison.items if item.nodeid in open_items)
            pair_s = comparison.expected_s(open_items)
            state.say(f"llem: {phrases.pairs_line(number, settings.pairs, still_open, gates, pair_s)}")
            comparison.next_round(open_items, refuse)
            if number == MIN_PAIRS and (line := self._detectable(state)) is not None:
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

    def _expectation(self, session: pytest.Session, items: Sequence[pytest.Item]) -> str:
        """What the pairs can find, by how much the saved pairs of a session before differed, or as most would."""
        saved = verdicts.saved_spreads(benchmark.saved_sessions(session.config, "last:20"))
        gates = {
            (item.nodeid, metric): limit
            for item in items
            for metric, limit in gates_of(item, self._settings).items()
            if limit.rule == "interval"  # another rule needs no spread
        }
        known = [(saved[key], limit) for key, limit in gates.items() if key in saved]
        said = [f"at most {self._settings.pairs} pairs"]
        if known:
            spread, limit = max(known, key=lambda pair: pair[0].relative)
            found = self._found_by(lambda _: spread, limit)
            said.append(f"if pairs differ by {spread.relative:.1%}, as saved ones did, {found}")
        for guess in () if known or not gates else _USUAL_SPREADS:
            loosest = max(gates.values(), key=lambda limit: limit.tolerance)
            found = self._found_by(partial(expected_spread, guess), loosest)
            said.append(f"if pairs differ by {guess:.1%}, with the limit {loosest} {found}")
        return "; ".join(said)

    def _detectable(self, state: LlemSession) -> str | None:
        """The same by the pairs that there are, of the gate of which they differ most."""
        judged = [found for record in state.records.values() for found in self.judge(record)]
        known = [(found.verdict.spread, found.candidate) for found in judged if found.verdict.spread is not None]
        if not known:
            return None
        spread, candidate = max(known, key=lambda pair: pair[0].relative)
        found = self._found_by(lambda _: spread, candidate.limit)
        return f"{candidate.name} {candidate.metric}: pairs differ by {spread.relative:.1%}, {found}"

    def _found_by(self, spread: Callable[[int], Spread], limit: Limit) -> str:
        """``spread`` is that of the differences, by the number of pairs."""
        most, (alpha, _) = self._settings.pairs, self._settings.error_rates
        found = {
            pairs: detectable_by_pairs(spread(pairs), limit, pairs, alpha=alpha, max_pairs=most)
            for pairs in sorted({MIN_PAIRS, most})
        }
        return phrases.detectable_line(found)


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
