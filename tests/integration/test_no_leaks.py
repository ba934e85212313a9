"""What is saved of a session holds no secret of its environment and no text of its prompts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.processes

EXPERIMENT = """\
name: tiny
model: builtin:tiny-llama
precision: fp32
dataset: {path: prompts.jsonl}
max_input_tokens: 8
max_output_tokens: 4
decoder: {preset: deterministic, min_new_tokens: 4}
measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.001}
compare: {latency: 5%}
"""

SECRETS = {
    "HF_TOKEN": "hf_canary1of4",
    "HUGGING_FACE_HUB_TOKEN": "hf_canary2of4",
    "DATABASE_PASSWORD": "canary3of4",
    "LLEM_CANARY": "canary4of4",
}
PROMPT = "zebracanary quokkacanary"


@pytest.fixture
def in_secret(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest in a process whose environment and prompts hold canaries."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (pytester.path / "tiny.llem.yaml").write_text(EXPERIMENT)
    (pytester.path / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n")
    return lambda *arguments: pytester.runpytest_subprocess("--llem-cpu", *arguments)


def leaks(pytester: pytest.Pytester, terminal: str) -> list[str]:
    """Where a canary is, beside the inputs."""
    places = {"the terminal": terminal}
    places |= {
        str(path.relative_to(pytester.path)): path.read_text(errors="replace")
        for path in pytester.path.rglob("*")
        # The runner's own copies of the terminal are left out, too: it was looked at.
        if path.is_file() and path.name not in ("prompts.jsonl", "tiny.llem.yaml", "stdout", "stderr")
    }
    assert {"out.json", "report.html", "table.csv", "journal.jsonl", "junit.xml", "summary.md"} <= places.keys()
    assert any(place.startswith(".benchmarks/") for place in places)
    assert "tiny.llem.yaml::tiny" in places["journal.jsonl"]
    return [place for place, text in places.items() if "canary" in text]


def test_no_secret_and_no_prompt_is_saved_or_shown(
    pytester: pytest.Pytester, in_secret: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    result = in_secret(
        *("--benchmark-json=out.json", "--benchmark-autosave", "--llem-report=report.html", "--llem-csv=table.csv"),
        *("--llem-journal=journal.jsonl", "--junitxml=junit.xml", "-vv", "-rA"),
    )
    result.assert_outcomes(passed=1)
    assert leaks(pytester, result.stdout.str() + result.stderr.str()) == []


def test_a_prompt_that_fails_is_not_quoted(
    pytester: pytest.Pytester, in_secret: Callable[..., pytest.RunResult]
) -> None:
    (pytester.path / "tiny.llem.yaml").unlink()
    for number, text in enumerate(('{"prompt": "zebracanary', '"zebracanary"', '{"prompt": ["zebracanary"]}')):
        (pytester.path / f"prompts{number}.jsonl").write_text(text + "\n")
        (pytester.path / f"tiny{number}.llem.yaml").write_text(EXPERIMENT.replace("prompts", f"prompts{number}"))
    result = in_secret("--junitxml=junit.xml")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines([f"*prompts{number}.jsonl:1: *" for number in range(3)])
    assert "canary" not in result.stdout.str() + (pytester.path / "junit.xml").read_text()
