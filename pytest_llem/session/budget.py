"""``--llem-budget SECONDS``: spend the session's time on what it can still decide, and skip what no longer fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import gates_of, is_measured, parameters
from pytest_llem.records import identity
from pytest_llem.records import rows as benchmark
from pytest_llem.session.deadline import Deadline, now_s
from pytest_llem.session.ending import environment_to_come
from pytest_llem.session.past_runs import past_runs, predictable
from pytest_llem.session.prediction import Duration, Predictor
from pytest_llem.session.priorities import Task, Urgency, in_order, reserved_s
from pytest_llem.session.state import llem_session
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.gates import OUTPUT
from pytest_llem.verdict.history import read_files
from pytest_llem.verdict.judging import ErrorRates, detectable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
    from typing import Any

    from pytest_llem.settings import Settings
    from pytest_llem.verdict.decision import Verdict

_CLEAR = (Status.OK, Status.IMPROVED)
_DECIDED = (*_CLEAR, Status.REGRESSED)


class Budget:
    """The plugin of a session whose time is limited. The time begins with the first test."""

    def __init__(self, settings: Settings, budget_s: float) -> None:
        self._settings = settings
        self._budget_s = budget_s
        self._deadline: Deadline | None = None
        self._predictor = Predictor((), ())
        self._tasks: list[Task] = []
        self._loaded: Hashable = None
        self._skipped = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Before the first test: put what measures into order, in the places that it has among other tests."""
        config, settings = session.config, self._settings
        if benchmark.is_disabled(config):
            return
        places = [place for place, item in enumerate(session.items) if is_measured(item)]
        items = {session.items[place].nodeid: session.items[place] for place in places}
        self._predictor = Predictor(predictable(items.values(), settings), past_runs(config, settings))
        saved = benchmark.saved_sessions(config, settings.baseline)
        environment = environment_to_come(config, settings) if saved else None
        urgent = urgency(items.values(), settings, saved, environment)
        tasks = [Task(nodeid, urgent[nodeid], parameters(item).get("llem_model")) for nodeid, item in items.items()]
        self._tasks = in_order(tasks, self._item_s, self._load_s)
        for place, task in zip(places, self._tasks, strict=True):
            session.items[place] = items[task.nodeid]
        self._deadline = Deadline(self._budget_s, now_s() + self._budget_s)
        self._deadline.tell_children()
        state = llem_session(config)
        state.deadline, state.budget = self._deadline, self

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Before an item: skip it if it does not fit. After it: learn how long it took."""
        deadline = self._deadline
        task = next((task for task in self._tasks if task.nodeid == item.nodeid), None)
        if task is None or deadline is None:
            return (yield)
        self._tasks.remove(task)
        if (reason := self._refusal(task, deadline)) is not None:
            self._skipped += 1
            item.add_marker(pytest.mark.skip(reason=reason))
            if self._settings.isolate:
                # Its child was to run it next, so that another one goes on after it.
                self._loaded = None
            return (yield)
        started_s = now_s()
        done = yield
        record = llem_session(item.config).records.get(item.nodeid)
        if record is not None:
            self._predictor.learn(item.nodeid, now_s() - started_s, record.result.spent_s)
        if task.load is not None:
            # A child that failed may have been ended.
            self._loaded = None if record is None and self._settings.isolate else task.load
        return done

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End of the session, once all is judged: say what was spent."""
        if self._deadline is not None:
            spent_s = self._budget_s - self._deadline.left_s
            skipped = f"; {self._skipped} skipped because they did not fit" if self._skipped else ""
            llem_session(session.config).notes.append(
                f"llem: {spent_s:.3g} s of the budget of {self._budget_s:g} s were spent{skipped}"
            )

    def pytest_unconfigure(self) -> None:
        """End of the process: other sessions in it have no budget."""
        Deadline.forget()

    def refused_again(self, nodeids: Iterable[str]) -> dict[str, str]:
        """Why some of these do not fit once more, one after the other in a fresh process, by node id."""
        refused: dict[str, str] = {}
        if self._deadline is None:
            return refused
        left_s = self._deadline.left_s
        for nodeid in nodeids:
            needed = self._predictor.needed(nodeid, load=True)
            if (needed.seconds or 0.0) > left_s or left_s <= 0:
                refused[nodeid] = f"llem-budget: for another run {self._lack(needed, left_s)}"
            else:
                left_s -= needed.seconds or 0.0
        return refused

    def _refusal(self, task: Task, deadline: Deadline) -> str | None:
        left_s = deadline.left_s
        needed = self._predictor.needed(task.nodeid, load=task.load is not None and task.load != self._loaded)
        kept_s = reserved_s(task, self._tasks, self._loaded, left_s, self._item_s, self._load_s)
        if left_s > 0 and kept_s + (needed.seconds or 0.0) <= left_s:
            return None
        kept = f", {kept_s:.3g} s of them for what can decide more" if kept_s else ""
        return f"llem-budget: {self._lack(needed, left_s)}{kept}"

    def _lack(self, needed: Duration, left_s: float) -> str:
        needs = f"{needed} are needed, " if needed.seconds else ""
        return f"{needs}{max(left_s, 0.0):.3g} s are left of {self._budget_s:g} s"

    def _item_s(self, nodeid: str) -> float:
        return self._predictor.item(nodeid).seconds or 0.0

    def _load_s(self, load: Hashable) -> float:
        return self._predictor.load(load).seconds or 0.0


def urgency(
    items: Iterable[pytest.Item],
    settings: Settings,
    saved: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any] | None,
) -> dict[str, Urgency]:
    """What each item can still decide, by node id.

    Args:
        saved: the sessions that this one is judged against, oldest first.
        environment: what is known of it beforehand; ``None``: nothing.
    """

    def may_recur(saved_environment: Mapping[str, Any]) -> bool:
        return environment is None or identity.may_recur(saved_environment, environment)

    gates = {item.nodeid: gates_of(item, settings) for item in items}
    expected = [(nodeid, metric, limit) for nodeid, limits in gates.items() for metric, limit in limits.items()]
    known = detectable(
        expected,
        read_files(saved),
        rates=ErrorRates(*settings.error_rates),
        last=settings.last,
        may_recur=lambda row: may_recur(row.environment),
    )
    can_decide = {(nodeid, metric) for nodeid, metric, verdict in known if _can_decide(verdict)}
    last = _last_verdicts(saved, may_recur)
    found = {}
    for nodeid, limits in gates.items():
        clear = all(
            (metric == OUTPUT or (nodeid, metric) in can_decide) and last.get((nodeid, metric)) in _CLEAR
            for metric in limits
        )
        found[nodeid] = Urgency.UNGATED if not limits else Urgency.CLEAR if clear else Urgency.OPEN
    return found


def _can_decide(verdict: Verdict) -> bool:
    if verdict.limit.rule == "point":
        return verdict.saved > 0
    return verdict.detectable_change is not None and verdict.detectable_change <= verdict.limit.limit


def _last_verdicts(
    saved: Iterable[Mapping[str, Any]], may_recur: Callable[[Mapping[str, Any]], bool]
) -> dict[tuple[str, str], str]:
    """The last verdict of each gate. One that stayed open on another board says nothing of this one."""
    verdicts = {}
    for session in saved:
        for row in session.get("benchmarks", ()):
            info = row.get("extra_info") or {}
            elsewhere = not may_recur(info.get("environment") or {})
            for metric, key in ((info.get("metric", ""), "verdict"), (OUTPUT, "output_verdict")):
                if key in info and (info[key] in _DECIDED or not elsewhere):
                    verdicts[info.get("nodeid", ""), metric] = info[key]
    return verdicts
