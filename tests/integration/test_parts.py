"""A session divided into parts, and their journals reported as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.processes

# Three models (the seed decides random weights), each with two experiments.
SIX = "sweep: {random_seed: [1, 2, 3], pytorch.batch_size: [1, 2]}\n"

# The second experiment of a session is interrupted, while the file "interrupt" is there.
INTERRUPTED = """
from pathlib import Path

import pytest

measured = []

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    measured.append(item)
    if len(measured) == 2 and Path("interrupt").exists():
        raise KeyboardInterrupt
"""

CALLABLE = "def test(llem_benchmark):\n    llem_benchmark.pedantic(lambda: None, rounds=2, min_window_s=0.0)\n"


def journal(part: str) -> Path:
    return Path(".benchmarks", f"llem-journal-shard{part}.jsonl")


def what_was_measured(rows: Sequence[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Everything of the rows that is the same each time the same is measured."""
    return {
        (
            row["fullname"],
            row["group"],
            json.dumps(row["params"]),
            row["param"],
            row["extra_info"]["metric"],
            row["extra_info"]["nodeid"],
            row["extra_info"]["workload_hash"],
            row["extra_info"]["environment_hash"],
            row["stats"]["rounds"],
            tuple(sorted(set(row["extra_info"]) - {"verdict"})),  # only where there are gates
        )
        for row in rows
    }


def test_parts_that_were_interrupted_and_resumed_merge_into_one_session(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    write: Callable[..., Path],
    saved: Callable[[], list[dict[str, Any]]],
) -> None:
    write(extra=SIX)
    pytester.makeconftest(INTERRUPTED)
    run("--benchmark-json=out.json").assert_outcomes(passed=6)
    whole = what_was_measured(saved())
    for part in ("1/2", "2/2"):
        Path("interrupt").touch()
        stopped = pytester.runpytest_inprocess("--llem-cpu", f"--llem-shard={part}", no_reraise_ctrlc=True)
        assert stopped.ret == pytest.ExitCode.INTERRUPTED
        Path("interrupt").unlink()
        run("--llem-shard", part, "--llem-resume", "--benchmark-save=part").stdout.fnmatch_lines(
            ["llem: 1 of * experiments taken*"]
        )
    parts = [[json.loads(line) for line in journal(part).read_text().splitlines()] for part in ("1of2", "2of2")]
    assert sorted(map(len, parts)) == [2, 4]
    seeds = [{line["swept"]["random_seed"] for line in lines} for lines in parts]
    assert not seeds[0] & seeds[1]

    files = [str(journal(part)) for part in ("1of2", "2of2")]
    merged = pytester.runpytest_inprocess("--llem-merge", *files, "--benchmark-json=out.json", "--llem-fail=latency:5%")
    assert merged.ret == pytest.ExitCode.OK
    merged.stdout.fnmatch_lines(
        [
            "llem: in the sessions that measured these results, * were measured*",
            "llem: merged 6 experiments of 2 journals; nothing was run",
        ]
    )
    assert sum(line.startswith("NO-BASELINE ") for line in merged.outlines) == 6
    assert what_was_measured(saved()) == whole
    measured = {row["extra_info"]["nodeid"]: row["extra_info"]["result"] for row in saved()}
    assert measured == {line["nodeid"]: line["result"] for lines in parts for line in lines}


def test_what_is_merged_is_gated_and_reported(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], write: Callable[..., Path]
) -> None:
    write(extra="compare: {latency: '100000%;rule=point'}\n")
    run("--benchmark-save=base").assert_outcomes(passed=1)
    # Saved by the part itself, too: it is not judged against itself.
    run("--llem-journal=part.jsonl", "--benchmark-save=part").assert_outcomes(passed=1)
    options = ("benchmarks/", "--llem-merge=part.jsonl", "--llem-csv=out.csv", "--benchmark-save=merged")
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.OK
    assert [line.split()[0] for line in result.outlines if "1 run vs 1 saved" in line] == ["OK"]
    assert "tiny" in Path("out.csv").read_text()
    # Far slower than a busy machine makes it: the gate of the file, which nobody reads again, still fails the session.
    line = json.loads(Path("part.jsonl").read_text())
    for one in line["result"]["per_round"]:
        one["seconds"] *= 1e6
    Path("part.jsonl").write_text(json.dumps(line) + "\n")
    worse = pytester.runpytest_inprocess("--llem-merge=part.jsonl", "--llem-baseline=*base")
    assert any(line.startswith("REGRESSED ") for line in worse.outlines)
    assert worse.ret == pytest.ExitCode.TESTS_FAILED
    assert not any("fresh process" in line for line in worse.outlines)


