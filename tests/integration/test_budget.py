"""``--llem-budget``: what runs, what is skipped with which reason, and what the verdicts say then.

Most of these sessions have a clock of their own, which stands still but for what the tests let happen.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem import runs
from pytest_llem.measurement import experiment
from pytest_llem.measurement.account import Account
from pytest_llem.meters.base import SystemClock
from pytest_llem.session import deadline, state
from tests.simulators.engine import FakeEngine, FakeModel, FakeWorkload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig

    Write = Callable[..., Path]
    Run = Callable[..., pytest.RunResult]

# However busy the machine is, no call takes a thousand times as long: what has a saved run is OK.
GATED = 'compare: {latency: "99999%;rule=point"}'
# Runs that differ so much among themselves leave every verdict open.
APART = (-0.6, 1.0, -0.6, 1.0)


class Clock:
    """The clock of a session, and a plugin that notes what ran.

    Attributes:
        now_s: what it shows.
        begun_s: what it showed when the session began.
        load_s: seconds of each load.
        takes_s: seconds of each experiment by name, before it is measured.
        call_s: seconds of each call of ``generate()``.
        ran: names of tests that passed, in order.
    """

    def __init__(self) -> None:
        self.now_s = self.begun_s = 1e6
        self.load_s = self.call_s = 0.0
        self.takes_s: Mapping[str | None, float] = defaultdict(float)
        self.ran: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        yield
        self.ran.append(item.name)

    @property
    def spent_s(self) -> float:
        return self.now_s - self.begun_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    times = SimpleNamespace(monotonic=lambda: found.now_s, perf_counter=lambda: found.now_s)
    monkeypatch.setattr(deadline, "time", times)
    monkeypatch.setattr(runs, "time", times)
    monkeypatch.setattr(state, "Account", partial(Account, times.perf_counter))
    run, prepare, load = FakeWorkload.run, FakeModel.prepare, FakeEngine.load

    def run_slowly(workload: FakeWorkload, index: int) -> list[list[int]]:
        found.now_s += found.call_s
        return run(workload, index)

    def prepare_slowly(model: FakeModel, config: ExperimentConfig, folder: Path) -> FakeWorkload:
        found.now_s += found.takes_s[config.name]
        return prepare(model, config, folder)

    def load_slowly(engine: FakeEngine, config: LoadConfig, device: str) -> FakeModel:
        found.now_s += found.load_s
        return load(engine, config, device)

    monkeypatch.setattr(FakeWorkload, "run", run_slowly)
    monkeypatch.setattr(FakeModel, "prepare", prepare_slowly)
    monkeypatch.setattr(FakeEngine, "load", load_slowly)
    return found


@pytest.fixture
def measure(pytester: pytest.Pytester, clock: Clock) -> Run:
    """A session with a clock of its own."""

    def run_session(*arguments: str) -> pytest.RunResult:
        clock.ran.clear()
        clock.begun_s = clock.now_s
        return pytester.runpytest_inprocess("--llem-cpu", *arguments, plugins=[clock])

    return run_session


@pytest.fixture
def save(pytester: pytest.Pytester, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Measure once, and save it with other durations and verdicts; each number of runs is saved as often."""
    # Its threads are part of the environment, and other tests of this process may have imported it.
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def save_session(
        own_s: float = 10.0,
        load_s: float = 0.0,
        last: Mapping[str, str] | None = None,
        spread: Iterable[float] = (0.0,),
        last_output: Mapping[str, str] | None = None,
    ) -> None:
        clock.load_s = load_s
        run("--benchmark-save=base", "-q")
        (path,) = (pytester.path / ".benchmarks").rglob("*_base.json")
        data = json.loads(path.read_text())
        for row in data["benchmarks"]:
            info = row["extra_info"]
            spent_s = {entry: s for entry, s in info["result"]["spent_s"].items() if entry == "load"}
            info["result"]["spent_s"] = {**spent_s, "measured": 0.75 * own_s, "other": 0.25 * own_s}
            if (verdict := (last or {}).get(row["name"])) is not None:
                info["verdict"] = verdict
            info.pop("output_verdict", None)
            if (verdict := (last_output or {}).get(row["name"])) is not None:
                info["output_verdict"] = verdict
        path.unlink()
        for number, by in enumerate(spread, 1):
            varied = json.loads(json.dumps(data))
            for row in varied["benchmarks"]:
                for one in row["extra_info"]["result"]["per_round"]:
                    one["seconds"] *= 1 + by
            (path.parent / f"{number:04}_base.json").write_text(json.dumps(varied))
        forget(pytester)

    return save_session


