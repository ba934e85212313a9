"""How long a sweep takes to collect, beside as many plain parametrized tests.

    python benchmarks/collection_speed.py [POINTS]

Both are collected in processes of their own, in turn, three times; the ratio is of the best times.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """\
model: builtin:tiny-llama
sweep:
  random_seed: [{seeds}]
  pytorch.batch_size: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
"""
PLAIN = """\
import pytest

@pytest.mark.parametrize("batch_size", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
@pytest.mark.parametrize("seed", range({seeds}))
def test_point(seed, batch_size):
    pass
"""
REPETITIONS = 3


def collect_s(folder: Path) -> float:
    """Seconds that ``pytest --collect-only`` takes in ``folder``."""
    start_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start_s


def main() -> None:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seeds = points // 10
    with tempfile.TemporaryDirectory() as folder:
        sweep, plain = Path(folder, "sweep"), Path(folder, "plain")
        sweep.mkdir()
        plain.mkdir()
        (sweep / "sweep.llem.yaml").write_text(SWEEP.format(seeds=", ".join(map(str, range(seeds)))))
        (plain / "test_plain.py").write_text(PLAIN.format(seeds=seeds))
        times = [(collect_s(plain), collect_s(sweep)) for _ in range(REPETITIONS)]
    best_plain_s, best_sweep_s = (min(column) for column in zip(*times, strict=True))
    print(f"{seeds * 10} plain parametrized tests: {best_plain_s:.2f} s")
    print(f"{seeds * 10} points of a sweep: {best_sweep_s:.2f} s")
    print(f"ratio: {best_sweep_s / best_plain_s:.2f}")


if __name__ == "__main__":
    main()
