"""Energy benchmarks of LLM inference as pytest items.

pytest imports this package at every start, so its public names are imported only when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_llem.config import DecoderConfig, Experiment, ExperimentConfig, PyTorchConfig, load_experiments
    from pytest_llem.engines.base import CallTiming, Engine, LoadedModel, MemoryPlan, WatchedSequence, Workload
    from pytest_llem.engines.prompts import load_prompts
    from pytest_llem.errors import ConfigError, LlemError, UnavailableError
    from pytest_llem.exporters.base import Exporter
    from pytest_llem.exporters.results import Exported
    from pytest_llem.footprint import Footprint
    from pytest_llem.library import measure
    from pytest_llem.measurement.result import ExperimentResult, Round
    from pytest_llem.meters import (
        Disturbance,
        IdlePower,
        JoinedWindows,
        Meter,
        MeterRequest,
        SimpleMeter,
        Window,
        open_meter,
    )
    from pytest_llem.runs import BenchmarkRun, ExperimentRun
    from pytest_llem.verdict import Status, Verdict, judge
    from pytest_llem.verdict.outputs import GeneratedSequence

__version__ = "0.2.0"

__all__ = [
    "BenchmarkRun",
    "CallTiming",
    "ConfigError",
    "DecoderConfig",
    "Disturbance",
    "Engine",
    "Experiment",
    "ExperimentConfig",
    "ExperimentResult",
    "ExperimentRun",
    "Exported",
    "Exporter",
    "Footprint",
    "GeneratedSequence",
    "IdlePower",
    "JoinedWindows",
    "LlemError",
    "LoadedModel",
    "MemoryPlan",
    "Meter",
    "MeterRequest",
    "PyTorchConfig",
    "Round",
    "SimpleMeter",
    "Status",
    "UnavailableError",
    "Verdict",
    "WatchedSequence",
    "Window",
    "Workload",
    "judge",
    "load_experiments",
    "load_prompts",
    "measure",
    "open_meter",
]

_HOMES = {
    "config": ("DecoderConfig", "Experiment", "ExperimentConfig", "PyTorchConfig", "load_experiments"),
    "engines.base": ("CallTiming", "Engine", "LoadedModel", "MemoryPlan", "WatchedSequence", "Workload"),
    "engines.prompts": ("load_prompts",),
    "errors": ("ConfigError", "LlemError", "UnavailableError"),
    "exporters.base": ("Exporter",),
    "exporters.results": ("Exported",),
    "footprint": ("Footprint",),
    "library": ("measure",),
    "measurement.result": ("ExperimentResult", "Round"),
    "meters": (
        "Disturbance",
        "IdlePower",
        "JoinedWindows",
        "Meter",
        "MeterRequest",
        "SimpleMeter",
        "Window",
        "open_meter",
    ),
    "runs": ("BenchmarkRun", "ExperimentRun"),
    "verdict": ("Status", "Verdict", "judge"),
    "verdict.outputs": ("GeneratedSequence",),
}


if not TYPE_CHECKING:  # type checkers see the imports above, and that there is nothing else

    def __getattr__(name: str) -> object:
        for module, names in _HOMES.items():
            if name in names:
                from importlib import import_module

                return getattr(import_module(f"pytest_llem.{module}"), name)
        raise AttributeError(f"module 'pytest_llem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: object) -> None:
    """``%load_ext pytest_llem``: the cell magic ``%%llem``."""
    from pytest_llem.notebook import LlemMagics

    shell.register_magics(LlemMagics)  # type: ignore[attr-defined]
