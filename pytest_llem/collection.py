"""``*.llem.yaml`` files become real ``pytest.Function`` items.

A file is a synthetic module with one test function per experiment; a sweep's points are its parameters. Validation
happens here, with pydantic alone: torch and transformers are imported when an item runs.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_llem.config.files import Experiment, load_experiments
from pytest_llem.config.messages import place_of
from pytest_llem.engines import no_engine
from pytest_llem.errors import ExperimentFileError
from pytest_llem.settings import NO_BENCHMARK, SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import ExperimentConfig


NOT_RUN = "valid, not run: pass --llem-gpu to run it on the GPU or --llem-cpu to run it on the CPU"
"""Why experiments of a session without a device are skipped."""


class ExperimentFile(pytest.Module):
    """One experiment file."""

    _module: ModuleType | None = None

    def _getobj(self) -> ModuleType:
        # pytest gets the module here where it would import a Python file. This is the one private name of pytest that
        # the package relies on; with it, items are plain Functions with fixtures of every scope.
        if not self.config.pluginmanager.has_plugin("benchmark"):
            raise self.CollectError(NO_BENCHMARK)
        if self._module is None:
            self._module = _synthetic_module(self.path, _load(self.path, self.config))
        return self._module

    def funcnamefilter(self, name: str) -> bool:  # noqa: ARG002
        """Every function of the synthetic module is an experiment."""
        return True


def _load(path: Path, config: pytest.Config) -> list[Experiment]:
    path = _read_from(path, config)
    try:
        return load_experiments(path, display=display_path(path, config))
    except ExperimentFileError as error:
        raise pytest.Collector.CollectError(error.shown) from None


def _read_from(path: Path, config: pytest.Config) -> Path:
    """The file that is read for ``path``: on the other side of a comparison that of the side that compares, where
    relative paths in it mean what they say."""
    settings = config.stash[SETTINGS]
    theirs, checkout = settings.experiments_root, settings.checkout or config.rootpath
    normal = Path(os.path.normpath(path))
    if theirs is None or not normal.is_relative_to(checkout):
        return path
    # The root folder lies equally deep in both checkouts.
    depth = len(config.rootpath.relative_to(checkout).parts)
    counterpart = [theirs, *theirs.parents][depth] / normal.relative_to(checkout)
    return counterpart if counterpart.is_file() else path


def display_path(path: Path, config: pytest.Config) -> str:
    """The path as pytest prints it: from where the user called it."""
    try:
        return os.path.relpath(path, config.invocation_params.dir)
    except ValueError:  # another drive
        return str(path)


def _synthetic_module(path: Path, experiments: Sequence[Experiment]) -> ModuleType:
    module = ModuleType(path.name)
    module.__file__ = str(path)
    by_name: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_name.setdefault(experiment.name, []).append(experiment)
    for name, points in by_name.items():
        function = _test_function(path, points[0].line)
        function.__name__ = function.__qualname__ = name
        function.__module__ = module.__name__
        function.__dict__["llem_experiments"] = points
        setattr(module, name, function)
    return module


def _test_function(path: Path, line: int) -> FunctionType:
    """A test that calls ``llem_run``, as if it stood at ``line`` of the experiment file.

    Tracebacks, ``-rs`` and editors then point into the YAML file. A lambda keeps the definition and the call on that
    one line; pytest wants a test to return ``None``.
    """
    code = (lambda llem_run: llem_run() and None).__code__
    return FunctionType(code.replace(co_filename=str(path), co_firstlineno=line), {})


def parametrize_marked(metafunc: pytest.Metafunc, markers: Sequence[pytest.Mark]) -> None:
    """``@pytest.mark.llem("file.llem.yaml")``: the experiments of that file, from the test file's folder."""
    where = metafunc.definition.nodeid
    experiments: list[Experiment] = []
    for marker in markers:
        if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], str | os.PathLike):
            raise pytest.Collector.CollectError(f'{where}: use @pytest.mark.llem("file.llem.yaml") with one path')
        experiments += _load(metafunc.definition.path.parent / marker.args[0], metafunc.config)
    parametrize(metafunc, experiments, named=True)


