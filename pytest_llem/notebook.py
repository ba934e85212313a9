"""``%%llem``: a cell of a notebook that holds an experiment file, measured and shown."""

from __future__ import annotations

import argparse
import keyword
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import DisplayHandle, Pretty, clear_output

from pytest_llem.config.files import parse_experiments
from pytest_llem.errors import ExperimentFileError, LlemError
from pytest_llem.library import measure
from pytest_llem.report.display import as_html, as_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import Experiment
    from pytest_llem.measurement.result import ExperimentResult

# A message to the browser takes some of the processor's time, which may be measured.
_LEAST_PAUSE_S = 2.0


def _rounds(text: str) -> int | str:
    # What is neither is refused where the same is refused in Python.
    return int(text) if text.isdecimal() else text


def _variable(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a variable")
    return text


class _Results:
    """Results that stand below each other, each called as its experiment."""

    def __init__(self, experiments: Sequence[Experiment], results: Sequence[ExperimentResult | None]) -> None:
        """Of those ``results`` that there are."""
        named = zip(map(_full_name, experiments), results, strict=True)
        self._named = [(name, result) for name, result in named if result is not None]

    def __bool__(self) -> bool:
        return bool(self._named)

    def _repr_html_(self) -> str:
        return "".join(as_html(result, name) for name, result in self._named)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002
        printer.text("\n\n".join(as_text(result, name) for name, result in self._named))


class _Progress:
    """The output of the cell: how far it is, and at last the results."""

    def __init__(self, *, watched: bool) -> None:
        """``watched``: whether the output can change."""
        self._handle = DisplayHandle()
        self._watched = watched
        self._said_s = time.monotonic()
        if watched:
            self._handle.display(Pretty("loading ..."))

    def __call__(self, experiment: Experiment, phase: str, done: int, total: int, last_s: float) -> None:  # noqa: ARG002
        now_s = time.monotonic()
        if self._watched and now_s - self._said_s >= _LEAST_PAUSE_S:
            self._said_s = now_s
            self._handle.update(Pretty(f"{_full_name(experiment)}: {phase} {done} of {total}"))

    def end(self, results: _Results) -> None:
        """Show the results, if there are any, in its place."""
        if not self._watched:
            if results:
                self._handle.display(results)
        elif results:
            self._handle.update(results)
        else:
            clear_output()


def _full_name(experiment: Experiment) -> str:
    return experiment.name if experiment.id is None else f"{experiment.name}[{experiment.id}]"


@magics_class
class LlemMagics(Magics):
    """What ``%load_ext pytest_llem`` adds."""

    @magic_arguments()
    @argument("name", nargs="?", type=_variable, help="variable for the result; of several experiments for their list")
    @argument("--gpu", action="store_true", help="run on the GPU")
    @argument("--cpu", action="store_true", help="run on the CPU")
    @argument("--meter", default="auto", help="auto (default), nvml, rapl, estimate, zeus, codecarbon, none")
    @argument("--host", default="auto", help="what reads the host beside the boards: auto (default), rapl, hwmon, none")
    @argument("--rounds", type=_rounds, help="in place of measure.rounds")
    @argument("--min-window", type=float, metavar="SECONDS", help="in place of measure.min_window_s")
    @argument("--region", metavar="CODE", help="tell the carbon: a country's ISO 3166 alpha 3 code, or gCO2e a kWh")
    @argument("--price", help="tell the cost: the price of a kWh, such as 0.30EUR")
    @argument("--pue", type=float, metavar="FACTOR", default=1.0, help="power usage effectiveness of the data centre")
    @cell_magic
    def llem(self, line: str, cell: str) -> None:
        """Measure the experiments that the cell holds as YAML, and show the results.

        Relative paths start at the working directory. Without ``--gpu`` and ``--cpu`` it is the GPU if torch can use
        one.
        """
        asked = parse_argstring(self.llem, line)
        if asked.gpu and asked.cpu:
            raise UsageError("--gpu and --cpu exclude each other: give one of them")
        try:
            # Lines are counted from that of the magic on, as editors do.
            experiments = parse_experiments(f"\n{cell}", "cell", Path.cwd())
        except ExperimentFileError as error:
            raise UsageError(error.shown) from None
        progress = _Progress(watched=hasattr(self.shell, "kernel"))
        results: Sequence[ExperimentResult | None] = [None] * len(experiments)
        try:
            results = found = measure(
                experiments,
                device="cuda" if asked.gpu else "cpu" if asked.cpu else None,
                meter=asked.meter,
                host=asked.host,
                rounds=asked.rounds,
                min_window_s=asked.min_window,
                region=asked.region,
                price=asked.price,
                pue=asked.pue,
                progress=progress,
            )
        except BaseException as failure:
            results = getattr(failure, "results", results)
            if isinstance(failure, LlemError):
                raise UsageError(str(failure)) from None
            raise
        finally:
            progress.end(_Results(experiments, results))
        if asked.name is not None and self.shell is not None:
            self.shell.user_ns[asked.name] = found if len(found) > 1 else found[0]
