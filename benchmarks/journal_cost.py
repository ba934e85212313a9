"""What the journal costs an experiment: the time from a result that counts to its line on the disk.

    python benchmarks/journal_cost.py [FOLDER]

FOLDER is where the journal is written (default: the current folder): the cost is mostly that of ``fsync``, so it
depends on the disk. The results are made up.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from pytest_llem.measurement.result import ExperimentResult, Round
from pytest_llem.records.record import BenchmarkLabels, Record
from pytest_llem.session.journal import Journal

EXPERIMENTS = 200
BOUND_S = 5e-3


def made_up(nodeid: str, rounds: int) -> Record:
    """A result as a board gives it."""
    board = {"GPU-0f1e2d3c-0000-0000-0000-000000000000": 1.98e9}
    windows = [
        Round(
            seconds=1.0 + number / 997,
            joules=300.0 + number / 997,
            uncertainty_j=0.5,
            output_tokens=1024,
            start_s=number * 1.1,
            sm_clock_hz=board,
            power_limit_w=board,
        )
        for number in range(rounds)
    ]
    result = ExperimentResult(
        energy_j=75.0,
        energy_uncertainty_j=0.1,
        latency_s=0.25,
        meter="nvml",
        estimated=False,
        rounds=rounds,
        calls_per_round=4,
        per_round=windows,
        warnings=["a warning of a usual length, which says what was not measured and why"] * 3,
    )
    return Record(
        nodeid,
        nodeid,
        "a.llem.yaml",
        result,
        workload_hash="0" * 16,
        environment={"cpu": "made up"},
        config={f"field_{n}": n for n in range(60)},
        labels=BenchmarkLabels(nodeid, nodeid, params={"pytorch.batch_size": 4}),
    )


def main() -> None:
    """Print the median and the longest cost."""
    where = sys.argv[1] if len(sys.argv) > 1 else "."
    for rounds in (10, 100):
        results = [made_up(f"a.llem.yaml::{number}", rounds) for number in range(EXPERIMENTS)]
        with tempfile.TemporaryDirectory(dir=where) as folder:
            path = Path(folder, "journal.jsonl")
            journal = Journal(path, {one.nodeid: "0" * 16 for one in results}, say=print, say_now=print)
            costs_s = []
            for one in results:
                begun_s = time.perf_counter()
                journal.append(one)
                costs_s.append(time.perf_counter() - begun_s)
            journal.close()
            size_bytes = path.stat().st_size / EXPERIMENTS
        median_s, longest_s = statistics.median(costs_s), max(costs_s)
        verdict = "under" if median_s < BOUND_S else "NOT under"
        print(
            f"{rounds} rounds: median {median_s * 1e3:.2f} ms, longest {longest_s * 1e3:.2f} ms, "
            f"{size_bytes / 1e3:.1f} kB a line: {verdict} {BOUND_S * 1e3:g} ms an experiment"
        )


if __name__ == "__main__":
    main()
