"""How large a report of many experiments is, how long it takes to write, and how long to open.

    python benchmarks/report_size.py [EXPERIMENTS] [PATH]

The results are made up, with 20 saved runs each, power samples, phases, the host's joules and every plot. The time to
open is measured in a headless Chromium where one is installed: a new browser that loads the page, lays it out and ends,
less one that does so with an empty page; the best of three.
"""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pytest_llem.measurement.result import ExperimentResult, Round
from pytest_llem.meters.base import PowerCurve
from pytest_llem.records.record import Record
from pytest_llem.report.data import Report, build_report
from pytest_llem.report.html import write_html
from pytest_llem.verdict.history import SavedRow
from pytest_llem.verdict.judging import Candidate, ErrorRates, judge_candidates
from pytest_llem.verdict.limits import parse_limit

SAVED_RUNS, ROUNDS, CALLS, SWEEP = 20, 10, 4, 10
SAMPLES = 60  # of a window's power, as many as a result of ten windows keeps
REPETITIONS = 3
ENVIRONMENT = {
    "boards": [{"uuid": "GPU-0f1e2d3c", "name": "NVIDIA H100", "driver_version": "550.54", "power_limit_w": 700.0}],
    "libraries": {"torch": "2.13.0", "transformers": "5.23.0"},
    "meter": "nvml",
}


def windows(generator: random.Random, latency_s: float, energy_j: float, start_s: float = 0.0) -> list[Round]:
    """The rounds of one run: runs differ by 0.7%, rounds by 1%."""
    level = generator.gauss(1, 0.007)
    rounds = []
    for _ in range(ROUNDS):
        seconds = CALLS * latency_s * generator.gauss(level, 0.003)
        joules = CALLS * energy_j * generator.gauss(level, 0.01)
        rounds.append(
            Round(seconds=seconds, joules=joules, uncertainty_j=0.005 * joules, output_tokens=256, start_s=start_s)
        )
        start_s += seconds + 0.2
    return rounds


def sampled(window: Round, generator: random.Random) -> Round:
    """The window with samples of its power about the mean, and where its calls began."""
    mean_w = (window.joules or 0) / window.seconds
    times_s = [round((at / SAMPLES * 1.5 - 0.25) * window.seconds, 3) for at in range(SAMPLES)]
    powers_w = [round(mean_w * generator.gauss(1, 0.05), 1) for _ in times_s]
    calls_s = [window.seconds * call / CALLS for call in range(CALLS)]
    return replace(window, power_curves={"GPU-0f1e2d3c": PowerCurve(times_s, powers_w)}, calls_s=calls_s)


def result_of(
    generator: random.Random, rounds: list[Round], prefill: list[Round], output_tokens: float
) -> ExperimentResult:
    """Only what the report reads."""
    calls = CALLS * len(rounds)
    seconds, joules = (
        math.fsum(values) for values in zip(*((one.seconds, one.joules or 0) for one in rounds), strict=True)
    )
    return ExperimentResult(
        input_tokens=512.0,
        output_tokens=output_tokens,
        energy_j=joules / calls,
        energy_uncertainty_j=0.01 * joules / calls,
        energy_per_output_token_j=joules / calls / output_tokens,
        latency_s=seconds / calls,
        time_to_first_token_s=0.1 * seconds / calls,
        time_per_output_token_s=0.9 * seconds / calls / 64,
        energy_host_j=0.4 * joules / calls,
        energy_host_uncertainty_j=0.01 * joules / calls,
        energy_total_j=1.4 * joules / calls,
        energy_total_uncertainty_j=0.015 * joules / calls,
        prefill_energy_j=0.15 * joules / calls,
        prefill_energy_uncertainty_j=0.01 * joules / calls,
        prefill_latency_s=0.1 * seconds / calls,
        decode_energy_j=0.85 * joules / calls,
        decode_energy_uncertainty_j=0.014 * joules / calls,
        decode_latency_s=0.9 * seconds / calls,
        phases_by="power samples",
        output_tokens_per_s=output_tokens * calls / seconds,
        mean_power_w=joules / seconds,
        idle_power_w=0.3 * joules / seconds,
        idle_power_uncertainty_w=0.5,
        idle_share=0.3,
        peak_memory_bytes=17_000_000_000,
        meter="nvml",
        estimated=False,
        rounds=len(rounds),
        calls_per_round=CALLS,
        per_round=[sampled(window, generator) for window in rounds],
        prefill_rounds=prefill,
        boards={"GPU-0f1e2d3c": joules / calls},
    )


