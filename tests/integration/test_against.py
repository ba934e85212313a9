"""``--llem-against``: two states of the code, measured in pairs of processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.session.against.comparison import BY_TURNS
from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.processes

# The package of the project, whose revisions differ, decides what a call costs. Boards and meters live in counted time,
# so that a busy machine changes nothing.
CONFTEST = """
import os
import work
from tests.simulators import SimulatedBoard, install, skip_waits

os.environ["FAKE_CALL_S"] = repr(work.CALL_S)
skip_waits(counted=True)
install([SimulatedBoard(uuid="GPU-aaaa", name="Simulated", power=200.0, period_s=0.02)])
"""
EXPERIMENT = TINY.replace(
    "measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.001}",
    "measure: {rounds: 4, warmup_rounds: 0, min_window_s: 0.05}",
)
# Decided by the first pair: each costs two interpreters that import everything.
POINT = "--llem-fail=energy:5%;rule=point"
ON_BOARD = ("--llem-cpu", "--llem-meter=nvml", "-p", "no:cacheprovider")
VERDICT = re.compile(r"^(OK|REGRESSED|IMPROVED|INCONCLUSIVE|NO-BASELINE) +(\S+) +(\S+) ", re.MULTILINE)


@pytest.fixture
def git(pytester: pytest.Pytester) -> Callable[..., str]:
    """Run git in the project's repository."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")

    def run_git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=pytester.path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    return run_git


@pytest.fixture
def commit(pytester: pytest.Pytester, git: Callable[..., str]) -> Callable[..., str]:
    """Write files of the project and commit them; returns the commit."""

    def write(message: str, **files: str) -> str:
        for name, text in files.items():
            path = pytester.path / name.replace("__", "/").replace("_py", ".py").replace("_yaml", ".llem.yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--message", message, "--allow-empty")
        return git("rev-parse", "HEAD")

    return write


@pytest.fixture
def project(pytester: pytest.Pytester, git: Callable[..., str], commit: Callable[..., str]) -> str:
    """A repository with a package and an experiment; returns its first commit."""
    git("init", "--quiet", "--initial-branch=main")
    (pytester.path / ".gitignore").write_text("cache/\n.benchmarks/\n__pycache__/\n*.json\n*.jsonl*\n*.html\npids\n")
    return commit("First", work_py="CALL_S = 0.002\n", conftest_py=CONFTEST, tiny_yaml=EXPERIMENT)


def worktrees(git: Callable[..., str]) -> int:
    return git("worktree", "list", "--porcelain").count("worktree ")


def verdicts(result: pytest.RunResult) -> dict[tuple[str, str], str]:
    return {(name, metric): status for status, name, metric in VERDICT.findall(result.stdout.str())}


def test_a_commit_that_adds_work_and_changes_a_token_is_regressed(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str], git: Callable[..., str]
) -> None:
    commit("More work", work_py="import os\nos.environ['FAKE_OTHER_TOKEN'] = '2:3'\nCALL_S = 0.0022\n")
    gates = [f"--llem-fail={gate}" for gate in ("energy:2.5%..5%", "latency:2.5%..5%", "output:same")]
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD~1", "--benchmark-json=out.json", *gates)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    assert verdicts(result) == {("tiny", metric): "REGRESSED" for metric in ("energy", "latency", "output")}
    result.stdout.fnmatch_lines_random(
        [
            "llem: HEAD~1: commit * (First)*",
            "REGRESSED*tiny*energy*3 pairs vs HEAD~1*",
            "REGRESSED*output*3 pairs vs HEAD~1*(prompt 2, position 3: *on HEAD~1, *here; 1 of 2 sequences differ*)",
        ]
    )
    rows = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    # Nothing of the other side is a row.
    assert [row["extra_info"]["metric"] for row in rows] == ["latency", "energy"]
    assert all(value > 0.0021 for value in rows[0]["stats"]["data"])
    # Only like is compared with like, and what was generated is kept once.
    results = [rows[0]["extra_info"]["result"], *rows[0]["extra_info"]["more_runs"]]
    assert [run["labels"] for run in results] == [[BY_TURNS]] * 3
    assert [bool(run["generated"]) for run in results] == [True, False, False]
    assert all(pair["by_turns"] for pair in rows[0]["extra_info"]["against"]["pairs"])
    assert worktrees(git) == 1


