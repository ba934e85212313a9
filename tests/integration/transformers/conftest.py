"""Sessions on the real engine, with a tiny model."""

from __future__ import annotations

import gc
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import TINY


@pytest.fixture
def engine() -> str:
    """No argument: the package's own engine."""
    return ""


@pytest.fixture(scope="session", autouse=True)
def _torch_stays() -> None:
    """torch cannot be imported twice, and transformers imports much of itself only when a model runs."""
    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.transformers.engine import TransformersEngine

    config = ExperimentConfig(model="builtin:tiny-llama", max_output_tokens=2)
    model = TransformersEngine().load(config.load_config(Path()), "cpu")
    model.prepare(config, Path()).time_tokens(0)
    model.close()
    if importlib.util.find_spec("peft") is not None:
        import peft.tuners.lora.bnb  # noqa: F401
    gc.collect()
    gc.freeze()


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
