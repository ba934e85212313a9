"""Pair after pair, until every gate is decided or nothing more may be spent.

The sample is the pair: each has processes of its own. What can be decided drops out after each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_llem.items import gates_of, parameters, timeout_s
from pytest_llem.records.record import OtherRun
from pytest_llem.session.against.pair import Sides
from pytest_llem.session.against.verdicts import changed_since
from pytest_llem.session.deadline import now_s

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    import pytest

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import Record
    from pytest_llem.session.against.pair import Outcome, Pair
    from pytest_llem.session.against.side import Side
    from pytest_llem.session.state import LlemSession

BY_TURNS = "another process on the device by turns"
"""Label of a result of such a pair: compare only like with like."""

# Pairs of an experiment that something disturbed, before one gives up.
_MOST_DISTURBED = 3


@dataclass
class Progress:
    """What became of an experiment so far.

    Attributes:
        failure: why it failed or was skipped, on which side; ``None`` unless it did.
        trouble: why there are no more pairs of it although it is open.
        disturbed: why pairs of it do not count, one by one.
    """

    failure: Outcome | None = None
    trouble: str | None = None
    disturbed: list[str] = field(default_factory=list)


class Comparison:
    """Measures the experiments of a session on both sides.

    Attributes:
        items: what is measured.
        progress: by node id.
    """

    def __init__(
        self,
        config: pytest.Config,
        state: LlemSession,
        sides: tuple[Side, Side],
        items: Sequence[pytest.Item],
        is_open: Callable[[Record], bool],
    ) -> None:
        """Measure nothing yet.

        Args:
            state: its records are those of an earlier session that are gone on with.
            sides: this one and the other.
            items: what is measured, those of a load one after the other.
            is_open: whether a further pair may decide a gate of a record.
        """
        self._config = config
        self._state = state
        self._sides = sides
        self.items = items
        self._items = {item.nodeid: item for item in items}
        self._is_open = is_open
        self._random = random.Random()  # noqa: S311  (of its own: the user's seeds are not to be used up)
        self._alone: set[Hashable] = set()
        self._pair_s: dict[Hashable, float] = {}
        self._has_said_idle = False
        # What an earlier session had to leave out counts as well: else each could leave out as much again.
        self.progress = {
            nodeid: Progress(disturbed=list(state.records[nodeid].disturbed) if nodeid in state.records else [])
            for nodeid in self._items
        }

    def pairs_of(self, nodeid: str) -> int:
        """How many pairs of an experiment there are."""
        record = self._state.records.get(nodeid)
        return 0 if record is None else len(record.other_runs)

    def open_items(self) -> list[str]:
        """Experiments of which another pair is measured."""
        return [nodeid for nodeid in self._items if self._wants_more(nodeid)]

    def next_round(self, nodeids: Sequence[str], refuse: Callable[[Sequence[str], float | None], str | None]) -> None:
        """Measure one pair of these experiments, in processes that were started for it.

        Args:
            refuse: told experiments of a load and how long its last pair took, says why they are not measured now.
        """
        items = [self._items[nodeid] for nodeid in nodeids]
        sides = Sides(self._config, self._sides, items)
        try:
            for load, together in self._loads(nodeids):
                if (reason := refuse(together, self._pair_s.get(load))) is not None:
                    for nodeid in together:
                        self._give_up(nodeid, reason)
                    continue
                started_s = now_s()
                self._measure(sides, load, together)
                self._pair_s[load] = now_s() - started_s
        finally:
            sides.close()

    def expected_s(self, nodeids: Sequence[str]) -> float | None:
        """Seconds that another pair of these experiments takes; ``None`` where a load has had none yet."""
        loads = [load for load, _ in self._loads(nodeids)]
        if any(load not in self._pair_s for load in loads):
            return None
        return sum(self._pair_s[load] for load in loads)

    def _wants_more(self, nodeid: str) -> bool:
        progress, pairs = self.progress[nodeid], self.pairs_of(nodeid)
        if progress.failure is not None or progress.trouble is not None or pairs >= self._state.settings.pairs:
            return False
        return not pairs or self._is_open(self._state.records[nodeid])

    def _loads(self, nodeids: Iterable[str]) -> Iterator[tuple[Hashable, list[str]]]:
        groups: dict[Hashable, list[str]] = {}
        for nodeid in nodeids:
            load = parameters(self._items[nodeid]).get("llem_model")
            groups.setdefault(nodeid if load is None else load, []).append(nodeid)
        return iter(groups.items())

    def _measure(self, sides: Sides, load: Hashable, nodeids: Sequence[str]) -> None:
        """One pair of a load. What fails while both processes are alive is tried again with one after the other: both
        models may not fit, or one disturbs the other."""
        other_first = self._draw(nodeids)
        timeouts_s = {nodeid: timeout_s(self._items[nodeid]) for nodeid in nodeids}
        # In a session that is gone on with, too.
        known = [self._state.records[nodeid] for nodeid in nodeids if nodeid in self._state.records]
        by_turns = load not in self._alone and all(record.other_runs[-1].by_turns for record in known)
        pairs = sides.measure(timeouts_s, other_first=other_first, by_turns=by_turns)
        again = [nodeid for nodeid, pair in pairs.items() if by_turns and _may_be_for_company(pair)]
        if again and self._has_time:
            which = "an experiment" if len(again) == 1 else f"{len(again)} experiments"
            self._state.say(
                f"llem: {which} failed or was disturbed while both processes were alive: again, one after the other"
            )
            alone = sides.measure(
                {nodeid: timeouts_s[nodeid] for nodeid in again}, other_first=other_first, by_turns=False
            )
            if any(pair.problem is None and _disturbance(pair) is None for pair in alone.values()):
                self._alone.add(load)
            pairs |= alone
        for nodeid, pair in pairs.items():
            self._note(nodeid, pair)

    @property
    def _has_time(self) -> bool:
        return self._state.deadline is None or self._state.deadline.left_s > 0

    def _draw(self, nodeids: Sequence[str]) -> bool:
        """Whether the other side begins: of two pairs each side begins one, and chance says which comes first."""
        record = self._state.records.get(nodeids[0])
        if record is not None and len(record.other_runs) % 2:
            return not record.other_runs[-1].first
        return self._random.random() < 0.5

    def _note(self, nodeid: str, pair: Pair) -> None:
        progress = self.progress[nodeid]
        if (problem := pair.problem) is not None:
            if problem.skipped and self.pairs_of(nodeid):
                # The pairs before it count: by them one of its gates may be REGRESSED.
                self._give_up(nodeid, problem.problem)
                return
            progress.failure = problem
            self._state.records.pop(nodeid, None)
            return
        this, other = pair.this.record, pair.other.record
        assert this is not None  # noqa: S101  (no problem)
        assert other is not None  # noqa: S101
        known = self._state.records.get(nodeid)
        if known is not None and (reason := changed_since(known, this)) is not None:
            self._give_up(nodeid, reason)
            return
        if (disturbance := _disturbance(pair)) is not None:
            progress.disturbed.append(disturbance)
            if known is not None:
                self._state.count(replace(known, disturbed=tuple(progress.disturbed)))
            if len(progress.disturbed) >= _MOST_DISTURBED:
                self._give_up(nodeid, f"{len(progress.disturbed)} pairs of it were disturbed: {disturbance}")
            return
        self._say_idle(pair)
        self._state.count(self._with_pair(nodeid, this, other, pair))

    def _give_up(self, nodeid: str, reason: str) -> None:
        self.progress[nodeid].trouble = reason
        if (record := self._state.records.get(nodeid)) is not None:
            self._state.count(replace(record, trouble=(reason,)))

    def _with_pair(self, nodeid: str, this: Record, other: Record, pair: Pair) -> Record:
        known = self._state.records.get(nodeid)
        new = paired(this, other, pair, self._sides[1].name)
        if known is None:
            gates = gates_of(self._items[nodeid], self._state.settings)
            return replace(new, gates=gates, disturbed=tuple(self.progress[nodeid].disturbed))
        (run,) = new.other_runs
        further = replace(run, result=_in_brief(run.result))
        more_runs = (*known.more_runs, _in_brief(new.result))
        return replace(known, more_runs=more_runs, other_runs=(*known.other_runs, further))

    def _say_idle(self, pair: Pair) -> None:
        """Say once what a second process on the boards changes."""
        first, second = (pair.other, pair.this) if pair.other_first else (pair.this, pair.other)
        alone_w, both_w = first.idle_power_w, second.idle_power_w
        if self._has_said_idle or not pair.by_turns or alone_w is None or both_w is None:
            return
        self._has_said_idle = True
        self._state.say(
            f"llem: idle power of the boards: {alone_w:.1f} W with one process, {both_w:.1f} W with both; it is in the "
            "joules of both sides alike"
        )


def paired(this: Record, other: Record, pair: Pair, against: str) -> Record:
    """This side's record of an experiment with what the other side, of that name, has measured in the same pair."""

    def labelled(result: ExperimentResult) -> ExperimentResult:
        return replace(result, labels=[*result.labels, BY_TURNS]) if pair.by_turns else result

    run = OtherRun(
        result=labelled(other.result),
        workload_hash=other.workload_hash,
        environment=other.environment,
        first=pair.other_first,
        by_turns=pair.by_turns,
    )
    return replace(this, result=labelled(this.result), against=against, other_runs=(run,))


def _may_be_for_company(pair: Pair) -> bool:
    """Whether a pair is not whole, or does not count, perhaps only because both processes were alive."""
    if (problem := pair.problem) is not None:
        return not problem.skipped
    return _disturbance(pair) is not None


def _disturbance(pair: Pair) -> str | None:
    """Why a pair does not count although it is whole."""
    for outcome in (pair.this, pair.other):
        if outcome.record is not None and not outcome.record.result.valid:
            return "; ".join(outcome.record.result.warnings) or "the result is invalid"
    return None


def _in_brief(result: ExperimentResult) -> ExperimentResult:
    """Without what is shown of the first pair alone."""
    rounds = [replace(window, power_curves={}) for window in result.per_round]
    return replace(result, per_round=rounds, generated=[])
