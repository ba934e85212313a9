"""What ``--llem-ray`` costs the session that divides experiments: its processor time per experiment.

    python benchmarks/ray_overhead.py [EXPERIMENTS]

The experiments (default: 1,000, over 10 loads) run on an engine without a model, on a Ray cluster of this machine, so
that nearly all of the time is spent in other processes. Counted is the time of all threads of the session's process
while its experiments run: Ray's own threads in it, the reports to pytest, and the journal.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOADS = 10
BOUND_S = 20e-3

EXPERIMENT = """\
model: builtin:tiny-llama
dataset: {{synthetic: {{n: 1, input_len: 8}}}}
max_input_tokens: 8
max_output_tokens: 4
measure: {{rounds: 1, warmup_rounds: 0, min_window_s: 0}}
sweep: {{random_seed: [{seeds}], timeout_s: [{points}]}}
"""

CONFTEST = """
import time
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session):
    if session.config.getoption("llem_child") is not None:
        return (yield)
    wall_s, processor_s = time.perf_counter(), time.process_time()
    count = len(session.items)
    done = yield
    print(f"\\nFIGURES {count} {time.process_time() - processor_s} {time.perf_counter() - wall_s}")
    return done
"""


def main() -> None:
    """Print the processor time per experiment."""
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    # Time limits, because they make experiments differ and none of them longer.
    points = ", ".join(str(1000 + number) for number in range(experiments // LOADS))
    text = EXPERIMENT.format(seeds=", ".join(map(str, range(LOADS))), points=points)
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "many.llem.yaml").write_text(text, encoding="utf-8")
        Path(folder, "conftest.py").write_text(CONFTEST, encoding="utf-8")
        arguments = ["--llem-cpu", "--llem-meter=none", "--llem-ray", "-p", "tests.simulators.engine", "-q", "-s"]
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "pytest", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root), "FAKE_CALL_S": "0.0001"},
            capture_output=True,
            text=True,
            check=False,
        )
    figures = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FIGURES")]
    if done.returncode or not figures:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    count, processor_s, wall_s = map(float, figures[0])
    each_s = processor_s / count
    print(
        f"{count:g} experiments, {LOADS} loads: {1e3 * each_s:.2f} ms of the session's processor time each "
        f"({'under' if each_s < BOUND_S else 'NOT under'} {1e3 * BOUND_S:g} ms), {wall_s:.0f} s in all"
    )


if __name__ == "__main__":
    main()
