"""On a real board: are joules a repetition of one kernel the same from windows of every length, within what is stated?

    PYTHONPATH=. python benchmarks/gpu/linearity.py --out linearity.json [--seconds 95]

The work is an addition over much memory, repeated on the first visible GPU, the same each time, so that joules a
repetition should not depend on the window. It must leave the board below its power limit (an H200 draws 470 W of 700 W
with it): matrix products drew 900 W for a tenth of a second, then 700 W at lower clocks, and are other work in a short
window than in a long one. The lengths take turns, and this project's meter and Zeus with them, so that a board that
warms up does so for all of them. What the meter has found out about the board's counter is written as well.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LlemError
from pytest_llem.measurement.summary import summarise
from pytest_llem.meters import open_meter
from pytest_llem.meters.nvidia.meter import NvmlMeter
from pytest_llem.records.machine import library_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_llem.meters import Meter, Window

METERS = ("nvml", "zeus")
WINDOWS_EACH = {0.2: 8, 0.5: 6, 1.0: 4, 2.0: 3, 4.0: 3}
"""How many windows of which length in seconds, with each meter."""
ELEMENTS = 2**27
"""Of four bytes: several times what a cache holds."""
WARM_UP_S = 3.0
IDLE_LIMIT_S = 5.0
WAIT_S = 1.5
"""Most that a meter waits around a window, in seconds: a window that would end too late with it is not begun."""


def make_work() -> Callable[[int], None]:
    """Work of a known number of equal repetitions, queued on the GPU."""
    import torch

    # Not in place: what a board draws depends on the numbers, too.
    numbers = torch.randn(ELEMENTS, device="cuda")
    sums = torch.empty_like(numbers)

    def work(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.add(numbers, 1.0, out=sums)

    return work


def repetitions_a_second(work: Callable[[int], None], synchronize: Callable[[], None]) -> float:
    """Speed of a warm board: it is the clocks under load that count."""
    started_s = time.perf_counter()
    while True:
        start_s = time.perf_counter()
        work(200)
        synchronize()
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


def measure(
    meters: Mapping[str, Meter],
    work: Callable[[int], None],
    synchronize: Callable[[], None],
    rate: float,
    now_s: Callable[[], float],
    until_s: float,
) -> dict[str, dict[str, Any]]:
    """Windows of each length with each meter, in turns.

    Args:
        meters: open ones, by name.
        work: queues that many repetitions.
        synchronize: waits until they are done.
        rate: repetitions a second.
        now_s: the clock, in seconds.
        until_s: no window is begun that would end after this.

    Returns:
        What each meter read; ``stopped`` where it failed before all turns were taken, or time ran out.
    """
    reports = {name: describe_counters(meter) for name, meter in meters.items()}
    windows: dict[str, dict[float, list[Window]]] = {name: {} for name in meters}
    repetitions = {length_s: max(1, round(rate * length_s)) for length_s in WINDOWS_EACH}
    for name, meter in meters.items():
        reports[name]["idle_power"] = asdict(meter.idle_power(IDLE_LIMIT_S))
        reports[name]["disturbances"] = [one.text for one in meter.check_quiet()]
    for length_s in turns():
        for name, meter in meters.items():
            if "stopped" in reports[name]:
                continue
            if now_s() + length_s + WAIT_S > until_s:
                reports[name]["stopped"] = "time ran out"
                continue
            try:
                # All of them: one that waits for no sensor would start in step with the one before it.
                for one in meters.values():
                    one.pause()
                with meter.window(synchronize) as window:
                    work(repetitions[length_s])
            except LlemError as error:
                reports[name]["stopped"] = str(error)
                continue
            windows[name].setdefault(length_s, []).append(window)
    for name, meter in meters.items():
        reports[name]["windows"] = [
            {
                "length_s": length_s,
                "repetitions": repetitions[length_s],
                # "per call" of the summary is per repetition here.
                "result": summarise(found, calls_per_round=repetitions[length_s], meter=meter).as_dict(),
            }
            for length_s, found in sorted(windows[name].items())
        ]
    return reports


def lines(name: str, report: Mapping[str, Any]) -> list[str]:
    """What to read: joules a repetition by length, and how far they are from those of the longest windows."""
    if "left_out" in report:
        return [f"{name} is left out: {report['left_out']}"]
    texts = []
    longest = report["windows"][-1]["result"] if report["windows"] else {}
    for one in report["windows"]:
        result = one["result"]
        energy_j, half_width_j = result["energy_j"], result["energy_uncertainty_j"]
        text = f"{name:6} {one['length_s']:5g} s x{result['rounds']}"
        if energy_j is None:
            texts.append(f"{text}  no value: {'; '.join(result['warnings'])}")
            continue
        text += f"  {energy_j:.5g} J a repetition"
        if half_width_j is not None:
            text += f" +- {half_width_j / energy_j:.2%}"
        if result is not longest and longest["energy_j"] is not None:
            text += f", {energy_j / longest['energy_j'] - 1:+.2%} beside the longest"
            if half_width_j is not None and longest["energy_uncertainty_j"] is not None:
                allowed_j = math.hypot(half_width_j, longest["energy_uncertainty_j"])
                text += ": agrees" if abs(energy_j - longest["energy_j"]) <= allowed_j else ": DISAGREES"
        texts.append(text if result["valid"] else f"{text} (disturbed)")
    if "stopped" in report:
        texts.append(f"{name} stopped early: {report['stopped']}")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as linearity.json")
    parser.add_argument("--seconds", type=float, default=95.0, help="how long it may take, from the imports on")
    options = parser.parse_args()
    until_s = time.perf_counter() + options.seconds
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no usable GPU: see nvidia-smi")
    properties = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{str(properties.uuid).removeprefix('GPU-')}"
    work = make_work()
    rate = repetitions_a_second(work, torch.cuda.synchronize)
    report: dict[str, Any] = {"board": properties.name, "uuid": uuid, "libraries": library_versions()}
    report["repetitions_per_s"] = rate
    with ExitStack() as stack:
        meters: dict[str, Meter] = {}
        for name in METERS:
            try:
                meters[name] = stack.enter_context(open_meter(name, device="cuda", gpu_uuids=[uuid]))
            except LlemError as error:
                report[name] = {"left_out": str(error)}
        report |= measure(meters, work, torch.cuda.synchronize, rate, time.perf_counter, until_s)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in METERS:
        print(*lines(name, report[name]), sep="\n")
    if "left_out" in report["nvml"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
