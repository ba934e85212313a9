"""What a meter costs: the slowdown of ``generate()`` with it on, and its own CPU time inside a window.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/meters/slowdown.py [--pairs N] [--window SECONDS] [--json FILE]

Real time, the built-in tiny model on the CPU, one thread. Each window with a meter is paired with a bare one beside
it, in random order, and the meters take turns. The slowdown is the mean of the pairs' log ratios with its 95%
interval (t); it is given for the time of the body and, since other programs disturb that, for the CPU time of the
thread that generates. A meter's own CPU time is that of the whole process between the edges of a window whose body
sleeps, less that of a bare one.

The boards that ``nvml``, Zeus and CodeCarbon read are simulated in Python beneath NVML, an H200 as recorded, but that a
call costs some tens of microseconds of CPU here, and 2 to 30 ms of waiting there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulated_machine import machine, markdown_table, missing_peers, private_folder, progress, versions

from pytest_llem.config import ExperimentConfig
from pytest_llem.distributions import t_quantile
from pytest_llem.engines import get_engine
from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters import open_meter
from tests.simulators import noisy_board

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_llem.meters import Meter

METERS = ("none", "nvml", "rapl", "estimate", "zeus", "codecarbon")
ON_BOARDS = ("nvml", "zeus", "codecarbon")
ASLEEP_S = 2.0
"""Length of the windows whose bodies sleep: CodeCarbon's thread wakes up every second."""
EXPERIMENT = {
    "model": "builtin:tiny-llama",
    "precision": "fp32",
    "dataset": {"synthetic": {"n": 4, "input_len": 32}},
    "max_input_tokens": 32,
    "max_output_tokens": 32,
    "decoder": {"preset": "deterministic", "min_new_tokens": 32},
    "pytorch": {"batch_size": 4},
}


@dataclass(frozen=True)
class Body:
    """What the body of one window took, in seconds.

    Attributes:
        seconds: by the clock.
        thread_cpu_s: CPU time of the thread that ran it.
        process_cpu_s: CPU time of all threads.
        around_s: what the meter took before and after it.
    """

    seconds: float
    thread_cpu_s: float
    process_cpu_s: float
    around_s: float


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95% interval."""

    mean: float
    half_width: float

    def in_percent(self) -> str:
        return f"{self.mean * 100:+.2f} ± {self.half_width * 100:.2f}"


@dataclass(frozen=True)
class Cost:
    """Cost of one meter.

    Attributes:
        slowdown, cpu_slowdown: relative increase of the body's time, and of its thread's CPU time.
        own_cpu: CPU time of the meter inside a window as a share of the window.
        around_s: median of what a window waits and computes outside its edges, in seconds.
    """

    meter: str
    slowdown: Interval
    cpu_slowdown: Interval
    own_cpu: Interval
    around_s: float


def run_body(meter: Meter | None, body: Callable[[], object]) -> Body:
    entered_s = time.perf_counter()
    with nullcontext() if meter is None else meter.window():
        process_s, thread_s, start_s = time.process_time(), time.thread_time(), time.perf_counter()
        body()
        end_s = time.perf_counter()
        thread_cpu_s, process_cpu_s = time.thread_time() - thread_s, time.process_time() - process_s
    around_s = time.perf_counter() - entered_s - (end_s - start_s)
    return Body(end_s - start_s, thread_cpu_s, process_cpu_s, around_s)


def interval(values: Sequence[float]) -> Interval:
    half_width = t_quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.fmean(values), half_width)


def pairs(
    meters: dict[str, Meter], body: Callable[[], object], count: int, label: str
) -> dict[str, list[tuple[Body, Body]]]:
    """Windows without and with each meter, side by side."""
    shuffle = random.Random(0).shuffle  # noqa: S311
    measured: dict[str, list[tuple[Body, Body]]] = {name: [] for name in meters}
    for number in range(count):
        progress(f"{label}: {number + 1} of {count}")
        turns = list(meters.items())
        shuffle(turns)
        for name, meter in turns:
            order: list[Meter | None] = [None, meter]
            shuffle(order)
            done = {one is None: run_body(one, body) for one in order}
            measured[name].append((done[True], done[False]))
    return measured


def measure(window_s: float, count: int, idle_count: int, missing: Sequence[str]) -> tuple[list[Cost], list[str]]:
    """Costs of the meters that work here, and why the others are left out."""
    left_out = list(missing)
    absent = {text.split()[0] for text in left_out}
    config = ExperimentConfig.model_validate(EXPERIMENT)
    model = get_engine(config.backend).load(config.load_config(Path()), "cpu")
    workload = model.prepare(config, Path())
    with ExitStack() as stack:
        stack.enter_context(machine(noisy_board()))
        meters: dict[str, Meter] = {}
        for name in METERS:
            if name in absent:
                continue
            try:
                device = "cuda" if name in ON_BOARDS else "cpu"
                meters[name] = stack.enter_context(open_meter(name, device=device))
            except MeterUnavailableError as error:
                left_out.append(f"{name} is left out: {error}")
        for meter in meters.values():
            run_body(meter, lambda: workload.run(0))  # what is learned or loaded at first
        # Other programs make a call slower, never faster.
        call_s = min(run_body(None, lambda: workload.run(0)).seconds for _ in range(10))
        calls = max(1, round(window_s / call_s))
        working = pairs(meters, lambda: [workload.run(0) for _ in range(calls)], count, "generate()")
        idle = pairs(meters, lambda: time.sleep(ASLEEP_S), idle_count, "asleep")
    model.close()
    return [_cost(name, working[name], idle[name]) for name in meters], left_out


def _cost(name: str, working: Sequence[tuple[Body, Body]], idle: Sequence[tuple[Body, Body]]) -> Cost:
    def ratio(quantity: Callable[[Body], float]) -> Interval:
        return interval([math.log(quantity(on) / quantity(off)) for off, on in working])

    return Cost(
        meter=name,
        slowdown=ratio(lambda body: body.seconds),
        cpu_slowdown=ratio(lambda body: body.thread_cpu_s),
        own_cpu=interval([(on.process_cpu_s - off.process_cpu_s) / on.seconds for off, on in idle]),
        around_s=statistics.median(on.around_s for _, on in working),
    )


def markdown(costs: Sequence[Cost]) -> str:
    header: list[Any] = [
        "meter",
        "slowdown, %",
        "slowdown in CPU time, %",
        "own CPU time inside a window, % of it",
        "outside the edges, ms a window",
    ]
    rows: list[list[Any]] = [
        [
            cost.meter,
            cost.slowdown.in_percent(),
            cost.cpu_slowdown.in_percent(),
            f"{cost.own_cpu.mean * 100:.3f} ± {cost.own_cpu.half_width * 100:.3f}",
            f"{cost.around_s * 1e3:.1f}",
        ]
        for cost in costs
    ]
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40, help="pairs of windows for each meter (default: 40)")
    parser.add_argument("--idle-pairs", type=int, default=5, help="pairs whose bodies sleep (default: 5)")
    parser.add_argument("--window", type=float, default=1.0, help="length of a window in seconds (default: 1)")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    arguments = parser.parse_args()
    json_path = arguments.json.resolve() if arguments.json else None
    with private_folder():
        costs, left_out = measure(arguments.window, arguments.pairs, arguments.idle_pairs, missing_peers())
    if json_path is not None:
        report = {"versions": versions(), "left_out": left_out, "costs": [asdict(cost) for cost in costs]}
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(costs))
    print(f"\n{arguments.pairs} pairs of windows of {arguments.window:g} s.", *left_out, sep="\n")
    print("Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main()
