"""Sessions that are killed, ended or interrupted, and taken up again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.processes

JOURNAL = Path(".benchmarks", "llem-journal.jsonl")

# Twelve experiments that need no model, so that a process of their own starts fast.
TWELVE = """
import time

import pytest

@pytest.mark.parametrize("number", range(12))
def test_sleep(llem_benchmark, number):
    llem_benchmark.extra_info["number"] = number
    llem_benchmark.pedantic(time.sleep, (0.002,), rounds=5, warmup_rounds=1, min_window_s=0.02)
"""


@pytest.fixture
def start(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start pytest in a process that can be killed."""
    started = []

    def start_pytest(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--llem-cpu", *arguments]
        process = subprocess.Popen(
            command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start_pytest
    for process in started:
        process.kill()
        process.communicate()


def lines(path: Path = JOURNAL) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def wait_for_lines(count: int, process: subprocess.Popen[str]) -> None:
    while len(lines()) < count and process.poll() is None:
        time.sleep(0.01)


def latencies(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["fullname"]: row for row in rows if row["extra_info"]["metric"] == "latency"}


def test_killed_sessions_lose_no_finished_result(
    pytester: pytest.Pytester,
    start: Callable[..., subprocess.Popen[str]],
    saved: Callable[[], list[dict[str, Any]]],
) -> None:
    pytester.makepyfile(test_twelve=TWELVE)
    finished: dict[str, Any] = {}
    moment = random.Random(6)  # noqa: S311
    for kills in range(3):
        process = start(*(["--llem-resume"] if kills else []))
        wait_for_lines(len(finished) + moment.randint(1, 3), process)
        time.sleep(moment.uniform(0, 0.3))
        process.kill()
        process.wait()
        now = {line["nodeid"]: line["result"] for line in lines()}
        assert {nodeid: now.get(nodeid) for nodeid in finished} == finished
        assert len(now) > len(finished)
        finished = now
    resumed = start("--llem-resume", "--benchmark-json=out.json", "-v")
    output, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == pytest.ExitCode.OK, output
    assert f"llem: {len(finished)} of 12 experiments taken from the journal" in output
    assert output.count(" PASSED") == 12
    rows = latencies(saved())
    assert {row["extra_info"]["number"] for row in rows.values()} == set(range(12))
    for nodeid, result in finished.items():
        assert rows[nodeid]["extra_info"]["result"] == result
    assert len(saved()) == 24  # seconds and joules


def test_sigterm_saves_what_is_finished(
    pytester: pytest.Pytester,
    start: Callable[..., subprocess.Popen[str]],
    saved: Callable[[], list[dict[str, Any]]],
) -> None:
    pytester.makepyfile(
        test_slow=TWELVE.replace("range(12)", "range(3)").replace("0.002", "0.002 if number < 2 else 60")
    )
    process = start("--benchmark-json=out.json", "--llem-fail=latency:5%")
    wait_for_lines(2, process)
    time.sleep(0.3)
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "SIGTERM" in output
    assert set(latencies(saved())) == {"test_slow.py::test_sleep[0]", "test_slow.py::test_sleep[1]"}


def test_an_interrupted_experiment_has_no_row(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], saved: Callable[[], list[dict[str, Any]]]
) -> None:
    pytester.makepyfile(
        test_interrupt="""
        def call(llem_benchmark, function):
            llem_benchmark.pedantic(function, rounds=2, warmup_rounds=0, min_window_s=0.0)

        def test_whole(llem_benchmark):
            call(llem_benchmark, lambda: None)

        def test_during_the_measurement(llem_benchmark):
            def interrupted():
                raise KeyboardInterrupt

            call(llem_benchmark, interrupted)
        """,
        test_afterwards="""
        import pytest

        @pytest.fixture
        def interrupted():
            yield
            raise KeyboardInterrupt

        def test_in_the_teardown(interrupted, llem_benchmark):
            llem_benchmark.pedantic(lambda: None, rounds=2, warmup_rounds=0, min_window_s=0.0)
        """,
    )
    for file, rows in (("test_interrupt.py", {"test_interrupt.py::test_whole"}), ("test_afterwards.py", set())):
        Path("out.json").unlink(missing_ok=True)
        JOURNAL.unlink(missing_ok=True)
        result = pytester.runpytest_subprocess("--llem-cpu", "--benchmark-json=out.json", file)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        assert (set(latencies(saved())) if Path("out.json").exists() else set()) == rows
        assert {line["nodeid"] for line in lines()} == rows


def test_the_handler_of_sigterm_is_put_back(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(
        "import signal\ndef test(llem_benchmark):\n    assert callable(signal.getsignal(signal.SIGTERM))\n"
        "    llem_benchmark.pedantic(lambda: None, rounds=1, min_window_s=0.0)"
    )
    before = signal.getsignal(signal.SIGTERM)
    run().assert_outcomes(passed=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_changed_experiment_runs_again_and_a_changed_gate_does_not(
    run: Callable[..., pytest.RunResult], write: Callable[..., Path], saved: Callable[[], list[dict[str, Any]]]
) -> None:
    for name in ("kept", "changed"):
        write(f"{name}.llem.yaml")
    run().assert_outcomes(passed=2)
    before = {line["nodeid"]: line["result"] for line in lines()}
    write("kept.llem.yaml", extra="compare: {latency: 5%}\n")
    write("changed.llem.yaml", extra="random_seed: 7\n")
    result = run("--llem-resume", "--benchmark-json=out.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "llem: changed.llem.yaml::changed: its fingerprint has changed since*",
            "llem: 1 of 2 experiments taken*",
            "llem: in this session, which measured 1 of 2 results, * were measured*",
        ]
    )
    rows = {row["extra_info"]["nodeid"]: row["extra_info"]["result"] for row in saved()}
    assert rows["kept.llem.yaml::kept"] == before["kept.llem.yaml::kept"]
    # It may have been saved before: whoever reads the history counts it once.
    assert json.loads(Path("out.json").read_text())["llem_from_journal"] == ["kept.llem.yaml::kept"]
    assert rows["changed.llem.yaml::changed"] != before["changed.llem.yaml::changed"]
    assert {line["nodeid"]: line["result"] for line in lines()} == rows
    # The obsolete result is not thrown away either.
    assert len(lines(JOURNAL.with_name(JOURNAL.name + ".previous"))) == 2


def test_other_options_run_everything_again(run: Callable[..., pytest.RunResult], write: Callable[..., Path]) -> None:
    write()
    run("--llem-rounds=2").assert_outcomes(passed=1)
    result = run("--llem-rounds=3", "--llem-resume")
    result.stdout.fnmatch_lines(["llem: 0 of 1 experiments taken*"])
    assert lines()[-1]["result"]["rounds"] == 3


def test_damaged_lines_are_dropped_with_a_notice(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(test_twelve=TWELVE.replace("range(12)", "range(3)"))
    run().assert_outcomes(passed=3)
    whole = JOURNAL.read_bytes().split(b"\n")
    JOURNAL.write_bytes(b"\n".join([whole[0], b"\x00" + whole[1][5:], whole[2][:100]]))
    result = run("--llem-resume")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "llem: *llem-journal.jsonl:2: dropped a line: *",
            "llem: *llem-journal.jsonl:3: dropped a torn last line: *",
            "llem: 1 of 3 experiments taken*",
        ]
    )
    assert len(lines()) == 3


def test_a_new_session_sets_the_old_journal_aside(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(test_twelve=TWELVE.replace("range(12)", "range(1)"))
    run().assert_outcomes(passed=1)
    first = JOURNAL.read_text()
    run("--collect-only")
    run("--benchmark-disable").assert_outcomes(passed=1)
    run("-k", "nothing")
    assert JOURNAL.read_text() == first
    result = run()
    result.stdout.fnmatch_lines(["llem: the journal that was there is kept as *.previous"])
    assert JOURNAL.with_name("llem-journal.jsonl.previous").read_text() == first
    assert JOURNAL.read_text() != first


def test_the_journal_can_be_elsewhere(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(test_twelve=TWELVE.replace("range(12)", "range(1)"))
    run("--llem-journal=out/mine.jsonl").assert_outcomes(passed=1)
    assert not JOURNAL.exists()
    assert len(lines(Path("out/mine.jsonl"))) == 1
    assert [path.name for path in Path("out").iterdir()] == ["mine.jsonl"]
    pytester.makeini("[pytest]\nllem_journal = ini.jsonl\n")
    run("--llem-resume").stdout.fnmatch_lines(["llem: no journal to resume from at *ini.jsonl", "llem: 0 of 1 *"])
    assert len(lines(Path("ini.jsonl"))) == 1


def test_a_journal_that_cannot_be_written_does_not_stop_the_session(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(test_twelve=TWELVE.replace("range(12)", "range(2)"))
    JOURNAL.parent.touch()
    result = run("--benchmark-json=out.json")
    result.assert_outcomes(passed=2)
    # At once, and where the end of the session is read.
    result.stdout.fnmatch_lines(["llem: no journal: *", "*energy of LLM inference*", "llem: no journal: *"])
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("name", ["file/journal.jsonl", "folder", "x" * 300, "/proc/journal.jsonl"])
def test_a_journal_that_is_named_and_cannot_be_written_is_a_usage_error(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], name: str
) -> None:
    pytester.makepyfile(test_twelve=TWELVE.replace("range(12)", "range(1)"))
    Path("file").touch()
    Path("folder").mkdir()
    result = run(f"--llem-journal={name}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    # What is said to be in the way is the path, or a folder above it, and no name that nobody wrote.
    (message,) = (line for line in result.errlines if line.startswith("ERROR: --llem-journal: "))
    assert message.endswith((f"{name}'", f"{Path(name).parent}'"))


def test_failures_are_run_again(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(
        """
        import os

        def test(llem_benchmark):
            llem_benchmark.pedantic(lambda: None, rounds=1, min_window_s=0.0)
            assert "MENDED" in os.environ
        """
    )
    run().assert_outcomes(failed=1)
    assert not JOURNAL.exists()
    os.environ["MENDED"] = "1"
    try:
        run("--llem-resume").assert_outcomes(passed=1)
    finally:
        del os.environ["MENDED"]
    assert len(lines()) == 1
