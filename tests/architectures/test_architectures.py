"""Every causal language model of the installed transformers runs here as it does there, drawn at random and saved.

Each is built tiny, with random weights. What cannot be built so, or does not run in transformers alone, is skipped with
the reason (``-rs`` lists them). Every sixteenth is tried, and those whose types have a rule of their own;
``LLEM_ARCHITECTURES=all`` tries all, as ``tox -e architectures`` does.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_llem.engines.transformers.builtin import builtin_tokenizer
from pytest_llem.engines.transformers.engine import TransformersModel, load_here
from pytest_llem.errors import UnavailableError
from tests.architectures.tiny import tiny_fields
from tests.unit.engines.transformers.conftest import experiment, no_network

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["no_network"]

# Parts of these stay in fp32 by patterns, by flags of a part, or because their class says so.
_KEPT = ("deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "nemotron_h")
_ALL = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_TRIED = _ALL if os.environ.get("LLEM_ARCHITECTURES") == "all" else sorted({*_ALL[::16], *_KEPT, "mamba", "rwkv"})

_NEW_TOKENS = 3
_LARGEST = 10_000_000


@pytest.fixture(autouse=True)
def any_warning() -> Any:
    """What a library warns of is no failure here: it is part of the results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


from_config: Any = AutoModelForCausalLM.from_config


def built(model_type: str, dtype: torch.dtype) -> Any:
    """The configuration, once transformers alone has run it."""
    try:
        config_class = CONFIG_MAPPING[model_type]
        config = config_class(**tiny_fields(config_class))
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in from_config(config).parameters())
        if numbers > _LARGEST:
            pytest.skip(f"{numbers / 1e6:.0f} million parameters: a size of it has a name of its own")
        model = from_config(config, dtype=dtype).eval()
        model.generate(torch.full((2, 8), 5), max_new_tokens=_NEW_TOKENS, do_sample=False)
    except Exception as exc:  # noqa: BLE001  (whatever 200 architectures may raise)
        pytest.skip(f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}")
    return config


@pytest.mark.parametrize(
    ("model_type", "precision"),
    [*((name, "bf16") for name in _TRIED), *((name, "fp16") for name in _KEPT)],
)
def test_runs_as_in_transformers(model_type: str, precision: str, tmp_path: Path) -> None:
    built(model_type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]).save_pretrained(tmp_path)
    try:
        loaded, tokens, prompts = run(tmp_path, precision, weights="random")
    except UnavailableError as exc:
        pytest.skip(str(exc))
    # Further defaults of the model, such as a last token that it forces, are not the experiment's.
    loaded.model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    output = loaded.model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=_NEW_TOKENS,
        min_new_tokens=_NEW_TOKENS,
    )
    assert tokens == output[:, prompts.shape[1] :].tolist()
    assert [len(row) for row in tokens] == [_NEW_TOKENS] * 2
    state = loaded.model.state_dict()
    # Of a few, transformers saves a part that it does not load as such.
    if loaded.model.config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        loaded.model.save_pretrained(tmp_path / "saved")
        builtin_tokenizer(128).save_pretrained(tmp_path / "saved")
        again, _, _ = run(tmp_path / "saved", precision)
        saved = again.model.state_dict()
        assert saved.keys() == state.keys()
        assert [name for name in state if not torch.equal(saved[name], state[name])] == []
        again.close()
    loaded.close()


def run(folder: Path, precision: str, **fields: Any) -> tuple[TransformersModel, list[list[int]], torch.Tensor]:
    config = experiment(
        model=str(folder),
        precision=precision,
        dataset={"synthetic": {"n": 2, "input_len": 8}},
        max_output_tokens=_NEW_TOKENS,
        decoder={"min_new_tokens": _NEW_TOKENS},
        pytorch={"batch_size": 2},
        **fields,
    )
    loaded = load_here(config.load_config(folder), "cpu")
    workload = loaded.prepare(config, folder)
    return loaded, workload.output_tokens(0, workload.run(0)), torch.tensor(workload.prompts.token_ids)
