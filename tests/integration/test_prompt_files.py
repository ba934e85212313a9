"""Prompts of users' own files, from their lines to the row, and to what a terminal says of a line that is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

BASE = """\
model: builtin:tiny-llama
dataset: {path: p.jsonl}
max_output_tokens: 9
measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.001}
"""


def requests(*tokens: int) -> str:
    return "\n".join(
        json.dumps({"url": "/v1/completions", "body": {"prompt": "hello", "max_tokens": count, "temperature": 0.1}})
        for count in tokens
    )


def extra_info(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())["benchmarks"][0]["extra_info"]
    return found


def test_requests_get_as_many_tokens_as_they_ask_for(
    pytester: pytest.Pytester, write: Callable[..., Path], run: Callable[..., pytest.RunResult]
) -> None:
    write(base=BASE, extra="pytorch: {batch_size: 2}\n")
    hashes = set()
    for counts in ((2, 7, 4), (7, 2, 4)):
        (pytester.path / "p.jsonl").write_text(requests(*counts))
        run("--benchmark-json=out.json").assert_outcomes(passed=1)
        saved = extra_info(pytester.path)
        # Of a pass of two calls.
        assert saved["result"]["output_tokens"] == 13 / 2
        assert any("what the requests say of temperature" in warning for warning in saved["result"]["warnings"])
        hashes.add(saved["workload_hash"])
    assert len(hashes) == 2


def test_an_engine_that_generates_other_lengths_has_no_result(
    write: Callable[..., Path], run: Callable[..., pytest.RunResult]
) -> None:
    # Their sum is right.
    lengths = "output_lengths: {mean: 4, sd: 2}\n"
    write(
        base=BASE.replace("{path: p.jsonl}", "{synthetic: {n: 8}}"),
        extra=f"{lengths}passthrough: {{generate: {{fault: evens-out}}}}\n",
    )
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*sequence * has not the number of tokens that is asked for it*"])


def test_a_line_that_is_wrong_is_said_at_the_experiments_line(
    pytester: pytest.Pytester, write: Callable[..., Path], run: Callable[..., pytest.RunResult]
) -> None:
    (pytester.path / "p.jsonl").write_text(requests(2) + "\n" + requests(99))
    write(base=BASE)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*p.jsonl:2: 99 new tokens are above max_output_tokens (9); raise it*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_parquet_file_without_pyarrow_is_a_skip(
    pytester: pytest.Pytester,
    write: Callable[..., Path],
    run: Callable[..., pytest.RunResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (pytester.path / "p.parquet").write_text("")
    write(base=BASE.replace("p.jsonl", "p.parquet"))
    result = run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs pyarrow: pip install 'pytest-llem[[]parquet]'*"])
