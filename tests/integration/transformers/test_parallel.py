"""A model in two processes of this machine, on gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.descendants import descendants
from pytest_llem.engines.transformers.engine import load_here

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.processes

FIELDS = """\
model: builtin:tiny-llama
precision: fp32
dataset: {synthetic: {n: 3, input_len: 16}}
max_input_tokens: 16
max_output_tokens: 8
decoder: {min_new_tokens: 8}
pytorch: {batch_size: 2}
"""

TWO = "parallel: {tensor: 2}\n"

SHARED = f"""\
{FIELDS}measure: {{rounds: 3, warmup_rounds: 0, min_window_s: 0.1, phases: one-token}}
experiments:
  - {{name: alone}}
  - &two {{name: two, parallel: {{tensor: 2}}}}
  - {{<<: *two, name: static, pytorch: {{batch_size: 2, cache_implementation: static}}}}
  - {{<<: *two, name: drawn, decoder: {{preset: standard, min_new_tokens: 8}}}}
"""

FAULTS = f"""\
{FIELDS}{TWO}measure: {{rounds: 2, warmup_rounds: 0, min_window_s: 0.01}}
experiments:
  - {{name: killed, measure: {{rounds: 1000}}}}
  - {{name: after, max_output_tokens: 4, decoder: {{min_new_tokens: 4}}}}
  - {{name: stopped, timeout_s: 5, measure: {{rounds: 100000}}}}
  - {{name: last}}
"""

HARMS = """
import os, signal, threading

from pytest_llem.engines.transformers.parallel.model import ParallelModel

SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
prepare = ParallelModel.prepare

def prepare_and_harm(self, config, folder):
    workload = prepare(self, config, folder)
    if config.name in SIGNALS:
        threading.Timer(1.0, os.kill, (self.model.pids[1], SIGNALS[config.name])).start()
    with open("pids", "a") as file:
        print(*self.model.pids, file=file)
    return workload

ParallelModel.prepare = prepare_and_harm
"""

HOLDS = """
import sys

from pytest_llem.engines.transformers.parallel.group import RankGroup

sys.path.insert(0, sys.argv[1])
group = RankGroup(2, "cpu")
print(*group.pids, flush=True)
sys.stdin.read()
"""

LONG = f"{FIELDS}{TWO}measure: {{rounds: 100000, warmup_rounds: 0, min_window_s: 0.1}}\n"


def tokens_of(name: str, fields: dict[str, Any]) -> str:
    """The hash of what one process generates."""
    config = ExperimentConfig.model_validate(
        {
            "model": "builtin:tiny-llama",
            "precision": "fp32",
            "dataset": {"synthetic": {"n": 3, "input_len": 16}},
            "max_input_tokens": 16,
            "max_output_tokens": 8,
            "pytorch": {"batch_size": 2},
            **fields,
        }
    )
    from pytest_llem.measurement.protocol import _hash_tokens

    workload = load_here(config.load_config(Path()), "cpu").prepare(config, Path())
    generated = [workload.output_tokens(index, workload.run(index)) for index in range(workload.calls)]
    return _hash_tokens([tokens for sequences in generated for tokens in sequences])


def test_two_ranks_are_one_model_on_two_boards(pytester: pytest.Pytester, engine: str) -> None:
    pytester.makefile(".llem.yaml", shared=SHARED)
    pytester.makeconftest(
        "from tests.simulators import SimulatedBoard, install, skip_waits\n\nskip_waits()\n"
        "install([SimulatedBoard(uuid='GPU-a', power=300.0, period_s=0.02),"
        " SimulatedBoard(uuid='GPU-b', power=150.0, period_s=0.02)])\n"
    )
    asked = ("--llem-cpu", "--llem-meter=nvml", "-rs", "--benchmark-json=out.json", "-p", "no:cacheprovider")
    result = pytester.runpytest_subprocess(*asked)
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*the model runs on the CPU, so which board to read is not known: *"])
    rows = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    results = {row["name"]: row["extra_info"]["result"] for row in rows if row["extra_info"]["metric"] == "latency"}
    greedy = tokens_of("alone", {"decoder": {"min_new_tokens": 8}})
    drawn = tokens_of("drawn", {"decoder": {"preset": "standard", "min_new_tokens": 8}})
    assert {name: found["output_tokens_hash"] for name, found in results.items()} == {
        "two": greedy,
        "static": greedy,
        "drawn": drawn,
    }
    for found in results.values():
        assert found["valid"], found["warnings"]
        shares = [rank["parameter_share"] for rank in found["ranks"]]
        # Norms are small, and whole in each.
        assert shares == pytest.approx([0.5, 0.5], abs=0.001)
        assert sum(rank["peak_memory_bytes"] for rank in found["ranks"]) == found["peak_memory_bytes"]
        for window in found["per_round"]:
            assert abs(window["joules"] - 450.0 * window["seconds"]) <= window["uncertainty_j"]
        assert found["boards"]["GPU-a"] == pytest.approx(2 * found["boards"]["GPU-b"], rel=0.05)
        assert 0 < found["time_to_first_token_s"] < found["latency_s"]
        assert 0 < found["prefill_latency_s"] < found["latency_s"]


def test_a_rank_that_ends_or_hangs_costs_its_experiment_alone(pytester: pytest.Pytester, engine: str) -> None:
    pytester.makefile(".llem.yaml", faults=FAULTS)
    pytester.makeconftest(HARMS)
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-meter=none", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "faults.llem.yaml:11: killed: rank 1 (PID *) was ended by SIGKILL, perhaps by *",
            "faults.llem.yaml:13: stopped: timeout_s: passed, and rank 0 and 1 had not answered",
        ]
    )
    assert still_running(map(int, (pytester.path / "pids").read_text().split())) == []


def test_nothing_is_left_of_ranks_whose_session_is_killed(tmp_path: Path) -> None:
    temporary, tests = tmp_path / "temporary", tmp_path / "tests"
    temporary.mkdir()
    tests.mkdir()
    # Imported by the session before pytest put a folder of tests in front.
    (tests / "json.py").write_text("raise RuntimeError")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tests)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdout is not None
        ranks = [int(pid) for pid in session.stdout.readline().split()]
        started = descendants(session.pid)
        os.kill(ranks[1], signal.SIGSTOP)
        session.kill()
    assert set(ranks) < set(started)
    assert still_running(started) == []
    # The next engine removes it.
    assert [path.name.startswith("pytest-llem-engine-") for path in temporary.iterdir()] == [True]


@pytest.mark.parametrize(("number", "options"), [(signal.SIGKILL, ()), (signal.SIGINT, ("--llem-isolate",))])
def test_no_rank_outlives_the_session(
    pytester: pytest.Pytester, engine: str, number: int, options: tuple[str, ...]
) -> None:
    pytester.makefile(".llem.yaml", long=LONG)
    command = [sys.executable, "-m", "pytest", "--llem-cpu", "--llem-meter=none", "-p", "no:cacheprovider", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=pytester.path) as session:
        ranks: list[int] = []
        while len(ranks) < 2:
            assert session.poll() is None
            time.sleep(0.2)
            ranks = [pid for pid in descendants(session.pid) if "transformers.rank" in command_of(pid)]
        started = [*descendants(session.pid)]
        os.kill(session.pid, number)
    assert still_running(started) == []


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def still_running(pids: Iterable[int]) -> list[int]:
    """Those that have not ended after a while."""
    left = [*pids]
    until_s = time.monotonic() + 20
    while left and time.monotonic() < until_s:
        time.sleep(0.1)
        left = [pid for pid in left if command_of(pid)]
    return left