def forget(pytester: pytest.Pytester) -> None:
    """Remove the journal, which knows how long things took since."""
    for journal in (pytester.path / ".benchmarks").glob("llem-journal*"):
        journal.unlink()


def verdicts(result: pytest.RunResult) -> dict[str, str]:
    """The verdict lines by experiment."""
    words = ("OK", "REGRESSED", "IMPROVED", "INCONCLUSIVE", "NO-BASELINE")
    return {line.split()[1]: line for line in result.outlines if line.partition(" ")[0] in words}


def six(write: Write) -> None:
    gates = {"a": f", {GATED}", "b": f", {GATED}", "d": f", {GATED}", "f": f", {GATED}"}
    listed = ", ".join(f"{{name: {name}{gates.get(name, '')}}}" for name in "abcdef")
    write("six.llem.yaml", f"experiments: [{listed}]\n")


def test_what_can_still_decide_runs_and_the_rest_is_skipped_with_the_reason(
    write: Write, save: Callable[..., None], measure: Run, clock: Clock
) -> None:
    six(write)
    save(last={"a": "OK", "b": "INCONCLUSIVE", "d": "REGRESSED"})  # f has not been judged yet
    clock.takes_s = dict.fromkeys("abcdef", 10.0)
    result = measure("--llem-budget=38", "-rs")
    assert clock.ran == ["b", "d", "f"]
    result.assert_outcomes(passed=3, skipped=3)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "llem: 30 s of the budget of 38 s were spent; 3 skipped because they did not fit",
            "SKIPPED [[]3] six.llem.yaml: llem-budget: about 10 s are needed, 8 s are left of 38 s",
        ]
    )
    found = verdicts(result)
    assert found.keys() == {"a", "b", "d", "f"}
    assert found["a"].startswith("INCONCLUSIVE ")
    assert found["a"].endswith("(Skipped: llem-budget: about 10 s are needed, 8 s are left of 38 s)")
    assert measure("--llem-budget=38", "--llem-strict").ret == 1


def test_an_output_gate_is_open_unless_it_was_clear_the_last_time(
    write: Write, save: Callable[..., None], measure: Run, clock: Clock
) -> None:
    gate = "compare: {output: same}"
    write("three.llem.yaml", f"experiments: [{{name: a, {gate}}}, {{name: b, {gate}}}, {{name: c, {gate}}}]\n")
    save(last_output={"a": "OK", "b": "REGRESSED"})  # c has not been judged yet
    clock.takes_s = dict.fromkeys("abc", 10.0)
    measure("--llem-budget=28")
    assert clock.ran == ["b", "c"]


def test_without_a_budget_the_order_is_that_of_the_file(
    write: Write, save: Callable[..., None], measure: Run, clock: Clock
) -> None:
    six(write)
    save(last={"a": "OK", "b": "INCONCLUSIVE"})
    measure().assert_outcomes(passed=6)
    assert clock.ran == list("abcdef")


