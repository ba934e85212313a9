"""``--llem-bisect GOOD..BAD``: which commit changed what the gates say, by pairs of a commit and the good end."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import timeout_s
from pytest_llem.session.against import verdicts
from pytest_llem.session.against.comparison import Comparison, paired
from pytest_llem.session.against.pair import Sides
from pytest_llem.session.against.plugin import Against, sides_of
from pytest_llem.session.against.repository import GitError, Repository
from pytest_llem.session.state import llem_session
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.gates import OUTPUT
from pytest_llem.verdict.pairs import PRIOR_SPREAD, pair_difference

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextlib import ExitStack

    from pytest_llem.records.record import Record
    from pytest_llem.session.against.pair import Pair
    from pytest_llem.session.against.side import Side
    from pytest_llem.session.state import LlemSession
    from pytest_llem.settings import Settings
    from pytest_llem.verdict.judging import Judged

CERTAINTY = 0.95
"""Probability of a commit from which on it is the one."""

# Noisy work may take as many, see docs/benchmarks.md.
_MOST_PROBES = 100
# Tokens are the same or others, without noise.
_OTHER = 1.0
_AS_NUMBER = {Status.OK: 0.0, Status.REGRESSED: _OTHER}
# Pairs of a commit that have no result before it is left out.
_MOST_FAILURES = 2


@dataclass(frozen=True)
class _Change:
    """What differs between the ends: a metric of an experiment."""

    record: Record
    judged: Judged

    @property
    def text(self) -> str:
        """Which, and by how much."""
        text, change = f"{self.judged.candidate.metric} of {self.record.name}", self.judged.verdict.change
        return text if change is None else f"{text} {change:+.1%}"


class Bisect(Against):
    """Measures the ends against each other, then commits between them. Nothing of it is saved: no result is this
    side's."""

    def __init__(self, settings: Settings, ends: tuple[str, str]) -> None:
        super().__init__(settings, ends[0])
        self._good, self._bad = ends
        self._found: str | None = None

    def compare(
        self, session: pytest.Session, items: Sequence[pytest.Item], state: LlemSession, stack: ExitStack
    ) -> None:
        """Judge the ends; where they differ, look for the commit.

        Raises:
            pytest.UsageError: the ends are no two revisions, one after the other.
        """
        try:
            repository = Repository(session.config.rootpath)
            commits = _commits(repository, self._good, self._bad)
        except GitError as error:
            raise pytest.UsageError(f"--llem-bisect: {error}") from None
        good = stack.enter_context(sides_of(self._good, session, items, state.say))[1]
        bad = stack.enter_context(sides_of(self._bad, session, items, state.say))[1]
        comparison = Comparison(session.config, state, (bad, good), items, self.is_open)
        self.measure(session, state, comparison)
        if (change := _largest_change(self, state)) is None:
            state.notes.append("llem: no commit was looked for: between the ends no gate is REGRESSED or IMPROVED")
            return
        search = _Search(session, state, change, good, commits, repository)
        self._found = search.run()
        state.notes.append(f"llem: {search.summary()}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """End of the session, once the ends are judged: that a commit was found fails it."""
        yield
        if self._found is not None:
            llem_session(session.config).fail(session)


class _Search:
    """The search for one commit.

    Args:
        change: what it changed.
        good: the end that it has not changed yet.
        commits: those that may have, the oldest first.
    """

    def __init__(
        self,
        session: pytest.Session,
        state: LlemSession,
        change: _Change,
        good: Side,
        commits: Sequence[str],
        repository: Repository,
    ) -> None:

        # Here, so that sessions that do not bisect need no numpy.
        from pytest_llem.verdict.bisection import Bisection

        self._session = session
        self._state = state
        self._change = change
        self._good = good
        self._commits = commits
        self._repository = repository
        self._items = [item for item in session.items if item.nodeid == change.record.nodeid]
        metric = change.judged.candidate.metric
        ends = [pair_difference(*pair) for pair in change.record.pairs(metric)] if metric != OUTPUT else [_OTHER] * 3
        self._bisection = Bisection(len(commits), [difference for difference in ends if difference is not None])
        self._random = random.Random()  # noqa: S311  (of its own: the user's seeds are not to be used up)
        self._failures = dict.fromkeys(range(len(commits)), 0)
        self._pairs = 0

    def run(self) -> str | None:
        """Measure commit after commit; returns the one that is found, ``None`` where it is not."""
        state = self._state
        while (found := self._bisection.found(CERTAINTY)) is None and self._pairs < _MOST_PROBES:
            out_of_time = state.deadline is not None and state.deadline.left_s <= 0
            left_out = {number for number, failures in self._failures.items() if failures >= _MOST_FAILURES}
            probe = self._bisection.next_probe(left_out)
            if probe is None or out_of_time or self._session.shouldstop:
                return None
            likeliest = self._likeliest()
            state.say(f"llem: bisecting {self._change.text}: likeliest is {likeliest}; next is {self._name(probe)}")
            self._measure(probe)
        return None if found is None else self._commits[found]

    def summary(self) -> str:
        """What was found, or which commits it may be."""
        found = self._bisection.found(CERTAINTY)
        if found is not None:
            commit, probability = self._commits[found], self._bisection.probability[found]
            subject = self._repository.subject_of(commit).partition(" ")[2]
            return (
                f"first commit that changed {self._change.text}: {commit} {subject}, probability {probability:.1%}, "
                f"after {self._pairs} pairs of commits between the ends"
            )
        return f"INCONCLUSIVE bisection of {self._change.text} after {self._pairs} pairs: {self._likeliest(3)}"

    def _measure(self, number: int) -> None:
        """One pair of a commit and the good end."""
        commit, (item,) = self._commits[number], self._items
        other_first = self._random.random() < 0.5
        try:
            with sides_of(commit, self._session, self._items, lambda _: None) as (_, side):
                both = Sides(self._session.config, (side, self._good), self._items)
                try:
                    pair = both.measure({item.nodeid: timeout_s(item)}, other_first=other_first)[item.nodeid]
                finally:
                    both.close()
        except pytest.UsageError as error:  # it cannot be built
            self._state.say(f"llem: {self._name(number)} is left out: {error}")
            self._failures[number] = _MOST_FAILURES
            return
        difference, why = self._difference(pair, side.name)
        if difference is None:
            self._failures[number] += 1
            self._state.say(f"llem: {self._name(number)} has no result: {why}")
            return
        self._pairs += 1
        self._bisection.update(number, difference)

    def _difference(self, pair: Pair, name: str) -> tuple[float | None, str]:
        """Of a commit from the good end, as a difference of logarithms; or ``None`` and why it is not known."""
        this, other = pair.this.record, pair.other.record
        if this is None or other is None:
            return None, "" if pair.problem is None else pair.problem.problem
        if not (this.result.valid and other.result.valid):
            return None, "it was disturbed"
        record = paired(this, other, pair, self._good.name)
        metric = self._change.judged.candidate.metric
        if metric == OUTPUT:
            verdict = verdicts.judge_output(record)
            return _AS_NUMBER.get(verdict.status), verdict.reason
        difference = pair_difference(*record.pairs(metric)[0])
        why = verdicts.differs(record) or (f"{metric} of {name} was not measured" if difference is None else None)
        return (difference, "") if why is None else (None, why)

    def _likeliest(self, most: int = 1) -> str:
        probability = self._bisection.probability
        numbers = sorted(range(len(probability)), key=lambda number: -probability[number])[:most]
        return ", ".join(f"{self._name(number)} {probability[number]:.0%}" for number in numbers)

    def _name(self, number: int) -> str:
        return self._repository.subject_of(self._commits[number])


def _commits(repository: Repository, good: str, bad: str) -> list[str]:
    """The commits after ``good`` up to ``bad``, the oldest first; of a merge the merge itself, not what it brought.

    Raises:
        pytest.UsageError: there are none.
        GitError: git failed.
    """
    first, last = repository.commit_of(good), repository.commit_of(bad)
    try:
        repository.git("merge-base", "--is-ancestor", first, last)
    except GitError:
        raise pytest.UsageError(f"--llem-bisect: {good} is no ancestor of {bad}") from None
    commits = repository.git("rev-list", "--first-parent", "--reverse", f"{first}..{last}").split()
    if not commits:
        raise pytest.UsageError(f"--llem-bisect: {good} and {bad} are the same commit")
    return commits


def _largest_change(plugin: Against, state: LlemSession) -> _Change | None:
    """Of what differs between the ends, that which stands out most from the differences of pairs; else other tokens."""
    changes = [
        _Change(record, judged)
        for record in state.records.values()
        for judged in plugin.judge(record)
        if judged.verdict.status in (Status.REGRESSED, Status.IMPROVED)
    ]

    def clarity(change: _Change) -> float:
        verdict = change.judged.verdict
        if verdict.change is None:  # of tokens
            return 0.0
        # With rule=point nothing is known of the spread but what is known of pairs beforehand.
        return abs(verdict.change) / (PRIOR_SPREAD if verdict.spread is None else verdict.spread.relative)

    return max(changes, key=clarity, default=None)