def made_up_report(count: int, seed: int = 0) -> Report:
    """Sweeps of ten batch sizes; one experiment in a hundred got 8% worse, one in fifty changed 8 runs ago."""
    generator = random.Random(seed)  # noqa: S311  (made-up noise)
    experiments, candidates = [], []
    history: dict[tuple[str, str], list[SavedRow]] = {}
    for number in range(count):
        batch = 2 ** (number % SWEEP)
        name = f"llama-{number // SWEEP}[batch_size:{batch}]"
        nodeid = f"benchmarks/llama.llem.yaml::{name}"
        latency_s, energy_j = 0.5 * batch**0.4, 150 * batch**0.55
        worse = 1.08 if number % 100 == 7 else 1.0
        for index in range(SAVED_RUNS):
            level = 1 if number % 50 == 3 and index < SAVED_RUNS - 8 else 0.93 if number % 50 == 3 else 1
            rounds = windows(generator, latency_s, energy_j * level)
            for metric, values in (
                ("energy", [(one.joules or 0) / CALLS for one in rounds]),
                ("latency", [one.seconds / CALLS for one in rounds]),
            ):
                row = SavedRow(nodeid, metric, (tuple(values),), f"w{number}", "e", ENVIRONMENT)
                row = replace(row, commit=f"{index + 17:02x}{number:06x}", when=f"2026-10-{index + 1:02}T02:00:00")
                history.setdefault((nodeid, metric), []).append(row)
        rounds = windows(generator, latency_s, energy_j * worse)
        last = rounds[-1]
        prefill = windows(generator, latency_s / 10, energy_j / 7, (last.start_s or 0) + last.seconds + 1)
        result = result_of(generator, rounds, prefill, 64.0 * batch)
        config = {
            "name": f"llama-{number // SWEEP}",
            "model": "builtin:llama-1b",
            "precision": "bf16",
            "dataset": {"synthetic": {"n": 8, "input_len": 512, "seed": 0}},
            "max_output_tokens": 64,
            "decoder": {"preset": "deterministic", "min_new_tokens": 64},
            "pytorch": {"batch_size": batch, "attn_implementation": "sdpa"},
            "measure": {"rounds": ROUNDS, "warmup_rounds": 2, "min_window_s": 1.0, "phases": True},
        }
        experiments.append(
            Record(
                nodeid=nodeid,
                name=name,
                file="benchmarks/llama.llem.yaml",
                result=result,
                config=config,
                swept={"pytorch.batch_size": batch},
                workload_hash=f"w{number}",
                environment=ENVIRONMENT,
            )
        )
        energies = tuple((one.joules or 0) / CALLS for one in rounds)
        row = SavedRow(nodeid, "energy", (energies,), f"w{number}", "e", ENVIRONMENT)
        candidates.append(Candidate(nodeid, name, "energy", parse_limit("2%..5%"), row))
    judged = judge_candidates(candidates, history, rates=ErrorRates(), last=20)
    machine = {"node": "gpu-runner-1", "python_version": "3.13.1", "llem": {"libraries": ENVIRONMENT["libraries"]}}
    commit = {"id": "5b8c3a1d9e4f7a60c2d1", "branch": "main", "dirty": False}
    return build_report(experiments, judged, history, machine, commit, "2026-10-21 02:00 UTC")


def open_s(browser: str, page: Path) -> float:
    """Seconds that a new headless browser takes to load the page, lay it out, paint it and end."""
    times = []
    for _ in range(REPETITIONS):
        with tempfile.TemporaryDirectory() as profile:
            start_s = time.perf_counter()
            subprocess.run(  # noqa: S603  (the browser found on the path, on a page of our own)
                [
                    browser,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    f"--user-data-dir={profile}",
                    f"--screenshot={profile}/page.png",
                    "--window-size=1280,900",
                    page.as_uri(),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            times.append(time.perf_counter() - start_s)
    return min(times)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        page = Path(sys.argv[2] if len(sys.argv) > 2 else Path(folder, "report.html")).resolve()
        start_s = time.perf_counter()
        report = made_up_report(count)
        made_s = time.perf_counter()
        write_html(report, page)
        print(f"{count} experiments: made up and judged in {made_s - start_s:.1f} s")
        print(f"written in {time.perf_counter() - made_s:.1f} s, {page.stat().st_size / 1e6:.2f} MB")
        browser = shutil.which("chromium")
        if browser is None:
            print("no chromium here: not opened")
            return
        empty = Path(folder, "empty.html")
        empty.write_text("<!doctype html><title>empty</title>")
        nothing_s = open_s(browser, empty)
        print(f"opened in {open_s(browser, page) - nothing_s:.2f} s (an empty page takes {nothing_s:.2f} s)")


if __name__ == "__main__":
    main()
