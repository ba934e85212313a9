"""What a load takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.session.cluster.needs import gpus_of


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({}, 1),
        ({"device_map": "auto"}, 1),
        ({"device_map": "auto", "max_memory": {0: "1GiB", 1: "1GiB", "cpu": "2GiB"}}, 2),
        # Numbers count from 0 what the process sees, so that GPU 3 is the fourth.
        ({"device_map": "auto", "max_memory": {3: "1GiB"}}, 4),
        ({"device_map": {"model.embed_tokens": 0, "model.layers": "cuda:1", "lm_head": "cpu"}}, 2),
        ({"device_map": "cuda"}, 1),
    ],
)
def test_a_load_takes_the_gpus_that_its_file_numbers(options: dict[str, Any], gpus: int) -> None:
    experiment = ExperimentConfig.model_validate({"model": "builtin:tiny-llama", "pytorch": options})
    assert gpus_of(experiment.load_config(Path())) == gpus
