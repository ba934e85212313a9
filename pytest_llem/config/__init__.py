"""What an experiment file may say.

The models here are the one place where a field's help, unit and bounds are written down. Importing this
package costs pydantic and yaml, never torch or transformers.
"""

from __future__ import annotations

from pytest_llem.config.base import stage_of
from pytest_llem.config.dataset import BuiltinDataset, FileDataset, SyntheticDataset, SyntheticPrompts
from pytest_llem.config.decoder import DecoderConfig
from pytest_llem.config.experiment import ExperimentConfig
from pytest_llem.config.files import Experiment, load_experiments
from pytest_llem.config.load import LoadConfig
from pytest_llem.config.measure import MeasureConfig
from pytest_llem.config.passthrough import Passthrough
from pytest_llem.config.pytorch import LoraConfig, PyTorchConfig
from pytest_llem.config.schema import experiment_file_schema
from pytest_llem.config.tensorrt import TensorRTConfig
from pytest_llem.config.vllm import SpeculativeConfig, VllmConfig

__all__ = [
    "BuiltinDataset",
    "DecoderConfig",
    "Experiment",
    "ExperimentConfig",
    "FileDataset",
    "LoadConfig",
    "LoraConfig",
    "MeasureConfig",
    "Passthrough",
    "PyTorchConfig",
    "SpeculativeConfig",
    "SyntheticDataset",
    "SyntheticPrompts",
    "TensorRTConfig",
    "VllmConfig",
    "experiment_file_schema",
    "load_experiments",
    "stage_of",
]
