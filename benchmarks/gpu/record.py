"""Record what a board's sensors show around work of known repetitions, as fast as they can be read.

    python benchmarks/gpu/record.py --out recording.json.gz [--seconds 60]

The first visible GPU is given three kinds of work, each repetition of which costs the same, in pieces between stretches
of idleness, while another process reads the board's sensors. The file is JSON, gzipped where its name ends with .gz.
All times are in seconds on one monotonic clock that starts with the recording:

``counter``             each change of the energy counter: start of the last read that saw the old value, start and end
                        of the first that saw the new one, and the value in millijoules
``power_samples``       the driver's own samples of the board's power, in watts, with their dates
``sample_seen_late_s``  for each of these, how long after its date it was first seen: too long by up to the time between
                        two looks, as samples are asked for after every third read of the counter only
``work``                pieces of work with their repetitions, from one synchronisation of the device to the next
``read_cost_s``         how long every fiftieth read of the counter took; ``reads``: how many there were

Needs torch with CUDA and ``pynvml`` (nvidia-ml-py) only. The reading is done by this same file, as ``--poll UUID``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Work = Callable[[int], None]
"""Does that many equal repetitions; the device is at rest when it returns."""

IDLE = "idle"
SECONDS_LEFT_IDLE = 2.0
CALIBRATION_S = 0.25
SHORTEST_S, LONGEST_S = 0.06, 0.9
SHORTEST_IDLE_S, LONGEST_IDLE_S = 0.4, 0.8

READ_GAP_S = 0.0003
READS_A_LOOK = 3
READS_A_COST = 50


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        name: which work, or ``idle``.
        seconds: how long it should take, in seconds.
        idle_before_s: stretch of idleness before it, in seconds.
    """

    name: str
    seconds: float
    idle_before_s: float


def plan(seconds: float, names: Sequence[str] = ("memory", "matmul", "decode")) -> list[Piece]:
    """Pieces that fill a recording of that many seconds: many lengths, one repeated, one long of each kind of work."""
    start = [Piece(IDLE, 3.0, 1.0)]
    end = [Piece(names[0], 0.2, 1.0 if number == 0 else 0.2) for number in range(12)]
    end += [Piece(name, 5.0, 1.5) for name in names]
    left_s = seconds - SECONDS_LEFT_IDLE - sum(piece.seconds + piece.idle_before_s for piece in start + end)
    mean_s = (SHORTEST_S + LONGEST_S + SHORTEST_IDLE_S + LONGEST_IDLE_S) / 2
    each = max(0, int(left_s / mean_s / len(names)))
    # Lengths spread evenly, in a random order: neither they nor the kinds may go with the board's temperature.
    choose = random.Random(0)  # noqa: S311
    lengths_s = [SHORTEST_S + (LONGEST_S - SHORTEST_S) * (number + 0.5) / each for number in range(each)]
    middle = [
        Piece(name, length_s, choose.uniform(SHORTEST_IDLE_S, LONGEST_IDLE_S))
        for name in names
        for length_s in lengths_s
    ]
    choose.shuffle(middle)
    return start + middle + end


def record(pieces: Sequence[Piece], works: Mapping[str, Work], uuid: str, torch_version: str) -> dict[str, Any]:
    """Do the work while another process reads the board's sensors.

    Args:
        pieces: what to do, in this order.
        works: by the names of the pieces.
        uuid: of the board, as NVML spells it.
        torch_version: of the torch that works.

    Raises:
        SystemExit: the sensors cannot be read; the reading process has written why.
    """
    rates = {name: repetitions_per_s(work) for name, work in works.items()}
    zero_s = time.monotonic()
    command = [sys.executable, __file__, "--poll", uuid]
    # A process of its own: in a thread it would read only when Python's lock is free. Not a fork, which CUDA forbids.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as poller:  # noqa: S603
        assert poller.stdin is not None
        assert poller.stdout is not None
        if not poller.stdout.readline():
            raise SystemExit(f"the sensors of {uuid} cannot be read: see above")
        done = [do(piece, works, rates) for piece in pieces]
        time.sleep(SECONDS_LEFT_IDLE)
        poller.stdin.close()
        answer = poller.stdout.read()
    if poller.returncode:
        raise SystemExit(f"the sensors of {uuid} could not be read to the end: see above")
    seen = json.loads(answer)

    def since(times: Sequence[float | None]) -> list[float | None]:
        return [None if one is None else round(one - zero_s, 6) for one in times]

    return {
        "description": f"{seen['board']}, kernels of known number of repetitions between idle stretches, device "
        "synchronised at both ends of each piece of work; another process polled NVML",
        "board": seen["board"],
        "driver": seen["driver"],
        "torch": torch_version,
        "clock": "seconds since the start of the recording; one monotonic clock for reads, work and samples",
        "counter": {
            "columns": ["last_stale_read_start_s", "read_start_s", "read_end_s", "energy_mj"],
            "rows": [[*since(times), energy_mj] for *times, energy_mj in seen["changes"]],
        },
        "power_samples": {
            "columns": ["time_s", "power_w"],
            "rows": [[*since([date_s]), power_w] for date_s, power_w, _ in seen["samples"]],
        },
        "work": {
            "columns": ["name", "repetitions", "start_s", "end_s"],
            "rows": [[name, repetitions, *since(times)] for name, repetitions, *times in done],
        },
        "read_cost_s": [round(cost_s, 6) for cost_s in seen["costs_s"]],
        "reads": seen["reads"],
        "sample_seen_late_s": [round(seen_s - date_s, 6) for date_s, _, seen_s in seen["samples"]],
    }


