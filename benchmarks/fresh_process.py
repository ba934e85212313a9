"""From the order of a second isolated process to its first window: forked from a nursery, and started anew.

    PYTHONPATH=. python benchmarks/fresh_process.py [SESSIONS]

Sessions of both ways alternate. Each loads the built-in model three times, in a process each; the first one, which
waits for imports either way, is told apart. The ratio is that of medians, and the range that of neighbouring sessions.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

EXPERIMENT = """\
model: builtin:tiny-llama
precision: fp32
dataset: {synthetic: {n: 4, input_len: 32}}
max_input_tokens: 32
max_output_tokens: 16
decoder: {preset: deterministic, min_new_tokens: 16}
measure: {rounds: 1, warmup_rounds: 0, min_window_s: 0.001}
sweep: {random_seed: [1, 2, 3]}
"""
LOG = "FRESH_PROCESS_LOG"
ANEW = "FRESH_PROCESS_ANEW"


def pytest_configure(config: pytest.Config) -> None:
    """As a plugin of those sessions: note when a child is ordered, and when it opens a window."""
    from pytest_llem.meters.none import NoMeter
    from pytest_llem.session.isolation.children import Children
    from pytest_llem.session.isolation.nursery import Nursery

    if os.environ.get(ANEW):
        Nursery.possible = False
    if config.getoption("llem_child") is None:
        _note_calls(Children, "start", "order")
    else:
        _note_calls(NoMeter, "window", "window")


def _note_calls(owner: Any, name: str, event: str) -> None:
    function = getattr(owner, name)

    def noting(*arguments: Any, **named: Any) -> Any:
        with Path(os.environ[LOG]).open("a") as log:
            # One clock for all processes.
            log.write(f"{event} {time.monotonic()}\n")
        return function(*arguments, **named)

    setattr(owner, name, noting)


def session_s(folder: Path, *, anew: bool) -> list[float]:
    """Seconds from each child's order to its first window."""
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    options = "-q -p benchmarks.fresh_process -p no:cacheprovider --llem-cpu --llem-meter=none --llem-isolate"
    # Threads that wait for one another on a busy machine would be most of the time of so small a model.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", LOG: str(log), ANEW: "1" if anew else ""}
    subprocess.run(  # noqa: S603  (this interpreter, without a shell)
        [sys.executable, "-m", "pytest", *options.split(), str(folder)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    times_s: list[float] = []
    ordered_s: float | None = None
    for line in log.read_text().splitlines():
        event, at_s = line.split()
        if event == "order":
            ordered_s = float(at_s)
        elif ordered_s is not None:
            times_s.append(float(at_s) - ordered_s)
            ordered_s = None
    return times_s


def main() -> None:
    sessions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    anew, forked = [], []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "loads.llem.yaml").write_text(EXPERIMENT)
        for _ in range(sessions):
            anew.append(session_s(Path(folder), anew=True))
            forked.append(session_s(Path(folder), anew=False))
    for name, number in (("first", slice(0, 1)), ("second and third", slice(1, 3))):
        pairs = [
            (statistics.mean(one[number]), statistics.mean(other[number]))
            for one, other in zip(anew, forked, strict=True)
        ]
        anew_s, forked_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(after_s / before_s for before_s, after_s in pairs)
        print(
            f"{name} process: {anew_s:.2f} s started anew, {forked_s:.2f} s forked: {forked_s / anew_s:.0%} "
            f"({ratios[0]:.0%} to {ratios[-1]:.0%})"
        )


if __name__ == "__main__":
    main()
