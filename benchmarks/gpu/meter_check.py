"""On a real board: do joules from windows of several lengths agree within what the meter states, and with Zeus?

    python benchmarks/gpu/meter_check.py --out meter_check.json

The work is a matrix product repeated on the first visible GPU, the same each time, so that joules per repetition
should not depend on the window.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.meters import open_meter

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOWS_S = (0.5, 1.0, 4.0, 16.0)
WINDOWS_EACH = {0.5: 10, 1.0: 10, 4.0: 5, 16.0: 3}
SIZE = 8192


def make_work() -> Callable[[int], None]:
    """Work of a known number of equal repetitions, queued on the GPU."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def work(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.mm(a, b)

    return work


def repetitions_a_second(work: Callable[[int], None]) -> float:
    work(200)
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    work(200)
    torch.cuda.synchronize()
    return 200 / (time.perf_counter() - start_s)


def read(name: str, uuid: str, work: Callable[[int], None], rate: float) -> dict[str, Any]:
    """Windows of each length with one meter."""
    results: dict[str, Any] = {}
    with open_meter(name, device="cuda", gpu_uuids=[uuid]) as meter:
        results["idle_power_w"] = getattr(meter.idle_power(), "power_w", None)
        for length_s in WINDOWS_S:
            repetitions = max(1, round(rate * length_s))
            work(repetitions)  # at the temperature and the clocks of this length
            windows = []
            for _ in range(WINDOWS_EACH[length_s]):
                with meter.window(torch.cuda.synchronize) as window:
                    work(repetitions)
                windows.append(window)
            per_repetition = [w.joules / repetitions for w in windows if w.joules is not None]
            half_widths = [w.uncertainty_j / repetitions for w in windows if w.uncertainty_j is not None]
            results[f"{length_s} s"] = {
                "repetitions": repetitions,
                "seconds": [w.seconds for w in windows],
                "joules_per_repetition": per_repetition,
                "half_width_j": half_widths,
                "mean_j": statistics.fmean(per_repetition) if per_repetition else None,
                "spread": statistics.stdev(per_repetition) / statistics.fmean(per_repetition)
                if len(per_repetition) > 1
                else None,
                "valid": [w.valid for w in windows],
                "warnings": sorted({text for w in windows for text in w.warnings}),
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    properties = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{str(properties.uuid).removeprefix('GPU-')}"
    work = make_work()
    rate = repetitions_a_second(work)
    report: dict[str, Any] = {
        "board": properties.name,
        "torch": torch.__version__,
        "nvml": read("nvml", uuid, work, rate),
    }
    if importlib.util.find_spec("zeus") is not None:
        report["zeus"] = read("zeus", uuid, work, rate)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1))
    for name in ("nvml", "zeus"):
        for length, values in report.get(name, {}).items():
            if isinstance(values, dict):
                spread = "-" if values["spread"] is None else f"{values['spread']:.2%}"
                print(f"{name:6} {length:>6}  {values['mean_j']} J a repetition, spread {spread}")


if __name__ == "__main__":
    main()
