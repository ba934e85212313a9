"""On a real board: what joined windows cost the work in them, and what they say of it.

    PYTHONPATH=. python benchmarks/gpu/joined_windows.py --out joined.json [--seconds 110]

Two kinds of work of a known number of equal repetitions: an addition over much memory, which keeps the board busy and
below its power limit, and a chain of thin products, which waits for the host. Stretches of eight windows with the meter
and without it take turns in random order: the slowdown is the mean log ratio of the seconds of a pair, with its 95%
interval (t). The joules a repetition of the joined windows are compared with each other and with those of a settled
window of the whole stretch, which is measured beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.distributions import t_quantile
from pytest_llem.meters import open_meter
from pytest_llem.records.machine import library_versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_llem.meters import Meter

Work = dict[str, "Callable[[int], None]"]

WINDOWS = 8
LENGTHS_S = (0.1, 0.3)


def make_works() -> Work:
    """Work that queues so many equal repetitions on the GPU."""
    import torch

    # Not in place: what a board draws depends on the numbers, too.
    numbers = torch.randn(2**27, device="cuda")
    sums = torch.empty_like(numbers)
    weights = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) / 64
    thin = torch.randn(4, 4096, device="cuda", dtype=torch.bfloat16) / 64
    product = torch.empty_like(thin)

    def memory(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.add(numbers, 1.0, out=sums)

    def launches(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.mm(thin, weights, out=product)

    return {"memory": memory, "launches": launches}


def repetitions_for(
    work: Callable[[int], None], synchronize: Callable[[], None], seconds: float, now_s: Callable[[], float]
) -> int:
    """How many repetitions take so long on a warm board."""
    repetitions, took_s = 1, 0.0
    while took_s < 0.5:
        repetitions *= 2
        start_s = now_s()
        work(repetitions)
        synchronize()
        took_s = now_s() - start_s
    return max(1, round(repetitions * seconds / took_s))


def plain(
    now_s: Callable[[], float], work: Callable[[int], None], repetitions: int, synchronize: Callable[[], None]
) -> list[float]:
    """Seconds of windows back to back, without a meter."""
    seconds = []
    for _ in range(WINDOWS):
        synchronize()
        start_s = now_s()
        work(repetitions)
        synchronize()
        seconds.append(now_s() - start_s)
    return seconds


def joined(
    meter: Meter, work: Callable[[int], None], repetitions: int, synchronize: Callable[[], None]
) -> dict[str, Any]:
    """The same windows, joined."""
    began_s = meter.clock.now_s()
    with meter.joined_windows(synchronize) as stretch:
        windows = []
        for _ in range(WINDOWS):
            with stretch.window() as window:
                work(repetitions)
            windows.append(window)
    return {
        "seconds": [window.seconds for window in windows],
        "joules": [window.joules for window in windows],
        "uncertainty_j": [window.uncertainty_j for window in windows],
        "total_j": stretch.total.joules,
        "total_uncertainty_j": stretch.total.uncertainty_j,
        "total_s": stretch.total.seconds,
        "took_s": meter.clock.now_s() - began_s,
        "valid": stretch.total.valid,
        "reason": stretch.total.reason,
    }


def settled(
    meter: Meter, work: Callable[[int], None], repetitions: int, synchronize: Callable[[], None]
) -> dict[str, Any]:
    """One settled window as long as all of them."""
    with meter.window(synchronize) as window:
        for _ in range(WINDOWS):
            work(repetitions)
            synchronize()
    return {"seconds": window.seconds, "joules": window.joules, "uncertainty_j": window.uncertainty_j}


def measure(meter: Meter, works: Work, synchronize: Callable[[], None], seconds: float) -> dict[str, Any]:
    """Stretches of each kind and length in turns, for so many seconds."""
    now_s, sleep = meter.clock.now_s, meter.clock.sleep
    until_s = now_s() + seconds
    shuffle = random.Random(0).shuffle  # noqa: S311
    plans = [(name, length_s) for length_s in LENGTHS_S for name in works]
    counts = {(name, length_s): repetitions_for(works[name], synchronize, length_s, now_s) for name, length_s in plans}
    found: dict[str, Any] = {
        f"{name} {length_s:g} s": {"repetitions": counts[name, length_s], "pairs": []} for name, length_s in plans
    }
    turn = 0
    while True:
        name, length_s = plans[turn % len(plans)]
        turn += 1
        if now_s() + 3.5 * WINDOWS * length_s + 1.0 > until_s:
            return found
        work, repetitions = works[name], counts[name, length_s]
        kinds: list[tuple[str, Callable[[], Any]]] = [
            ("plain_s", partial(plain, now_s, work, repetitions, synchronize)),
            ("joined", partial(joined, meter, work, repetitions, synchronize)),
            ("settled", partial(settled, meter, work, repetitions, synchronize)),
        ]
        shuffle(kinds)
        pair = {}
        for kind, run in kinds:
            sleep(0.3)  # each from a board at rest
            pair[kind] = run()
        found[f"{name} {length_s:g} s"]["pairs"].append(pair)


def lines(found: dict[str, Any]) -> list[str]:
    """What to read. The first window of a stretch, which begins on a board at rest, is left out."""
    texts = []
    for name, one in found.items():
        pairs = [pair for pair in one["pairs"] if pair["joined"]["total_j"] and pair["settled"]["joules"]]
        if len(pairs) < 2:
            texts.append(f"{name}: too few pairs")
            continue
        logs, sums, spreads, stated, shares = [], [], [], [], []
        for pair in pairs:
            stretch, joules = pair["joined"], pair["joined"]["joules"][1:]
            logs.append(math.log(statistics.fmean(stretch["seconds"][1:]) / statistics.fmean(pair["plain_s"][1:])))
            sums.append(stretch["total_j"] / pair["settled"]["joules"] - 1.0)
            spreads.append(statistics.stdev(joules) / statistics.fmean(joules))
            stated.append(statistics.fmean(stretch["uncertainty_j"][1:]) / statistics.fmean(joules))
            shares.append(stretch["total_s"] / stretch["took_s"])
        half_width = t_quantile(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
        texts.append(
            f"{name}: {len(pairs)} pairs, slowdown {statistics.fmean(logs):+.3%} +- {half_width:.3%}; windows differ "
            f"by {statistics.fmean(spreads):.2%} (stated +- {statistics.fmean(stated):.2%}), their sum from a settled "
            f"window by {statistics.fmean(sums):+.2%}; {statistics.fmean(shares):.0%} of the time is measured"
        )
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as joined.json")
    parser.add_argument("--seconds", type=float, default=110.0, help="how long it may take, from the imports on")
    options = parser.parse_args()
    until_s = time.perf_counter() + options.seconds
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no usable GPU: see nvidia-smi")
    properties = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{str(properties.uuid).removeprefix('GPU-')}"
    report: dict[str, Any] = {"board": properties.name, "uuid": uuid, "libraries": library_versions()}
    works = make_works()
    with open_meter("nvml", device="cuda", gpu_uuids=[uuid]) as meter:
        if meter.joins is not None:
            raise SystemExit(meter.joins)
        meter.check_quiet()
        meter.idle_power()
        left_s = until_s - time.perf_counter()
        report["stretches"] = measure(meter, works, torch.cuda.synchronize, left_s)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(*lines(report["stretches"]), sep="\n")


if __name__ == "__main__":
    main()