def do(piece: Piece, works: Mapping[str, Work], rates: Mapping[str, float]) -> tuple[str, int, float, float]:
    """Do a piece of work: its name, its repetitions, start and end in seconds of the monotonic clock."""
    time.sleep(piece.idle_before_s)
    if piece.name == IDLE:
        start_s = time.monotonic()
        time.sleep(piece.seconds)
        return IDLE, 0, start_s, time.monotonic()
    repetitions = max(1, round(rates[piece.name] * piece.seconds))
    start_s = time.monotonic()
    works[piece.name](repetitions)
    return piece.name, repetitions, start_s, time.monotonic()


def repetitions_per_s(work: Work) -> float:
    """How fast a kind of work goes, from a piece of at least a quarter of a second."""
    work(1)  # the first may load libraries
    repetitions = 1
    while True:
        start_s = time.monotonic()
        work(repetitions)
        seconds = time.monotonic() - start_s
        if seconds >= CALIBRATION_S:
            return repetitions / seconds
        repetitions *= 2


def poll(uuid: str) -> None:
    """Read a board's sensors until the standard input ends; then write what was seen to the standard output, as JSON.

    A line is written before, once reading has begun. Times are those of the monotonic clock, which all processes of a
    machine share on Linux.
    """
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    # Samples that lie in the driver's buffer already were first seen by nobody.
    newest_us = max((date_us for date_us, _ in samples_since(handle, 0)), default=0)
    changes: list[tuple[float | None, float, float, int]] = []
    samples: list[tuple[float, float, float]] = []
    costs_s: list[float] = []
    value_mj = last_start_s = None
    reads = 0
    print("reading", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        start_s = time.monotonic()
        energy_mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        end_s = time.monotonic()
        if energy_mj != value_mj:
            changes.append((last_start_s, start_s, end_s, energy_mj))
            value_mj = energy_mj
        last_start_s = start_s
        if reads % READS_A_COST == 0:
            costs_s.append(end_s - start_s)
        reads += 1
        if reads % READS_A_LOOK == 0:
            found = samples_since(handle, newest_us)
            seen_s = time.monotonic()
            ahead_s = wall_ahead_s()
            samples += [(date_us / 1e6 - ahead_s, power_mw / 1e3, seen_s) for date_us, power_mw in found]
            newest_us = max([newest_us, *(date_us for date_us, _ in found)])
        time.sleep(READ_GAP_S)
    seen = {
        "board": pynvml.nvmlDeviceGetName(handle),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "changes": changes,
        "samples": samples,
        "costs_s": costs_s,
        "reads": reads,
    }
    print(json.dumps(seen), flush=True)


def samples_since(handle: Any, newest_us: int) -> list[tuple[int, int]]:
    """The driver's power samples after a date: theirs in microseconds of the wall clock, and milliwatts."""
    import pynvml

    try:
        _, found = pynvml.nvmlDeviceGetSamples(handle, pynvml.NVML_TOTAL_POWER_SAMPLES, newest_us)
    except (pynvml.NVMLError_NotFound, pynvml.NVMLError_NotSupported):
        return []  # none since then, or this board keeps none
    return sorted((one.timeStamp, one.sampleValue.uiVal) for one in found if one.timeStamp > newest_us)


def wall_ahead_s() -> float:
    """How far the wall clock is ahead of the monotonic one, in seconds: the closest of three looks."""
    looks = []
    for _ in range(3):
        before_s = time.monotonic()
        wall_s = time.time()
        after_s = time.monotonic()
        looks.append((after_s - before_s, wall_s - (before_s + after_s) / 2))
    return min(looks)[1]


def cuda_works() -> dict[str, Work]:
    """What the first visible GPU is given to do: bound by its memory, by arithmetic, and by launches."""
    import torch

    def repeated(step: Callable[[], None]) -> Work:
        def work(repetitions: int) -> None:
            for _ in range(repetitions):
                step()
            torch.cuda.synchronize()

        return work

    def random_bf16(*shape: int) -> torch.Tensor:
        # Scaled so that chains of products stay finite: energy depends on the numbers, too.
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) / 64

    numbers = torch.randn(2**27, device="cuda")  # 512 MB
    a, b, product = (random_bf16(4096, 4096) for _ in range(3))
    weights = [random_bf16(4096, 4096) for _ in range(8)]
    thin = [random_bf16(4, 4096) for _ in range(33)]

    def memory() -> None:
        numbers.add_(1.0)

    def matmul() -> None:
        torch.mm(a, b, out=product)

    def decode() -> None:
        for number in range(32):
            torch.mm(thin[number], weights[number % 8], out=thin[number + 1])

    return {"memory": repeated(memory), "matmul": repeated(matmul), "decode": repeated(decode)}


def write(recording: Mapping[str, Any], path: Path) -> None:
    """Write a recording, gzipped where the name says so."""
    data = json.dumps(recording).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as recording.json.gz")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the recording; 31 at least")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no usable GPU: see nvidia-smi")
    uuid = f"GPU-{str(torch.cuda.get_device_properties(0).uuid).removeprefix('GPU-')}"
    recording = record(plan(options.seconds), cuda_works(), uuid, torch.__version__)
    write(recording, options.out)
    late_ms = [f"{1e3 * late_s:.3g}" for late_s in sorted(recording["sample_seen_late_s"])] or ["?"]
    print(
        f"{recording['board']}: {recording['reads']} reads, {len(recording['counter']['rows'])} changes of the "
        f"counter, {len(recording['power_samples']['rows'])} power samples, seen {late_ms[0]} ms after their date at "
        f"best, {late_ms[len(late_ms) // 2]} in the middle, {late_ms[-1]} at worst"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--poll"]:
        poll(sys.argv[2])
    else:
        main()