def test_models_stay_together_and_leave_time_for_what_comes_later_and_is_more_urgent(
    pytester: pytest.Pytester, write: Write, save: Callable[..., None], measure: Run, clock: Clock
) -> None:
    write(
        "loads.llem.yaml",
        f"experiments: [{{name: a}}, {{name: b, random_seed: 1}}, {{name: c, {GATED}}}, "
        f"{{name: d, random_seed: 1, {GATED}}}]\n",
    )
    save(load_s=5)
    # Neither model decides more per second: the first of them comes first.
    clock.load_s, clock.takes_s = 5.0, dict.fromkeys("abcd", 10.0)
    result = measure("--llem-budget=39", "-rs")
    assert clock.ran == ["c", "d"]
    result.stdout.fnmatch_lines(
        [
            "SKIPPED [[]1] *: llem-budget: about 10 s are needed, 24 s are left of 39 s, 15 s of them for what can "
            "decide more",
        ]
    )
    forget(pytester)
    measure("--llem-budget=60").assert_outcomes(passed=4)
    assert clock.ran == ["c", "a", "d", "b"]


def test_other_tests_keep_their_places_and_never_count_as_experiments(
    pytester: pytest.Pytester, write: Write, measure: Run, clock: Clock
) -> None:
    write("a.llem.yaml", "experiments: [{name: a}, {name: b, compare: {latency: 5%}}]\n")
    pytester.makepyfile("def test_before(): pass", test_z="def test_after(): pass")
    measure("--llem-budget=60", "--collect-only").assert_outcomes()
    result = measure("--llem-budget=60")
    result.assert_outcomes(passed=4)
    others = [name for name in clock.ran if name.startswith("test_")]
    assert [name for name in clock.ran if name not in others] == ["b", "a"]
    assert clock.ran.index("b") + 1 == clock.ran.index("a")


