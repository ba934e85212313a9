"""pytest driven as a user drives it, on the real tiny model.

Inner sessions run in this process, so that torch is imported once for all of them; a test that looks at what is
imported starts a process of its own.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# A pass takes milliseconds; the windows are as short as they can be.
TINY = """\
model: builtin:tiny-llama
precision: fp32
dataset: {synthetic: {n: 2, input_len: 8}}
max_input_tokens: 8
max_output_tokens: 4
decoder: {preset: deterministic, min_new_tokens: 4}
measure: {rounds: 2, warmup_rounds: 0, min_window_s: 0.001}
"""


@pytest.fixture(scope="session", autouse=True)
def _torch_stays() -> None:
    """Import what inner sessions must find imported: they forget the modules that they import themselves, and torch
    cannot be imported twice. transformers imports much of itself only when a model runs."""
    import pytest_llem.collection
    import pytest_llem.report.terminal
    import pytest_llem.runs  # noqa: F401
    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.transformers.engine import TransformersEngine

    config = ExperimentConfig(model="builtin:tiny-llama", max_output_tokens=2)
    model = TransformersEngine().load(config.load_config(Path()), "cpu")
    model.prepare(config, Path()).time_tokens(0)
    model.close()
    if importlib.util.find_spec("peft") is not None:
        import peft.tuners.lora.bnb  # noqa: F401
    # What was imported stays: the collections before every window need not look at it again.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _inner_sessions_start_quickly(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis's plugin costs each inner session a second. After ``pytester``, which removes the variable."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


@pytest.fixture
def write(pytester: pytest.Pytester) -> Callable[..., Path]:
    """Write an experiment file: ``write("a.llem.yaml", "name: x")`` adds its lines to the tiny experiment."""

    def write_file(name: str = "tiny.llem.yaml", extra: str = "", base: str = TINY) -> Path:
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(base + extra, encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run pytest on the CPU, without the cache that ``--lf`` would need."""

    def run_pytest(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("--llem-cpu", *arguments)

    return run_pytest


@pytest.fixture
def saved(pytester: pytest.Pytester) -> Callable[[], list[dict[str, Any]]]:
    """The rows of ``out.json``."""

    def read() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
        return rows

    return read


@pytest.fixture
def saved_names(saved: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[str]]:
    """The names of the experiments in ``out.json``."""

    def read() -> list[str]:
        return [row["name"] for row in saved() if row["extra_info"]["metric"] == "latency"]

    return read


def without(field: str) -> str:
    """The tiny experiment but for one field."""
    return "".join(line for line in TINY.splitlines(keepends=True) if not line.startswith(f"{field}:"))


def change_json(path: Path, **entries: Any) -> None:
    """Set entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture(scope="session")
def honest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in a folder, as ``save_pretrained`` leaves it."""
    from transformers import AutoModelForCausalLM

    from pytest_llem.engines.transformers.builtin import builtin_config, builtin_tokenizer

    folder = tmp_path_factory.mktemp("honest") / "model"
    config = builtin_config("builtin:tiny-llama")
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    builtin_tokenizer(config.max_position_embeddings).save_pretrained(folder)
    return folder


@pytest.fixture
def model(honest_model: Path, pytester: pytest.Pytester) -> Path:
    """A copy of it beside the experiment file, to be tampered with."""
    return shutil.copytree(honest_model, pytester.path / "model")


@pytest.fixture
def owned(pytester: pytest.Pytester) -> Path:
    """The file that exists once foreign code has run."""
    return pytester.path / "owned"