def test_called_from_outside_the_repository(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit("More work", work_py="CALL_S = 0.0022\n")
    outside = pytester.path.parent
    (outside / "tiny").mkdir(exist_ok=True)
    monkeypatch.chdir(outside)
    root = pytester.path.name
    result = pytester.runpytest_subprocess(
        *ON_BOARD, root, f"--rootdir={root}", "-k", "tiny", "--llem-against=HEAD~1", "--llem-fail=energy:5%"
    )
    assert verdicts(result) == {("tiny", "energy"): "REGRESSED"}


def test_experiments_outside_the_root_folder_are_this_sides(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    pytester.mkdir("ci").joinpath("llem.ini").write_text("[pytest]\n")
    # The root folder is that of the configuration, which hides what conftest.py lies above both.
    code = {"bench__conftest_py": CONFTEST, "bench__work_py": "CALL_S = 0.002\n"}
    commit("An experiment", bench__tiny_yaml=EXPERIMENT, **code)
    (pytester.path / "bench" / "tiny.llem.yaml").write_text(EXPERIMENT.replace("input_len: 8", "input_len: 6"))
    (pytester.path / "bench" / "new.llem.yaml").write_text(EXPERIMENT)
    result = pytester.runpytest_subprocess(
        *ON_BOARD, "-c", "ci/llem.ini", "bench", "--llem-against=HEAD", "--llem-fail=energy:5%"
    )
    assert verdicts(result) == {("tiny", "energy"): "OK", ("new", "energy"): "OK"}


def test_a_commit_whose_message_alone_differs_is_ok_and_said_to_be_equal(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    commit("Another message")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD~1", POINT, "--llem-fail=output:same")
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(result) == {("tiny", "energy"): "OK", ("tiny", "output"): "OK"}
    result.stdout.fnmatch_lines(["llem: both sides, this one and HEAD~1, are equal: *"])


def test_another_environment_is_compared(
    pytester: pytest.Pytester, project: str, git: Callable[..., str], tmp_path: Path
) -> None:
    slow = tmp_path / "slow environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", slow], check=True)
    packages = next(slow.glob("lib/python*/site-packages"))
    visible = [f"import site; site.addsitedir({path!r})" for path in sys.path if path.endswith("site-packages")]
    (packages / "visible.pth").write_text("\n".join(visible) + "\n")
    # What another version of a library does to the same code.
    (packages / "slower.pth").write_text("import os; os.environ['SLOWER'] = '1.1'\n")
    conftest = pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("work.CALL_S", "work.CALL_S * float(os.environ.get('SLOWER', 1))"))
    result = pytester.runpytest_subprocess(*ON_BOARD, f"--llem-against=@{slow}", POINT)
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(result) == {("tiny", "energy"): "IMPROVED"}
    assert worktrees(git) == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--llem-against=nowhere", "*--llem-against: 'nowhere' is no revision of *"),
        ("--llem-against=@/nowhere/python", "*--llem-against: there is no interpreter /nowhere/python"),
        ("--llem-against=HEAD --llem-baseline=last:3", "*--llem-against*leave out --llem-baseline*"),
        ("--llem-against=HEAD --llem-shard=1/2", "*--llem-against*leave out --llem-shard*"),
        ("--llem-against=HEAD --llem-merge=a", "*--llem-against*leave out --llem-merge*"),
        ("--llem-against=", "*--llem-against: its value is empty; write REV, @PYTHON or REV@PYTHON*"),
        ("--llem-bisect=", "*--llem-bisect: its value is empty; write GOOD..BAD*"),
        ("--llem-against=HEAD --llem-pairs=2", "*--llem-pairs: '2' is out of range; use an integer, at least 3*"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    run: Callable[..., pytest.RunResult], project: str, git: Callable[..., str], argument: str, message: str
) -> None:
    result = run("--noconftest", *argument.split())
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert worktrees(git) == 1


