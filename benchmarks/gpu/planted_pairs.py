"""On a real board: pairs of two revisions, with equal work and with 5% more of it.

    PYTHONPATH=. python benchmarks/gpu/planted_pairs.py --out pairs.json [--pairs 5] [--seconds 95] [PYTEST...]

A repository in a temporary folder has two revisions of a module that says how many further forward passes of a small
model with random weights a call has: none, and 5 in the later one. A session of ``--llem-against`` measures two tests
in the same processes: ``test_equal`` runs 100 on both sides, ``test_more`` 100 there and 105 here. Nothing is stopped
when its verdict is clear, so that the spread of pairs shows; the verdicts after each number of pairs are worked out at
the end, as of a session with the usual ten. By default the tests run on the GPU; pytest's arguments replace
``--llem-gpu``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
import time
from contextlib import chdir
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from pytest_llem.records.machine import boards, library_versions
from pytest_llem.session.against import plugin
from pytest_llem.session.against.comparison import Comparison
from pytest_llem.verdict.pairs import MIN_PAIRS, judge_pairs, pair_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.session.against.pair import Outcome, Pair

METRICS = ("energy", "latency")
PASSES = 100
PLANTED = 5
FILES = {
    "planted.py": "FURTHER = 0\n",
    # Idle power is measured for experiments, which generate; these tests do not.
    "conftest.py": """\
import pytest
from pytest_llem.session.state import llem_session


@pytest.fixture(scope="session", autouse=True)
def idle_power(request, llem_model):
    session = llem_session(request.config)
    session.idle_power_w = session.meter(llem_model.gpu_uuids).idle_power().power_w
""",
    "passes.llem.yaml": "model: builtin:tiny-llama\nprecision: bf16\n",
    "test_passes.py": f"""\
import pytest
import torch
from planted import FURTHER

pytestmark = pytest.mark.llem("passes.llem.yaml")


def forward(loaded, passes):
    # On a GPU enough of them that it is the one who works; on a CPU few, to see that it runs.
    shape = (32, 512) if loaded.device.type == "cuda" else (1, 8)
    tokens = torch.arange(shape[0] * shape[1], device=loaded.device).reshape(shape) % 256
    with torch.inference_mode():
        for _ in range(passes):
            loaded.model(tokens, use_cache=False)


def test_equal(llem_model, llem_benchmark):
    llem_benchmark.pedantic(forward, (llem_model, {PASSES}), rounds=2, min_window_s=0.4)


def test_more(llem_model, llem_benchmark):
    llem_benchmark.pedantic(forward, (llem_model, {PASSES} + FURTHER), rounds=2, min_window_s=0.4)