def test_what_is_accepted_is_saved_so_without_a_gate(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], saved: Callable[[], list[dict[str, Any]]]
) -> None:
    def accepted() -> list[bool]:
        return ["accepted" in row["extra_info"] for row in saved()]

    pytester.makepyfile(test_callable=CALLABLE)
    plain, part = "--llem-journal=plain.jsonl", "--llem-journal=part.jsonl"
    run(plain, "--benchmark-json=out.json").assert_outcomes(passed=1)
    assert not any(accepted())
    run(part, "--llem-accept", "--benchmark-json=out.json").assert_outcomes(passed=1)
    assert all(accepted())
    # The journal carries it, whoever reports it.
    pytester.runpytest_inprocess("--llem-merge=part.jsonl", "--benchmark-json=out.json")
    assert all(accepted())
    run(part, "--llem-resume", "--benchmark-json=out.json").assert_outcomes(passed=1)
    assert all(accepted())
    # Who reports it may be the one who accepts it.
    pytester.runpytest_inprocess("--llem-merge=plain.jsonl", "--llem-accept", "--benchmark-json=out.json")
    assert all(accepted())
    run(plain, "--llem-resume", "--llem-accept", "--benchmark-json=out.json").assert_outcomes(passed=1)
    assert all(accepted())
    assert len(Path("plain.jsonl").read_text().splitlines()) == 2