def test_without_a_device_nothing_can_be_compared(pytester: pytest.Pytester, project: str) -> None:
    result = pytester.runpytest_inprocess("--noconftest", "--llem-against=HEAD")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llem-against measures: pass --llem-gpu or --llem-cpu*"])
    # As a default of the project it waits for a session that measures.
    pytester.makeini("[pytest]\nllem_against = HEAD\n")
    pytester.runpytest_inprocess("--noconftest").assert_outcomes(skipped=1)


def test_what_fails_on_one_side_fails_with_its_name_and_leaves_the_rest(
    pytester: pytest.Pytester, project: str, git: Callable[..., str], commit: Callable[..., str]
) -> None:
    listed = "[{name: good}, {name: bad, passthrough: {generate: {fault: hangs}}}]"
    commit("Two", tiny_yaml=EXPERIMENT + f"experiments: {listed}\n")
    engine = "from tests.simulators.engine import FakeWorkload\n"
    fault = f"{engine}act = FakeWorkload._act_out_the_fault\nFakeWorkload._act_out_the_fault = "
    commit("There it fails", conftest_py=f"{CONFTEST}{fault}lambda self: self._fault and 1 / 0\n")
    (pytester.path / "conftest.py").write_text(f"{CONFTEST}{fault}lambda self: None\n")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", POINT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    assert verdicts(result) == {("good", "energy"): "OK", ("bad", "energy"): "INCONCLUSIVE"}
    result.stdout.fnmatch_lines(
        ["*again, one after the other*", "on HEAD: *ZeroDivisionError*", "INCONCLUSIVE*bad*(it failed on HEAD: *)"]
    )
    assert worktrees(git) == 1


def test_a_crash_and_what_the_other_side_does_not_have(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    marked = 'import pytest\n\n@pytest.mark.llem("tiny.llem.yaml")\ndef test_{}(llem_run):\n    llem_run()\n'
    commit("A test", test_old_py=marked.format("old"), test_broken_py="import nothing_of_that_name\n")
    (pytester.path / "test_broken.py").unlink()
    (pytester.path / "test_new.py").write_text(marked.format("new"))
    conftest = pytester.path / "conftest.py"
    conftest.write_text(
        f"{CONFTEST}\n\ndef pytest_runtest_call(item):\n"
        "    if item.name == 'tiny' and item.config.getoption('llem_child'):\n        os._exit(7)\n"
    )
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", POINT, "-rs")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["on this side: its process ended with exit status 7", "SKIPPED*on HEAD: it was not collected"]
    )
    assert verdicts(result)["test_old[tiny]", "energy"] == "OK"
    assert verdicts(result)["test_new[tiny]", "energy"] == "INCONCLUSIVE"


