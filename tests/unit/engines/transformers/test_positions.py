"""What happens beyond a model's context window."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.errors import PromptError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.engines.transformers.engine import TransformersModel
    from tests.unit.engines.transformers.conftest import Load

WINDOW = 32
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
LLAMA = SIZES | {"model_type": "llama", "intermediate_size": 32, "max_position_embeddings": WINDOW}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": WINDOW}
SCALED = {"factor": 4.0, "original_max_position_embeddings": WINDOW}
LONG = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}

COMPUTED: dict[str, dict[str, Any]] = {
    "default": {},
    "yarn": SCALED,
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "longrope": SCALED | LONG,
    "llama3": SCALED | LLAMA3,
}
TABLES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gptj": GPT2 | {"rotary_dim": 8},
    "gpt_bigcode": GPT2,
    "gpt_neo": {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_layers": 1,
        "num_heads": 2,
        "window_size": 8,
        "attention_types": [[["global"], 1]],
        "max_position_embeddings": WINDOW,
    },
    "opt": SIZES | {"ffn_dim": 32, "word_embed_proj_dim": 32, "max_position_embeddings": WINDOW},
    "biogpt": SIZES | {"intermediate_size": 32, "max_position_embeddings": WINDOW},
    "ctrl": {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "dff": 32, "n_positions": WINDOW},
}


@pytest.fixture
def built(load: Load, tmp_path: Path) -> Any:
    """Build a random model of a configuration."""

    def build(config: dict[str, Any]) -> TransformersModel:
        (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2} | config))
        return load(model=str(tmp_path), weights="random")

    return build


def prepare(model: TransformersModel, length: int) -> Any:
    fields = {"dataset": {"synthetic": {"n": 1, "input_len": length}}, "max_output_tokens": 4}
    return model.prepare(experiment(**fields, decoder={"min_new_tokens": 4}), HERE)


@pytest.mark.parametrize("scaling", COMPUTED)
def test_rotary_positions_go_on_and_the_result_says_so(built: Any, scaling: str) -> None:
    model = built(LLAMA | {"rope_parameters": {"rope_type": scaling, "rope_theta": 10000.0} | COMPUTED[scaling]})
    assert prepare(model, WINDOW - 4).prompts.notes == ()
    workload = prepare(model, 3 * WINDOW)
    note = "prompts of 96 tokens and 4 new ones exceed the model's context window of 32 tokens"
    assert workload.prompts.notes == (note,)
    assert len(workload.output_tokens(0, workload.run(0))[0]) == 4


@pytest.mark.parametrize("model_type", TABLES)
def test_a_table_of_positions_ends(built: Any, model_type: str) -> None:
    model = built({"model_type": model_type} | TABLES[model_type])
    workload = prepare(model, WINDOW - 4)
    assert len(workload.output_tokens(0, workload.run(0))[0]) == 4
    with pytest.raises(PromptError, match=r"prompts of 29 tokens and 4 new ones exceed .* 32 tokens: lower"):
        prepare(model, WINDOW - 3)


def test_the_longest_output_there_is_decides_and_not_the_longest_there_may_be(built: Any) -> None:
    model = built({"model_type": "gpt2"} | GPT2)
    fields = {"dataset": {"synthetic": {"n": 2, "input_len": WINDOW - 4}}, "max_output_tokens": 64}
    workload = model.prepare(experiment(**fields, output_lengths={"mean": 3.5, "sd": 0}), HERE)
    assert sorted(len(workload.output_tokens(index, workload.run(index))[0]) for index in range(2)) == [3, 4]
    with pytest.raises(PromptError, match="prompts of 28 tokens and 5 new ones exceed"):
        model.prepare(experiment(**fields, output_lengths={"mean": 5, "sd": 0}), HERE)


def test_a_model_without_positions_has_no_window(built: Any) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "n_layer": 1, "n_head": 2}
    assert prepare(built({"model_type": "bloom"} | sizes), 3 * WINDOW).prompts.notes == ()
