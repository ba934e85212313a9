"""Which engine runs a backend: this package's own, or one that another package registers."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.config.backends import registered
from pytest_llem.config.schema import experiment_file_schema
from pytest_llem.engines import BUILT_IN, get_engine, no_engine
from pytest_llem.errors import UnavailableError
from tests.simulators.engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAKE = "tests.simulators.engine:FakeEngine"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put packages that register engines where Python finds installed ones."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, **engines: str) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        listed = "".join(f"{backend} = {target}\n" for backend, target in engines.items())
        (folder / "entry_points.txt").write_text(f"[pytest_llem.engines]\n{listed}")
        registered.cache_clear()

    yield write
    registered.cache_clear()


def test_importing_the_engines_imports_no_framework() -> None:
    code = (
        "import sys, pytest_llem.engines, pytest_llem.engines.base, pytest_llem.engines.prompts;"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_backend_without_an_engine_is_unavailable_and_those_that_there_are_are_named(
    install: Callable[..., None],
) -> None:
    install("theirs", own=FAKE)
    with pytest.raises(UnavailableError, match=r"^backend other has no engine yet; use own, pytorch, tensorrt, vllm$"):
        get_engine("other")


def test_an_engine_of_another_package_is_found_by_its_name(install: Callable[..., None]) -> None:
    install("theirs", own=FAKE)
    assert no_engine("own") is None
    assert isinstance(get_engine("own"), FakeEngine)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere.to.be.found:Engine", "ModuleNotFoundError: No module named 'nowhere'"),
        ("tests.simulators.engine:Missing", "AttributeError: .*'Missing'"),
        ("builtins:int.from_bytes", "TypeError: "),
    ],
)
def test_one_that_cannot_be_had_is_unavailable_with_the_reason_and_breaks_no_other(
    install: Callable[..., None], target: str, reason: str
) -> None:
    install("theirs", own=target, other=FAKE)
    with pytest.raises(UnavailableError, match=f"^backend own: {target} cannot be imported: {reason}"):
        get_engine("own")
    assert isinstance(get_engine("other"), FakeEngine)


def test_a_name_of_this_package_stays_its_own(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    install("theirs", pytorch="nowhere:Engine")
    monkeypatch.setitem(BUILT_IN, "pytorch", FAKE)
    assert isinstance(get_engine("pytorch"), FakeEngine)


def test_an_engine_that_two_packages_offer_is_neither(install: Callable[..., None]) -> None:
    install("theirs", own=FAKE)
    install("others", own="others:Engine")
    with pytest.raises(UnavailableError, match=r"^backend own is offered by several packages \(.*others:Engine.*\)"):
        get_engine("own")


def test_the_built_in_engine_is_found_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llem.engines.registered", lambda: pytest.fail("searched the installed packages"))
    monkeypatch.setattr("pytest_llem.config.backends.registered", lambda: pytest.fail("searched"))
    ExperimentConfig(model="gpt2")
    monkeypatch.setitem(BUILT_IN, "pytorch", FAKE)
    get_engine("pytorch")


def test_a_file_may_name_a_registered_backend_and_nothing_of_it_is_imported(install: Callable[..., None]) -> None:
    install("theirs", own="nowhere.to.be.found:Engine")
    config = ExperimentConfig.model_validate({"model": "gpt2", "backend": "own"})
    assert config.model_dump(mode="json")["backend"] == "own"
    with pytest.raises(ValueError, match="does not fit backend: own"):
        ExperimentConfig.model_validate({"model": "gpt2", "backend": "own", "pytorch": {"batch_size": 2}})


def test_editors_and_messages_know_registered_names_too(install: Callable[..., None], tmp_path: Path) -> None:
    from pytest_llem.config.files import load_experiments

    install("theirs", own=FAKE, pytorch=FAKE)
    choices = experiment_file_schema()["properties"]["backend"]["enum"]
    assert choices == ["pytorch", "vllm", "tensorrt", "own", None]
    file = tmp_path / "a.llem.yaml"
    file.write_text("model: gpt2\nbackend: owm\n")
    (experiment,) = load_experiments(file)
    assert "expected pytorch, vllm, tensorrt or own, got 'owm'; did you mean own?" in experiment.errors[0]