def test_an_empty_part_is_success_and_leaves_an_empty_journal(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(test_callable=CALLABLE, test_plain="def test(): pass")
    first = run("--llem-shard=1/3")
    first.assert_outcomes(passed=2)  # what is no experiment runs here
    second = run("--llem-shard=2/3")
    assert second.ret == pytest.ExitCode.OK
    second.assert_outcomes(deselected=2)
    assert journal("2of3").read_bytes() == b""
    assert len(journal("1of3").read_text().splitlines()) == 1
    merged = pytester.runpytest_inprocess("--llem-merge", str(journal("1of3")), str(journal("2of3")))
    assert merged.ret == pytest.ExitCode.OK
    empty = pytester.runpytest_inprocess("--llem-merge", str(journal("2of3")))
    assert empty.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert run("--llem-shard=2/3", "-k", "nothing").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_part_that_ran_before_does_not_change_the_division(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    slow = "@pytest.mark.parametrize('number', range(6))\ndef test(llem_benchmark, number):\n"
    slow += "    llem_benchmark.pedantic(lambda: time.sleep(number / 100), rounds=2, warmup_rounds=0, min_window_s=0.0)"
    pytester.makepyfile("import time\nimport pytest\n" + slow)
    first = run("--llem-shard=1/2", "-v", "--benchmark-autosave")
    second = run("--llem-shard=2/2", "-v", "--benchmark-autosave")
    ran = [line.split()[0] for result in (first, second) for line in result.outlines if " PASSED" in line]
    assert len(ran) == len(set(ran)) == 6
    # Now the durations are known: 0 to 5 hundredths are divided evenly.
    run("--benchmark-autosave").assert_outcomes(passed=6)
    result = run("--llem-shard=1/2", "-v")
    numbers = [int(line.split("[")[1].split("]")[0]) for line in result.outlines if " PASSED" in line]
    assert sum(numbers) in (7, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--llem-shard=0/2"], "*--llem-shard: '0/2' is no part*"),
        (["--llem-shard=3/2"], "*--llem-shard: '3/2' is no part*"),
        (["--llem-shard=1"], "*--llem-shard: '1' is no part*"),
        (["--llem-merge=a.jsonl", "--llem-resume"], "*--llem-merge runs nothing*"),
        (["--llem-merge=nowhere.jsonl"], "*--llem-merge: *nowhere.jsonl: No such file*"),
        (["--llem-merge", "."], "*--llem-merge: *directory*"),
    ],
)
def test_what_cannot_be_is_a_usage_error(pytester: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = pytester.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_journals_that_disagree_are_refused(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(test_callable=CALLABLE)
    for name in ("a", "b"):
        run(f"--llem-journal={name}.jsonl").assert_outcomes(passed=1)
    Path("copy.jsonl").write_bytes(Path("a.jsonl").read_bytes())
    same = pytester.runpytest_inprocess("--llem-merge=a.jsonl", "--llem-merge=copy.jsonl")
    assert same.ret == pytest.ExitCode.OK
    same.stdout.fnmatch_lines(["llem: merged 1 experiment of 2 journals*"])
    result = pytester.runpytest_inprocess("--llem-merge=a.jsonl", "--llem-merge=b.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a.jsonl and *b.jsonl hold different results of test_callable.py::test:*"])


def test_the_ini_files_journal_is_one_a_part(pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
    pytester.makepyfile(test_callable=CALLABLE)
    pytester.makeini("[pytest]\nllem_journal = out/mine.jsonl\n")
    for part in ("1/2", "2/2"):
        run(f"--llem-shard={part}")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        f"mine-shard{part}.jsonl" for part in ("1of2", "2of2")
    ]
    run("--llem-shard=1/2", "--llem-journal=named.jsonl")
    assert Path("named.jsonl").exists()
    run()
    assert Path("out/mine.jsonl").exists()


def test_a_part_that_is_missing_is_said_and_is_not_green_when_strict(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(test_callable=CALLABLE)
    for part in ("1/3", "2/3", "3/3"):
        run(f"--llem-shard={part}")
    Path("copy.jsonl").write_bytes(journal("1of3").read_bytes())
    some = [f"--llem-merge={one}" for one in ("copy.jsonl", journal("1of3"), journal("2of3"))]
    missing = "llem: of 3 parts, 2 left a journal that is merged: *"
    for options, code in (([], pytest.ExitCode.OK), (["--llem-strict"], pytest.ExitCode.TESTS_FAILED)):
        result = pytester.runpytest_inprocess(*some, *options)
        result.stdout.fnmatch_lines([missing])
        assert result.ret == code
        whole = pytester.runpytest_inprocess(*some, f"--llem-merge={journal('3of3')}", *options)
        whole.stdout.no_fnmatch_line(missing)
        assert whole.ret == pytest.ExitCode.OK


def test_the_journal_of_a_session_that_was_not_divided_is_whole(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(test_callable=CALLABLE)
    run("--llem-journal=whole.jsonl")
    result = pytester.runpytest_inprocess("--llem-merge=whole.jsonl", "--llem-strict")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*missing*")


@pytest.mark.parametrize("fault", ["collection", "hardware"])
def test_a_part_that_never_measured_leaves_no_journal_of_the_part_before(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pytester.makepyfile(test_callable=CALLABLE)
    run("--llem-shard=1/2").assert_outcomes(passed=1)
    before = journal("1of2").read_bytes()
    broken = ["--llem-meter=nvml"] if fault == "hardware" else []
    if fault == "collection":
        pytester.makepyfile(test_broken="import nowhere")
    run("--llem-shard=1/2", "--collect-only")
    run("--llem-shard=1/2", "--llem-resume", *broken)
    assert journal("1of2").read_bytes() == before
    assert run("--llem-shard=1/2", *broken).ret not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    assert not journal("1of2").exists()
    assert journal("1of2").with_name("llem-journal-shard1of2.jsonl.previous").read_bytes() == before
