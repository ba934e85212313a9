"""On a real board: do joules from windows of several lengths agree within what the meter states, and with Zeus?

    PYTHONPATH=. python benchmarks/gpu/meter_check.py --out meter_check.json

The work is a matrix product repeated on the first visible GPU, the same each time, so that joules per repetition should
not depend on the window. The lengths take turns, so that a board that warms up does so for all of them. What the meter
has found out about the board's counter is written as well.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.errors import LlemError
from pytest_llem.meters import open_meter
from pytest_llem.meters.nvml import NvmlMeter
from pytest_llem.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.meters import Meter, Window

METERS = ("nvml", "zeus")
WINDOWS_EACH = {0.5: 12, 1.0: 12, 4.0: 6, 16.0: 3}
"""How many windows of which length in seconds."""
SIZE = 8192
WARM_UP_S = 20.0


def make_work() -> Callable[[int], None]:
    """Work of a known number of equal repetitions, queued on the GPU."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)

    def work(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.mm(a, b, out=product)

    return work


def repetitions_a_second(work: Callable[[int], None]) -> float:
    """Speed of a warm board: it is the clocks under load that count."""
    started_s = time.perf_counter()
    while True:
        start_s = time.perf_counter()
        work(200)
        torch.cuda.synchronize()
        end_s = time.perf_counter()
        if end_s - started_s > WARM_UP_S:
            return 200 / (end_s - start_s)


def turns() -> list[float]:
    """Lengths of the windows in an order that spreads each over the whole measurement."""
    places = [((n + 0.5) / count, length_s) for length_s, count in WINDOWS_EACH.items() for n in range(count)]
    return [length_s for _, length_s in sorted(places)]


def describe_counters(meter: Meter) -> dict[str, Any]:
    """How the boards' counters behave, as far as the meter has found it out."""
    if not isinstance(meter, NvmlMeter):
        return {}
    return {
        "auto_window_s": meter.auto_window_s,
        "counters": {uuid: None if one is None else asdict(one) for uuid, one in meter.calibrations.items()},
    }


def read(name: str, uuid: str, work: Callable[[int], None], rate: float) -> dict[str, Any]:
    """Windows of each length with one meter.

    Raises:
        LlemError: the meter cannot work here, or the board stopped answering.
    """
    windows: dict[float, list[Window]] = {length_s: [] for length_s in WINDOWS_EACH}
    repetitions = {length_s: max(1, round(rate * length_s)) for length_s in WINDOWS_EACH}
    with open_meter(name, device="cuda", gpu_uuids=[uuid]) as meter:
        report: dict[str, Any] = describe_counters(meter)
        report["idle_power"] = asdict(meter.idle_power())
        report["disturbances"] = [one.text for one in meter.check_quiet()]
        for length_s in turns():
            meter.pause()
            with meter.window(torch.cuda.synchronize) as window:
                work(repetitions[length_s])
            windows[length_s].append(window)
        report["windows"] = [
            {
                "length_s": length_s,
                "repetitions": repetitions[length_s],
                # "per call" of the summary is per repetition here.
                "result": summarise(windows[length_s], calls_per_round=repetitions[length_s], meter=meter).as_dict(),
            }
            for length_s in WINDOWS_EACH
        ]
    return report


def lines(name: str, report: dict[str, Any]) -> list[str]:
    """What to read: joules a repetition by length, and how far they are from those of the longest windows."""
    if "left_out" in report:
        return [f"{name} is left out: {report['left_out']}"]
    *_, longest = (one["result"] for one in report["windows"])
    texts = []
    for one in report["windows"]:
        result = one["result"]
        energy_j, half_width_j = result["energy_j"], result["energy_uncertainty_j"]
        text = f"{name:6} {one['length_s']:5g} s"
        if energy_j is None:
            texts.append(f"{text}  no value: {'; '.join(result['warnings'])}")
            continue
        text += f"  {energy_j:.5g} J a repetition"
        if half_width_j is not None:
            text += f" +- {half_width_j / energy_j:.2%}"
        if longest["energy_j"] is not None:
            text += f", {energy_j / longest['energy_j'] - 1:+.2%} beside the longest"
        if half_width_j is not None and longest["energy_uncertainty_j"] is not None:
            allowed_j = math.hypot(half_width_j, longest["energy_uncertainty_j"])
            text += ": agrees" if abs(energy_j - longest["energy_j"]) <= allowed_j else ": DISAGREES"
        texts.append(text if result["valid"] else f"{text} (disturbed)")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    properties = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{str(properties.uuid).removeprefix('GPU-')}"
    work = make_work()
    rate = repetitions_a_second(work)
    report: dict[str, Any] = {"board": properties.name, "torch": torch.__version__, "repetitions_per_s": rate}
    for name in METERS:
        try:
            report[name] = read(name, uuid, work, rate)
        except LlemError as error:
            report[name] = {"left_out": str(error)}
        print(*lines(name, report[name]), sep="\n", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