def test_what_is_skipped_later_keeps_its_verdict(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    commit("More work", work_py="CALL_S = 0.0022\n")
    skip = """
import pathlib, pytest

def pytest_runtest_call(item):
    # A line a process: the fourth is that of a fourth pair.
    with pathlib.Path("pids").open("a+") as file:
        file.write("x\\n")
        file.seek(0)
        if len(file.readlines()) > 3:
            pytest.skip("no more")
"""
    conftest = pytester.path / "conftest.py"
    conftest.write_text(f"{CONFTEST}{skip}")
    # Energy is decided by three pairs, and a change of 10% is neither within a latency of 9.9% nor above 10.1%.
    gates = ("--llem-fail=energy:5%", "--llem-fail=latency:9.9%..10.1%")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD~1", *gates, "-rs")
    assert verdicts(result) == {("tiny", "energy"): "REGRESSED", ("tiny", "latency"): "INCONCLUSIVE"}
    result.stdout.fnmatch_lines(["INCONCLUSIVE*latency*3 pairs*; on this side: no more)"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_other_work_is_not_compared(pytester: pytest.Pytester, project: str) -> None:
    engine = "import tests.simulators.engine as engine\nprompts = engine.load_prompts\n"
    other = "engine.load_prompts = lambda *a, **k: prompts(*a, **{**k, 'vocabulary_size': 99})\n"
    (pytester.path / "conftest.py").write_text(f"{CONFTEST}{engine}{other}")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", POINT)
    result.assert_outcomes(passed=1)
    assert verdicts(result) == {("tiny", "energy"): "INCONCLUSIVE"}
    result.stdout.fnmatch_lines(["INCONCLUSIVE*1 pair vs HEAD*HEAD runs another workload*"])


def test_work_that_changes_between_two_pairs_is_not_compared(pytester: pytest.Pytester, project: str) -> None:
    changes = f"""
import pathlib
import tests.simulators.engine as engine
prompts = engine.load_prompts
begun = pathlib.Path({str(pytester.path / "pids")!r})

def pytest_runtest_setup(item):
    if begun.exists():
        engine.load_prompts = lambda *a, **k: prompts(*a, **{{**k, "vocabulary_size": 99}})
    begun.touch()
"""
    (pytester.path / "conftest.py").write_text(CONFTEST + changes)
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", "--llem-fail=energy:4%")
    assert verdicts(result) == {("tiny", "energy"): "INCONCLUSIVE"}
    result.stdout.fnmatch_lines(["llem: at most 10 pairs; if pairs differ by 1.0%, with the limit 2%..4% changes *"])
    result.stdout.fnmatch_lines(["INCONCLUSIVE*1 pair vs HEAD*this side runs another workload than in its first pair*"])


def test_callables_are_compared(pytester: pytest.Pytester, project: str, commit: Callable[..., str]) -> None:
    test = """
from work import CALL_S

from tests.simulators import work

def test_it(llem_benchmark):
    llem_benchmark.pedantic(work, (CALL_S,), rounds=3, min_window_s=0.05)
"""
    commit("More work", work_py="CALL_S = 0.0022\n", test_it_py=test)
    commit("Less work", work_py="CALL_S = 0.002\n")
    asked = ("--llem-against=HEAD~1", POINT, "--benchmark-json=out.json")
    result = pytester.runpytest_subprocess(*ON_BOARD, *asked, "test_it.py")
    assert verdicts(result) == {("test_it", "energy"): "IMPROVED"}
    # Whole blocks: as many windows for each side to begin.
    rows = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert [row["stats"]["rounds"] for row in rows] == [4, 4]


def start(pytester: pytest.Pytester, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", *ON_BOARD, *arguments]
    return subprocess.Popen(
        command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def lines(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def await_pairs(process: subprocess.Popen[str], journal: Path, pairs: int) -> None:
    until_s = time.monotonic() + 120
    while len(lines(journal)) < pairs:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_killed_session_is_gone_on_with_after_its_last_whole_pair(
    pytester: pytest.Pytester, project: str, git: Callable[..., str]
) -> None:
    journal = pytester.path / "journal.jsonl"
    asked = ("--llem-against=HEAD", "--llem-fail=energy:5%", f"--llem-journal={journal}")
    process = start(pytester, *asked)
    await_pairs(process, journal, 2)
    time.sleep(0.5)
    process.kill()
    process.communicate()
    assert worktrees(git) == 2
    before = lines(journal)
    result = pytester.runpytest_subprocess(*ON_BOARD, *asked, "--llem-resume")
    assert verdicts(result) == {("tiny", "energy"): "OK"}
    result.stdout.fnmatch_lines(
        [f"llem: pair {1 + len(before[-1]['other_runs'])} of at most 10*", "OK*3 pairs vs HEAD*"]
    )
    after = lines(journal)
    assert after[: len(before)] == before
    # One line more a pair: nothing that was there is measured again.
    assert [len(line["other_runs"]) for line in after] == list(range(1, 4))
    assert worktrees(git) == 1
    # Each side begins one pair of two.
    assert after[-1]["other_runs"][0]["first"] != after[-1]["other_runs"][1]["first"]


def test_a_journal_of_other_code_is_not_gone_on_with(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    journal = pytester.path / "journal.jsonl"
    asked = ("--llem-against=HEAD", POINT, f"--llem-journal={journal}")
    process = start(pytester, *asked)
    await_pairs(process, journal, 1)
    process.kill()
    process.communicate()
    (pytester.path / "work.py").write_text("CALL_S = 0.0021\n")
    result = pytester.runpytest_subprocess(*ON_BOARD, *asked, "--llem-resume")
    result.stdout.fnmatch_lines(["*tiny.llem.yaml::tiny: its fingerprint has changed*", "llem: pair 1 of at most 10*"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_leaves_nothing(
    pytester: pytest.Pytester, project: str, git: Callable[..., str], number: signal.Signals
) -> None:
    journal = pytester.path / "journal.jsonl"
    process = start(pytester, "--llem-against=HEAD", f"--llem-journal={journal}", "--benchmark-json=out.json")
    await_pairs(process, journal, 1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert re.search("^INCONCLUSIVE +tiny +energy .* 1 pair vs HEAD +.*of at least 3 pairs", output, re.MULTILINE), (
        output
    )
    assert worktrees(git) == 1
    assert len(json.loads((pytester.path / "out.json").read_text())["benchmarks"]) == 2
    running = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, check=False)
    assert not running.stdout


def test_a_budget_ends_the_pairs(pytester: pytest.Pytester, project: str) -> None:
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", "--llem-budget=0.001", "--llem-strict")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["INCONCLUSIVE*tiny*(*llem-budget: *)"])


def test_what_pairs_have_decided_is_not_lost_with_a_later_one(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    # Energy is decided by three pairs, while the latency needs more than that.
    stops = f"""
import pathlib, pytest

def pytest_runtest_setup(item):
    begun = pathlib.Path({str(pytester.path / "pids")!r})
    with begun.open("a") as file:
        file.write(".")
    if begun.stat().st_size > 3:
        pytest.skip("no longer")
"""
    commit("More work", work_py="CALL_S = 0.0022\n", conftest_py=CONFTEST + stops)
    result = pytester.runpytest_subprocess(
        *ON_BOARD, "--llem-against=HEAD~1", "--llem-fail=energy:5%", "--llem-fail=latency:9.9%..10.1%"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    found = verdicts(result)
    assert found["tiny", "energy"] == "REGRESSED"
    assert found["tiny", "latency"] == "INCONCLUSIVE"
    result.stdout.fnmatch_lines(["*tiny*energy*3 pairs vs HEAD~1*", "*this side: *no longer*"])
    result.assert_outcomes(passed=1)


@pytest.fixture
def history(commit: Callable[..., str], project: str) -> list[str]:
    """Commits after the first of the project: the third makes calls dearer, the fourth cannot be measured."""
    cheap, dear = "CALL_S = 0.002\n", "CALL_S = 0.0022\n"
    texts = [cheap + "# 1\n", cheap + "# 2\n", dear, "import nothing_of_that_name\n", dear + "# 5\n", dear + "# 6\n"]
    return [commit(f"Number {number}", work_py=text) for number, text in enumerate(texts, 1)]


def test_the_commit_that_changed_it_is_found(
    pytester: pytest.Pytester, project: str, history: list[str], git: Callable[..., str]
) -> None:
    result = pytester.runpytest_subprocess(
        *ON_BOARD, f"--llem-bisect={project}..HEAD", "--llem-fail=energy:5%", "--benchmark-json=out.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(result) == {("tiny", "energy"): "REGRESSED"}
    result.stdout.fnmatch_lines([f"llem: first commit that changed energy of tiny +*%: {history[2]} (Number 3)*9?.?%*"])
    # No result is this side's.
    assert not (pytester.path / "out.json").exists() or not (pytester.path / "out.json").read_text()
    assert worktrees(git) == 1


def test_equal_ends_need_no_bisection(pytester: pytest.Pytester, project: str, history: list[str]) -> None:
    result = pytester.runpytest_subprocess(*ON_BOARD, f"--llem-bisect={project}..{history[1]}", POINT)
    assert result.ret == pytest.ExitCode.OK
    assert verdicts(result) == {("tiny", "energy"): "OK"}
    result.stdout.no_fnmatch_line("llem: bisecting*")
    result.stdout.fnmatch_lines(["llem: no commit was looked for: *"])


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("HEAD..{}", "*HEAD is no ancestor of*"),
        ("HEAD", "*'HEAD' is no range; write GOOD..BAD*"),
        ("HEAD..HEAD", "*same*"),
    ],
)
def test_ends_that_are_no_range_are_a_usage_error(
    run: Callable[..., pytest.RunResult], project: str, commit: Callable[..., str], ends: str, message: str
) -> None:
    commit("Second")
    result = run("--noconftest", f"--llem-bisect={ends.format(project)}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_other_tokens_are_regressed_with_the_position(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    other = "import os\nos.environ['FAKE_OTHER_TOKEN'] = '2:3'\nCALL_S = 0.002\n"
    commit("Another token", work_py=other)
    asked = ("--llem-fail=output:same", "--llem-fail=energy:5%", "--benchmark-json=out.json")
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD~1", *asked)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert verdicts(result) == {("tiny", "output"): "REGRESSED", ("tiny", "energy"): "OK"}
    result.stdout.fnmatch_lines(
        ["REGRESSED*output*same*3 pairs vs HEAD~1*(prompt 2, position 3: *on HEAD~1, *here; 1 of 2 sequences differ*)"]
    )
    assert pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", "--llem-fail=output:same").ret == 0


def test_a_field_that_the_other_side_lacks_is_inconclusive(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    older = "from pytest_llem.config.measure import MeasureConfig\ndel MeasureConfig.model_fields['phases']\n"
    commit(
        "An older version",
        conftest_py=f"{older}from pytest_llem.config import ExperimentConfig\n"
        "for model in (MeasureConfig, ExperimentConfig):\n    model.model_rebuild(force=True)\n" + CONFTEST,
    )
    (pytester.path / "conftest.py").write_text(CONFTEST)
    (pytester.path / "tiny.llem.yaml").write_text(EXPERIMENT.replace("rounds: 4", "phases: false, rounds: 4"))
    result = pytester.runpytest_subprocess(*ON_BOARD, "--llem-against=HEAD", "--llem-fail=energy:5%", "-rs")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["INCONCLUSIVE*energy*0 pairs vs HEAD*on HEAD: *tiny.llem.yaml:*: *phases*"])


def test_the_commit_that_changed_the_tokens_is_found(
    pytester: pytest.Pytester, project: str, commit: Callable[..., str]
) -> None:
    cheap, other = "CALL_S = 0.002\n", "import os\nos.environ['FAKE_OTHER_TOKEN'] = '2:3'\nCALL_S = 0.002\n"
    commits = [commit(f"Number {number}", work_py=text) for number, text in enumerate([cheap, other, f"{other}# 3\n"])]
    result = pytester.runpytest_subprocess(*ON_BOARD, f"--llem-bisect={project}..HEAD", "--llem-fail=output:same")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [f"llem: first commit that changed output of tiny: {commits[1]} (Number 1), probability 100.0%*"]
    )
