"""How large a page of many saved runs is, how long it takes to write, and how long to open.

    PYTHONPATH=. python benchmarks/history_page.py [SESSIONS] [EXPERIMENTS] [PATH]

The saved runs are made up: five months' drivers and libraries, three boards in turn, levels that move now and then, one
result in fifty invalid. Opening is measured in a headless Chromium where one is installed: from the request to the
first frame after the script has run, the best of three.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.browsing import BROWSER, browsing
from tests.simulators.store import Night, saved

REPETITIONS = 3


def nights(sessions: int, experiments: int) -> list[Night]:
    """Sessions, oldest first."""
    generator = random.Random(0)  # noqa: S311
    names = tuple(f"llama-{number // 5}[batch_size:{2 ** (number % 5)}]" for number in range(experiments))
    levels = dict.fromkeys(names, 1.0)
    found = []
    for number in range(sessions):
        if generator.random() < 10 / sessions:
            factor = generator.choice((0.94, 1.05, 1.08))
            levels |= {name: levels[name] * factor for name in generator.sample(names, k=max(1, experiments // 4))}
        stage = number * 5 // sessions
        found.append(
            Night(
                number=number,
                experiments=names,
                levels=dict(levels),
                board=f"GPU-{number // 7 % 3}f1e2d3c-aaaa",
                driver=f"5{50 + 10 * (stage // 2)}.54",
                torch=f"2.{13 + stage}.0",
                plugin=f"0.{9 + number * 12 // sessions}.0",
                branch="main" if number % 10 else "feature",
                dirty=number % 37 == 0,
                valid=number % 50 != 7,
                host_j=True,
            )
        )
    return found


def main() -> None:
    sessions, experiments = (int(text) for text in (*sys.argv[1:3], "2000", "20")[:2])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(sys.argv[3] if len(sys.argv) > 3 else Path(folder, "history.html")).resolve()
        store = Path(folder, "store", "Linux-CPython-3.13-64bit")
        store.mkdir(parents=True)
        for night in nights(sessions, experiments):
            (store / night.name).write_text(json.dumps(saved(night), indent=4))
        size = sum(path.stat().st_size for path in store.iterdir())
        print(f"{sessions} sessions of {experiments} experiments: {size / 1e6:.0f} MB saved")
        for gates in ([], ["--llem-fail=energy:2%..5%", "--llem-fail=latency:5%"]):
            began_s, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [f"--llem-history={page}", f"--benchmark-storage=file://{store.parent}", "-q", *gates]
            subprocess.run([sys.executable, "-m", "pytest", *command], check=True, cwd=folder)  # noqa: S603
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(
                f"written{' with verdicts' if gates else ''} in {time.perf_counter() - began_s:.1f} s, "
                f"{used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime:.1f} s of them of the processor, "
                f"{page.stat().st_size / 1e6:.2f} MB, at most {used.ru_maxrss / 1e6:.2f} GB of memory"
            )
        if not BROWSER:
            print("no chromium here: not opened")
            return
        times = []
        for _ in range(REPETITIONS):
            with browsing(page) as shown:
                times.append(
                    shown.evaluate(
                        "new Promise(done => requestAnimationFrame(() => setTimeout(() => "
                        "done([performance.getEntriesByType('navigation')[0].loadEventEnd, performance.now()]), 0)))"
                    )
                )
        loaded_ms, painted_ms = min(times, key=lambda pair: pair[1])
        print(f"loaded in {loaded_ms / 1000:.2f} s, drawn within {painted_ms / 1000:.2f} s")


if __name__ == "__main__":
    main()