def parametrize(metafunc: pytest.Metafunc, experiments: Sequence[Experiment], *, named: bool = False) -> None:
    """One item per experiment.

    The load configuration is a session-wide parameter that pytest compares by value, so items that share a model run
    back to back, across files, and the model is loaded once.

    Args:
        named: put the experiment's name into the id; a function of an experiment file has it already.
    """
    settings = metafunc.config.stash[SETTINGS]
    if "llem_experiment" not in metafunc.fixturenames:
        # A marked test runs once per experiment even when it requests none of the fixtures.
        metafunc.fixturenames.append("llem_experiment")
    # The model comes last: pytest groups by the last parameter of a scope first.
    names = [name for name in ("llem_experiment", "llem_model") if name in metafunc.fixturenames]
    parameters = []
    for valid_or_not in experiments:
        experiment, marks = _marked(valid_or_not, settings, metafunc.config)
        values = {"llem_experiment": experiment, "llem_model": _model_parameter(experiment)}
        identifier = "-".join(part for part in (experiment.name if named else None, experiment.id) if part)
        parameters.append(
            pytest.param(
                *(values[name] for name in names),
                id=identifier or pytest.HIDDEN_PARAM,
                marks=marks,
            )
        )
    metafunc.parametrize(names, parameters, indirect=True, scope="session")


def _model_parameter(experiment: Experiment) -> object:
    if experiment.config is None:
        return experiment
    return experiment.config.load_config(experiment.path.parent)


def _marked(
    experiment: Experiment, settings: Settings, config: pytest.Config
) -> tuple[Experiment, list[pytest.MarkDecorator]]:
    """The experiment with its pytest marks; one whose marks pytest refuses does not validate."""
    if experiment.contradiction is not None:
        return experiment, [pytest.mark.skip(reason=f"contradicts itself: {experiment.contradiction}")]
    if experiment.config is None:
        return experiment, []
    try:
        marks = [getattr(pytest.mark, name) for name in experiment.config.marks]
    except (pytest.fail.Exception, pytest.PytestUnknownMarkWarning) as refusal:  # --strict-markers, -W error
        return replace(experiment, config=None, errors=(_placed(f"marks: {refusal}", "marks", experiment, config),)), []
    reason = _skip_reason(experiment.config, settings)
    if reason is not None:
        marks.append(pytest.mark.skip(reason=reason))
    return experiment, marks


def _skip_reason(config: ExperimentConfig, settings: Settings) -> str | None:
    """Why a valid experiment does not run in this session, as far as it is known without loading anything."""
    if (missing := no_engine(config.backend)) is not None:
        return f"backend: {missing}"
    if settings.device is None:
        return NOT_RUN
    if config.device not in ("any", settings.device):
        return f"device: {config.device}, and this session runs on the {settings.device_name}"
    return None


class NotLoadedError(pytest.fail.Exception):  # type: ignore[misc, name-defined]
    """A model could not be loaded, whichever experiment needs it.

    Attributes:
        field: the field that is at fault; ``None`` where none is.
    """

    field: str | None = None


def fail_at(experiment: Experiment, cause: NotLoadedError, config: pytest.Config) -> NoReturn:
    """Fail one of the experiments that need a model, naming the place in its file."""
    raise pytest.fail.Exception(_placed(str(cause), cause.field, experiment, config), pytrace=False) from None


def _placed(message: str, field: str | None, experiment: Experiment, config: pytest.Config) -> str:
    """``message`` after the place of ``field``, or of the experiment where it has none."""
    mark = None if field is None or experiment.node is None else place_of(field, experiment.node)
    if mark is None:
        return f"{display_path(experiment.path, config)}:{experiment.line}: {message}"
    return f"{mark.source.display}:{mark.line}: {message}"


def require_valid(experiment: Experiment) -> None:
    """Fail the item of an experiment that does not validate, with its messages and no traceback."""
    if experiment.errors:
        pytest.fail("\n".join(experiment.errors), pytrace=False)
