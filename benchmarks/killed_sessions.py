"""Kill a session of twelve experiments at a random moment, take it up again, and compare: ten times over.

    python benchmarks/killed_sessions.py [TIMES] [SEED]

After each kill (SIGKILL), every result that the journal held must be among the twelve that the resumed session saves,
unchanged. The experiments are sleeps, so nothing but this package is needed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENTS = 12
TESTS = f"""
import time

import pytest

@pytest.mark.parametrize("number", range({EXPERIMENTS}))
def test_sleep(llem_benchmark, number):
    llem_benchmark.pedantic(time.sleep, (0.002,), rounds=5, warmup_rounds=1, min_window_s=0.02)
"""
COMMAND = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--llem-cpu", "--benchmark-json=out.json")


def kill_and_resume(folder: Path, after_s: float) -> int:
    """One killed session and the one that takes it up.

    Args:
        after_s: when it is killed, in seconds; longer than it takes lets it end.

    Returns:
        How many results were finished when it was killed.
    """
    (folder / "test_twelve.py").write_text(TESTS)
    killed = subprocess.Popen(COMMAND, cwd=folder, stdout=subprocess.DEVNULL)  # noqa: S603
    time.sleep(after_s)
    killed.kill()
    killed.wait()
    journal = folder / ".benchmarks" / "llem-journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    finished = {line["nodeid"]: line["result"] for line in map(json.loads, lines)}
    command = [*COMMAND, "--llem-resume"]
    resumed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    assert resumed.returncode == 0, resumed.stdout
    rows = json.loads((folder / "out.json").read_text())["benchmarks"]
    saved = {row["extra_info"]["nodeid"]: row["extra_info"]["result"] for row in rows}
    assert len(saved) == EXPERIMENTS, f"{len(saved)} of {EXPERIMENTS} saved"
    lost = [nodeid for nodeid, result in finished.items() if saved[nodeid] != result]
    assert not lost, f"lost: {lost}"
    return len(finished)


def main() -> None:
    """Print one line a kill; end with an error at the first result that is lost."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)  # noqa: S311
    moment = random.Random(seed)  # noqa: S311
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        begun_s = time.perf_counter()
        kill_and_resume(Path(folder), 0.0)
        whole_s = time.perf_counter() - begun_s
    for number in range(1, times + 1):
        with tempfile.TemporaryDirectory() as folder:
            after_s = moment.uniform(0.0, 1.1 * whole_s)
            finished = kill_and_resume(Path(folder), after_s)
        print(f"{number}: killed after {after_s:.2f} s with {finished} finished; resumed: all {EXPERIMENTS}, none lost")


if __name__ == "__main__":
    main()
