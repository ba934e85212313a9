"""The gate output:same, end to end: what is kept, what is said, what is a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_verdicts import verdicts

Run = Callable[..., pytest.RunResult]
Write = Callable[..., Path]
Saved = Callable[[], list[dict[str, Any]]]

GATE = "--llem-fail=output:same"
QUICK = ("--llem-meter=estimate", "-q")


@pytest.fixture
def generate(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, pytest.RunResult]]:
    """Run the experiments with one token changed; the one verdict, and the session."""

    def run_changed(*arguments: str, change: str = "0:1") -> tuple[str, pytest.RunResult]:
        monkeypatch.setenv("FAKE_OTHER_TOKEN", change)
        result = run(*QUICK, *arguments)
        (line,) = verdicts(result)
        return line, result

    return run_changed


def test_one_token_that_changes_fails_the_session_until_it_is_accepted(
    generate: Callable[..., tuple[str, pytest.RunResult]], write: Write
) -> None:
    write(extra="compare: {output: same}\n")
    first, _ = generate("--benchmark-autosave")
    assert first.startswith("NO-BASELINE ")
    same, _ = generate("--benchmark-autosave")
    assert same.split() == ["OK", "tiny", "output", "-", "limit", "same", "1", "run", "vs", "1", "saved"]
    for _ in range(2):  # the saved regression is no baseline
        line, result = generate("--benchmark-autosave", change="2:3")
        assert line.startswith("REGRESSED ")
        assert "prompt 2, position 3: " in line
        assert "1 of 2 sequences differ; the two best logits were " in line
        assert result.ret == pytest.ExitCode.TESTS_FAILED
    accepted, result = generate("--benchmark-autosave", "--llem-accept", change="2:3")
    assert accepted.startswith("OK ")
    assert result.ret == pytest.ExitCode.OK
    assert generate("--benchmark-autosave", change="2:3")[0].startswith("OK ")
    assert generate()[0].startswith("REGRESSED ")


def test_another_number_of_tokens_is_a_regression_of_the_output_alone(
    run: Run, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(extra="compare: {output: same, energy: 5%, latency: 5%}\n")
    run(*QUICK, "--benchmark-autosave")
    monkeypatch.setenv("FAKE_OTHER_TOKEN", "2:end")
    result = run(*QUICK)
    assert {line.split()[2]: line.split()[0] for line in verdicts(result)} == {
        "output": "REGRESSED",
        "energy": "INCONCLUSIVE",
        "latency": "INCONCLUSIVE",
    }
    (line,) = (line for line in verdicts(result) if line.startswith("REGRESSED "))
    assert "prompt 2, position 4: " in line
    assert "(its end) now" in line


def test_what_is_generated_is_saved_once_and_only_where_it_is_gated(
    run: Run, write: Write, saved: Saved, pytester: pytest.Pytester
) -> None:
    write(extra="sweep: {pytorch.batch_size: [1, 2]}\n")
    run(*QUICK, "--benchmark-json=out.json")
    assert [row["extra_info"]["result"]["generated"] for row in saved()] == [[]] * 4
    run(*QUICK, GATE, "--benchmark-json=out.json", "--llem-journal=journal.jsonl", "--llem-csv=out.csv")
    results = {(row["name"], row["extra_info"]["metric"]): row["extra_info"]["result"] for row in saved()}
    kept = [result["generated"] for (_, metric), result in results.items() if metric == "latency"]
    assert [result["generated"] for (_, metric), result in results.items() if metric == "energy"] == [[], []]
    # Whatever the batch size: the order is that of the prompts.
    assert kept[0] == kept[1]
    assert [one["prompt"] for one in kept[0]] == [1, 2]
    assert [len(one["tokens"]) for one in kept[0]] == [len(one["text"]) for one in kept[0]] == [4, 4]
    assert [len(one["logit_gaps"]) for one in kept[0]] == [4, 4]
    assert len({result["output_tokens_hash"] for result in results.values()}) == 1
    assert {row["extra_info"]["output_verdict"] for row in saved()} == {"NO-BASELINE"}
    journal = [json.loads(line) for line in (pytester.path / "journal.jsonl").read_text().splitlines()]
    assert [one["result"]["generated"] for one in journal if "result" in one] == kept
    assert "output_verdict" in (pytester.path / "out.csv").read_text()
    merged = run("--llem-merge=journal.jsonl", GATE, "--benchmark-json=out.json")
    assert [line.split()[0] for line in verdicts(merged)] == ["NO-BASELINE"] * 2
    assert [row["extra_info"]["result"]["generated"] for row in saved()][::2] == kept


@pytest.mark.processes
def test_a_child_process_keeps_what_it_generated(pytester: pytest.Pytester, write: Write, saved: Saved) -> None:
    write()
    result = pytester.runpytest_subprocess("--llem-cpu", *QUICK, GATE, "--llem-isolate", "--benchmark-json=out.json")
    assert [line.split()[0] for line in verdicts(result)] == ["NO-BASELINE"]
    assert [len(one["tokens"]) for one in saved()[0]["extra_info"]["result"]["generated"]] == [4, 4]


def test_runs_saved_without_the_gate_tell_whether_but_not_where(
    run: Run, generate: Callable[..., tuple[str, pytest.RunResult]], write: Write
) -> None:
    write()
    run(*QUICK, "--benchmark-autosave")
    assert generate(GATE)[0].startswith("OK ")
    line, _ = generate(GATE, change="1:1")
    assert line.startswith("REGRESSED ")
    assert "at which position is not known: the tokens themselves were not kept then" in line


def test_sampling_is_inconclusive_and_a_callable_has_no_output(
    generate: Callable[..., tuple[str, pytest.RunResult]], write: Write, pytester: pytest.Pytester
) -> None:
    path = write(extra="decoder: {preset: standard}\n", base="model: builtin:tiny-llama\nmax_output_tokens: 2\n")
    line, result = generate(GATE, "--llem-min-window=0.001", "--llem-rounds=2", "--llem-strict")
    assert line.startswith("INCONCLUSIVE ")
    assert "it samples" in line
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    path.unlink()
    pytester.makepyfile(
        "def test_it(llem_benchmark):\n    llem_benchmark.pedantic(int, rounds=2, min_window_s=0.001)\n"
    )
    line, _ = generate(GATE)
    assert line.startswith("INCONCLUSIVE ")
    assert "a callable's output is not known" in line


def test_reports_show_the_verdict(
    generate: Callable[..., tuple[str, pytest.RunResult]],
    write: Write,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write()
    generate(GATE, "--benchmark-autosave")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    _, result = generate(GATE, "--llem-report=report.html", change="1:2")
    result.stdout.fnmatch_lines(
        ["::error file=tiny.llem.yaml,title=REGRESSED output of tiny::*prompt 1, position 2: *"]
    )
    assert "prompt 1, position 2" in (pytester.path / "report.html").read_text()
    assert "prompt 1, position 2" in (pytester.path / "summary.md").read_text()


def test_what_can_be_caught_is_said_of_other_gates_alone(run: Run, write: Write) -> None:
    write()
    run(*QUICK, "--benchmark-autosave")
    elsewhere = "llem: 1 of 1 gates have saved runs from another environment alone*"
    run(GATE, "--llem-fail=latency:5%", "--llem-meter=none").stdout.fnmatch_lines([elsewhere])
    run(GATE, "--llem-meter=none").stdout.no_fnmatch_line("*llem: * gates have *")


def test_a_plan_takes_the_gate(run: Run, write: Write) -> None:
    write(extra="compare: {output: same}\n")
    run("--llem-plan", GATE).stdout.fnmatch_lines(["llem plan: 1 item, *"])
