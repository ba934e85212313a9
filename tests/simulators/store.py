"""What pytest-benchmark would have saved over months, made up: sessions whose experiments move where they are told."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pytest_llem.measurement.result import ExperimentResult, Round
from pytest_llem.records.identity import environment_hash
from pytest_llem.verdict.history import UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS, CALLS, TOKENS = 5, 4, 64
BEGAN = datetime(2026, 1, 1, 2, 0)  # noqa: DTZ001  (as pytest-benchmark writes it)
SPREAD = 0.005


@dataclass(frozen=True)
class Night:
    """What a session is about.

    Attributes:
        number: of the night, from 0.
        levels: factors on energy by the name of an experiment; of others 1.
        saved_verdict: of all rows.
        host_j: whether the host's joules were read, too: three tenths of the board's.
        host_sensor: what read them.
    """

    number: int
    experiments: tuple[str, ...] = ("llama",)
    levels: Mapping[str, float] | None = None
    board: str = "GPU-0f1e2d3c-aaaa"
    driver: str = "550.54"
    torch: str = "2.13.0"
    plugin: str = "0.9.0"
    commit: str | None = None
    branch: str = "main"
    dirty: bool = False
    valid: bool = True
    accepted: bool = False
    saved_verdict: str | None = None
    host_j: bool = False
    host_sensor: str = "rapl"

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.number + 1:04}_nightly.json"


def saved(night: Night, seed: int = 0) -> dict[str, Any]:
    """The content of its file."""
    generator = random.Random(f"{seed} {night.number}")  # noqa: S311
    libraries = {"torch": night.torch, "transformers": "5.23.0"}
    board = {"uuid": night.board, "name": "NVIDIA H100", "driver_version": night.driver, "power_limit_w": 700.0}
    environment = {
        "device": "cuda",
        "boards": [board],
        "cpu": "AMD EPYC 9654",
        "libraries": libraries,
        "meter": "nvml",
    }
    return {
        "machine_info": {
            "node": "gpu-runner-1",
            "system": "Linux",
            "release": "6.8.0",
            "python_version": "3.13.1",
            "llem": {"libraries": {**libraries, "pytest-llem": night.plugin}},
        },
        "commit_info": {
            "id": night.commit or f"{night.number * 2654435761 % 2**32:08x}" * 5,
            "branch": night.branch,
            "dirty": night.dirty,
        },
        "benchmarks": [
            row
            for place, name in enumerate(night.experiments)
            for row in _rows(night, name, _result(night, name, place, generator), environment)
        ],
        "datetime": (BEGAN + timedelta(days=night.number, seconds=night.number % 60)).isoformat(),
        "version": "5.3.1",
    }


def _result(night: Night, name: str, place: int, generator: random.Random) -> ExperimentResult:
    level = (night.levels or {}).get(name, 1.0) * (1 + 0.1 * place)
    run, energy_j, latency_s = generator.gauss(1, SPREAD), 100.0 * level, 0.5 * (1 + 0.1 * place)
    rounds = [
        Round(
            seconds=CALLS * latency_s * generator.gauss(run, 0.002),
            joules=CALLS * energy_j * generator.gauss(run, 0.004),
            uncertainty_j=1.0,
            host_j=CALLS * energy_j * 0.3 if night.host_j else None,
            output_tokens=CALLS * TOKENS,
            start_s=float(number),
        )
        for number in range(ROUNDS)
    ]
    mean_j = sum(window.joules or 0.0 for window in rounds) / ROUNDS / CALLS
    return ExperimentResult(
        output_tokens=float(TOKENS),
        energy_j=mean_j,
        energy_per_output_token_j=mean_j / TOKENS,
        energy_total_j=mean_j + energy_j * 0.3 if night.host_j else None,
        host_sensor=night.host_sensor if night.host_j else None,
        latency_s=sum(window.seconds for window in rounds) / ROUNDS / CALLS,
        meter="nvml",
        estimated=False,
        rounds=ROUNDS,
        calls_per_round=CALLS,
        valid=night.valid,
        warnings=[] if night.valid else ["the board throttled: its temperature was too high"],
        per_round=rounds,
    )


def _rows(night: Night, name: str, result: ExperimentResult, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    nodeid = f"bench/llama.llem.yaml::{name}"
    shared: dict[str, Any] = {
        "nodeid": nodeid,
        "workload_hash": f"work of {name}",
        "result": asdict(result),
    }
    if night.accepted:
        shared["accepted"] = True
    if night.saved_verdict:
        shared["verdict"] = night.saved_verdict
    rows = [("latency", "", result.latency_s), ("energy", ":energy", result.energy_j)]
    if night.host_j:
        rows.append(("energy_total", ":energy_total", result.energy_total_j))
    return [
        {
            "name": name + suffix,
            "fullname": nodeid + suffix,
            "stats": {"data": [], "mean": value, "min": value, "rounds": ROUNDS},
            "extra_info": {
                **shared,
                "metric": metric,
                "unit": UNITS[metric],
                "environment": of_metric,
                "environment_hash": environment_hash(of_metric),
            },
        }
        for metric, suffix, value in rows
        for of_metric in [{**environment, **({"host_sensor": night.host_sensor} if metric == "energy_total" else {})}]
    ]