def test_what_is_not_known_is_begun_if_the_least_that_it_takes_fits(write: Write, measure: Run, clock: Clock) -> None:
    write("a.llem.yaml", "measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.01}\n", base=SHORT)
    write("b.llem.yaml", "measure: {rounds: 200, warmup_rounds: 0, min_window_s: 1}\n", base=SHORT)
    result = measure("--llem-budget=100", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*: llem-budget: at least 4 min are needed, 100 s are left of 100 s"])
    assert clock.ran == ["a"]


SHORT = """\
model: builtin:tiny-llama
dataset: {synthetic: {n: 1, input_len: 8}}
max_output_tokens: 2
"""


def test_an_experiment_that_takes_longer_than_it_did_is_given_up_between_two_windows(
    write: Write, save: Callable[..., None], measure: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = "measure: {rounds: 20, warmup_rounds: 0, min_window_s: 0}\n"
    write("a.llem.yaml", f"{measured}{GATED}\n", base=SHORT)
    write("b.llem.yaml", measured, base=SHORT)
    save(own_s=10.0)
    monkeypatch.setattr(SystemClock, "now_s", lambda _: clock.now_s)
    clock.call_s = 0.5
    measure("--llem-budget=30").assert_outcomes(passed=2)
    clock.call_s = 2.5
    result = measure("--llem-budget=30", "-rs")
    # Of each, when the first round is over: twenty of them cannot end in time.
    assert clock.ran == []
    assert clock.spent_s <= 33.0
    result.stdout.fnmatch_lines(
        ["SKIPPED*: llem-budget: given up: * s of 30 s are over, and round 1 of 20 has taken *"]
    )
    assert verdicts(result)["a"].startswith("INCONCLUSIVE ")
    assert "llem-budget: given up" in verdicts(result)["a"]


def test_rounds_whose_number_is_open_end_with_the_budget(
    write: Write, measure: Run, clock: Clock, saved: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    make = experiment.protocol

    def protocol(*arguments: Any, **options: Any) -> Any:
        made = make(*arguments, **options)
        asked.append(made.budget_s)
        return made

    monkeypatch.setattr(experiment, "protocol", protocol)
    write("a.llem.yaml", "measure: {rounds: auto, precision: 50%, min_window_s: 0.01}\n", base=SHORT)
    measure("--llem-budget=20").assert_outcomes(passed=1)
    measure("--llem-budget=2000").assert_outcomes(passed=1)
    measure().assert_outcomes(passed=1)
    assert asked == [18, 60, 60]


def test_what_it_costs_to_measure_again_counts_and_is_not_begun_where_it_does_not_fit(
    write: Write, save: Callable[..., None], measure: Run, clock: Clock
) -> None:
    write("a.llem.yaml", "measure: {rounds: 3, warmup_rounds: 0, min_window_s: 0.01}\n", base=SHORT)
    save(spread=APART)
    clock.load_s, clock.takes_s = 10.0, {"a": 50.0}
    result = measure("--llem-budget=100", "--llem-fail=latency:1%..4%")
    assert "measuring 1 again" not in result.stdout.str()
    assert verdicts(result)["a"].startswith("INCONCLUSIVE ")
    assert "llem-budget: for another run about 60" in verdicts(result)["a"]


@pytest.mark.processes
def test_a_run_again_that_hangs_is_ended_by_its_time_limit(
    pytester: pytest.Pytester, write: Write, save: Callable[..., None]
) -> None:
    measured = "measure: {rounds: 3, warmup_rounds: 0, min_window_s: 0.01}\ntimeout_s: 1\n"
    write("a.llem.yaml", measured, base=SHORT)
    save(spread=APART)
    pytester.makeconftest(
        "import time\n\n"
        "def pytest_runtest_call(item):\n"
        "    if item.config.getoption('llem_child') is not None: time.sleep(1000)\n"
    )
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-fail=latency:1%..4%")
    assert verdicts(result)["a"].startswith("INCONCLUSIVE ")
    assert "timeout_s: still running after 1 s, so the fresh process was killed" in verdicts(result)["a"]


@pytest.mark.processes
def test_a_child_knows_of_the_budget_and_gives_up_by_itself(pytester: pytest.Pytester, write: Write) -> None:
    write("a.llem.yaml", f"measure: {{rounds: 50, warmup_rounds: 0, min_window_s: 0.01}}\n{GATED}\n", base=SHORT)
    pytester.makeconftest(SLOW_CALLS)
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-isolate", "--llem-budget=60", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*: llem-budget: given up: * of 60 s are over, and round 1 of 50 has taken *"])
    assert "llem-budget: given up" in verdicts(result)["a"]


# Each call of the engine takes as long on a busy machine.
SLOW_CALLS = """
import time
from tests.simulators.engine import FakeWorkload

run = FakeWorkload.run

def slowly(workload, index):
    time.sleep(1.5)
    return run(workload, index)

FakeWorkload.run = slowly
"""


@pytest.mark.processes
def test_a_child_that_hangs_is_ended_soon_after_the_budget(pytester: pytest.Pytester, write: Write) -> None:
    write(
        "a.llem.yaml",
        f"{GATED}\nexperiments: [{{name: hangs, passthrough: {{generate: {{fault: hangs}}}}}}, {{name: last}}]\n",
    )
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-isolate", "--llem-budget=4", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*: llem-budget: given up: 4.* s of 4 s are over, so its process was ended",
            "SKIPPED*: llem-budget: * needed, 0 s are left of 4 s",
        ]
    )
    assert {line.split()[0] for line in verdicts(result).values()} == {"INCONCLUSIVE"}
    assert result.ret == 0


def test_it_is_an_ini_key_and_no_use_where_nothing_runs(pytester: pytest.Pytester, write: Write, measure: Run) -> None:
    write()
    pytester.makeini("[pytest]\nllem_budget = 50\n")
    measure().stdout.fnmatch_lines(["llem: 0 s of the budget of 50 s were spent"])
    journal = next(pytester.path.rglob("llem-journal.jsonl"))
    assert measure(f"--llem-merge={journal}").ret == 0
    wrong = measure(f"--llem-merge={journal}", "--llem-budget=5")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["*--llem-merge runs nothing: leave out --llem-budget"])
    assert measure("--llem-budget=x").ret == pytest.ExitCode.USAGE_ERROR