""",
}


@dataclass
class Kept:
    """What a comparison has measured.

    Attributes:
        pairs: experiment and pair, as they came.
        rounds_s: seconds of each pair of processes, imports included.
    """

    pairs: list[tuple[str, Pair]] = field(default_factory=list)
    rounds_s: list[float] = field(default_factory=list)


class EveryPair(Comparison):
    """A comparison that goes on when all is decided, and keeps what it measures."""

    def __init__(self, kept: Kept, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._is_open = lambda _: True
        self._kept = kept

    def next_round(self, nodeids: Sequence[str], refuse: Callable[[Sequence[str], float | None], str | None]) -> None:
        """Measure one pair of these experiments."""
        start_s, before = time.perf_counter(), len(self._kept.pairs)
        super().next_round(nodeids, refuse)
        if len(self._kept.pairs) > before:
            self._kept.rounds_s.append(time.perf_counter() - start_s)

    def _note(self, nodeid: str, pair: Pair) -> None:
        self._kept.pairs.append((nodeid, pair))
        super()._note(nodeid, pair)


def make_repository(folder: Path) -> None:
    """Two revisions, of which the later one does more."""

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=pairs", "-c", "user.email=pairs@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)  # noqa: S603, S607

    git("init", "--quiet")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    git("add", "--all")
    git("commit", "--quiet", "--message", f"{PASSES} passes")
    (folder / "planted.py").write_text(f"FURTHER = {PLANTED}\n", encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", f"{PLANTED} further passes")


def measure(kept: Kept, pairs: int, seconds: float, arguments: Sequence[str]) -> int:
    """Run pytest in the present folder; returns its exit status."""
    is_installed = "llem" in entry_points(group="pytest11").names
    with patch.object(plugin, "Comparison", partial(EveryPair, kept)):
        return pytest.main(
            [
                *([] if is_installed else ["-p", "pytest_llem.plugin"]),
                *(arguments or ["--llem-gpu"]),
                "test_passes.py",
                "--llem-against=HEAD~1",
                f"--llem-pairs={pairs}",
                f"--llem-budget={seconds}",
            ]
        )


def report_of(measured: Iterable[tuple[str, Pair]]) -> dict[str, Any]:
    """Plain values, by test.

    Returns:
        For each test ``pairs``, their ``spread`` (of the logarithms of the ratios, by metric) and ``verdicts`` (by
        metric and number of pairs).
    """
    by_test: dict[str, list[Pair]] = {}
    for nodeid, pair in measured:
        by_test.setdefault(nodeid.rpartition("::")[2], []).append(pair)
    return {name: _report_of_test(pairs) for name, pairs in by_test.items()}


def _report_of_test(pairs: Sequence[Pair]) -> dict[str, Any]:
    report: dict[str, Any] = {"pairs": [_plain(pair) for pair in pairs], "spread": {}, "verdicts": {}}
    whole = [pair for pair, plain in zip(pairs, report["pairs"], strict=True) if "problem" not in plain]
    for metric in METRICS:
        runs = [tuple(record.runs(metric)[0] for record in _records(pair)) for pair in whole]
        logs = [found for this, other in runs if (found := pair_difference(this, other)) is not None]
        report["spread"][metric] = statistics.stdev(logs) if len(logs) > 1 else None
        report["verdicts"][metric] = {
            count: _verdict([(this, other) for this, other in runs[:count]], pairs)
            for count in range(MIN_PAIRS, len(runs) + 1)
        }
    return report


def _verdict(runs: Sequence[tuple[Any, Any]], pairs: Sequence[Pair]) -> dict[str, Any]:
    found = judge_pairs(runs, interleaved=all(pair.by_turns for pair in pairs))
    return {"status": found.status, "change": found.change, "interval": found.interval, "reason": found.reason}


def _records(pair: Pair) -> list[Any]:
    return [outcome.record for outcome in (pair.this, pair.other)]


def _plain(pair: Pair) -> dict[str, Any]:
    """A pair, with the ratio of this side over the other by quantity."""
    told: dict[str, Any] = {"other_first": pair.other_first, "by_turns": pair.by_turns}
    if (problem := pair.problem) is not None:
        return {**told, "problem": problem.problem}
    this, other = _records(pair)
    told["this"], told["other"] = _side(this.result, pair.this), _side(other.result, pair.other)
    told["ratio"] = {
        name: _ratio(told["this"][name], told["other"][name]) for name in ("energy_j", "latency_s", "mean_power_w")
    }
    first, second = (pair.other, pair.this) if pair.other_first else (pair.this, pair.other)
    # Of the first test of a process: later ones begin when both are alive.
    told["idle_power_w"] = {"first": first.idle_power_w, "second": second.idle_power_w}
    invalid = [text for record in (this, other) if not record.result.valid for text in record.result.warnings]
    return {**told, **({"problem": "; ".join(invalid)} if invalid else {})}


def _side(result: ExperimentResult, outcome: Outcome) -> dict[str, Any]:
    return {
        "energy_j": result.energy_j,
        "energy_uncertainty_j": result.energy_uncertainty_j,
        "latency_s": result.latency_s,
        "mean_power_w": result.mean_power_w,
        "idle_power_w": outcome.idle_power_w,
        "windows": [{"seconds": window.seconds, "joules": window.joules} for window in result.per_round],
        "warnings": result.warnings,
    }


def _ratio(this: float | None, other: float | None) -> float | None:
    return this / other if this and other else None


def lines(report: dict[str, Any]) -> list[str]:
    """What a person reads of it."""
    texts = []
    for name, test in report["tests"].items():
        for number, pair in enumerate(test["pairs"], 1):
            if "problem" in pair:
                texts.append(f"{name} pair {number}: {pair['problem']}")
                continue
            ratios = ", ".join(f"{key} {_percent(value)}" for key, value in pair["ratio"].items())
            idle = ", ".join(f"{key} {_watts(value)}" for key, value in pair["idle_power_w"].items())
            texts.append(f"{name} pair {number}: {ratios}; idle power {idle}")
        for metric, verdicts in test["verdicts"].items():
            spread = test["spread"][metric]
            said = ", ".join(f"{count} pairs {one['status']} {_change(one)}" for count, one in verdicts.items())
            texts.append(
                f"{name} {metric}: pairs differ by {'?' if spread is None else f'{spread:.2%}'}; {said or 'no verdict'}"
            )
    seconds = ", ".join(f"{one_s:.1f}" for one_s in report["seconds_a_pair"])
    return [*texts, f"seconds a pair: {seconds or 'none'}; in all {report['seconds']:.0f} s"]


def _percent(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio - 1.0:+.2%}"


def _watts(power_w: float | None) -> str:
    return "?" if power_w is None else f"{power_w:.1f} W"


def _change(verdict: dict[str, Any]) -> str:
    if verdict["interval"] is None:
        return f"({verdict['reason']})"
    return f"{verdict['change']:+.2%} [{verdict['interval'][0]:+.2%}, {verdict['interval'][1]:+.2%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as pairs.json")
    parser.add_argument("--pairs", type=int, default=5, help="how many, at least 3")
    parser.add_argument("--seconds", type=float, default=95.0, help="how long they may take")
    options, arguments = parser.parse_known_args()
    out, kept, start_s = options.out.absolute(), Kept(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        make_repository(Path(name))
        with chdir(name):
            status = measure(kept, options.pairs, options.seconds, arguments)
    tests = report_of(kept.pairs)
    report = {
        "boards": boards(),
        "libraries": library_versions(),
        "planted": math.log1p(PLANTED / PASSES),
        "pytest_exit_status": int(status),
        "seconds": time.perf_counter() - start_s,
        "seconds_a_pair": kept.rounds_s,
        "tests": tests,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(*lines(report), sep="\n")
    # That more work is REGRESSED is what pytest has to say.
    if len(tests) < 2 or any(not verdicts for test in tests.values() for verdicts in test["verdicts"].values()):
        raise SystemExit(f"fewer than {MIN_PAIRS} whole pairs")


if __name__ == "__main__":
    main()
