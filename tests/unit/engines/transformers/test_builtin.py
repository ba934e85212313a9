from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_llem.config.builtin_models import BOS_TOKEN_ID, PREFIX, is_builtin
from pytest_llem.engines.transformers.builtin import builtin_config, builtin_tokenizer

if TYPE_CHECKING:
    from tests.unit.engines.transformers.conftest import Load

# As published with the checkpoints whose shapes these are; tied weights count once.
PARAMETERS = {"llama-1b": 1_235_814_400, "llama-8b": 8_030_261_248, "qwen-0.5b": 494_032_768}


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_are_those_of_the_real_models(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(builtin_config(PREFIX + name))  # type: ignore[no-untyped-call]
    assert model.num_parameters() == PARAMETERS[name]


@pytest.mark.parametrize(("name", "factor"), [("llama-1b", 32.0), ("llama-8b", 8.0)], ids=["llama-1b", "llama-8b"])
def test_rotary_embedding_is_that_of_llama_3(name: str, factor: float) -> None:
    rope = builtin_config(PREFIX + name).rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("llama3", factor, 500000.0)


def test_tiny_llama_has_a_few_million_parameters() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            builtin_config("builtin:tiny-llama")
        )
    assert 1_000_000 < model.num_parameters() < 5_000_000


def test_only_the_prefix_makes_a_builtin_model() -> None:
    assert is_builtin("builtin:tiny-llama")
    assert not is_builtin("tiny-llama")


@pytest.mark.parametrize("text", ["plain", "Größe 你好 😀", " leading, trailing \n\t", "a\u2028b\x00c"])
def test_tokenizer_has_a_token_for_each_byte_and_gives_the_text_back(text: str) -> None:
    tokenizer = builtin_tokenizer(2048)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == BOS_TOKEN_ID
    assert len(ids) == 1 + len(text.encode())
    assert max(ids[1:]) < BOS_TOKEN_ID
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tokenizer_pads_on_the_left_with_its_own_token() -> None:
    tokenizer = builtin_tokenizer(2048)
    batch = tokenizer(["a", "abc"], padding=True)
    assert batch["attention_mask"][0] == [0, 0, 1, 1]
    assert batch["input_ids"][0][:2] == [tokenizer.pad_token_id] * 2
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


def test_weights_depend_on_the_random_seed_alone(load: Load) -> None:
    torch.manual_seed(1)
    first = load(random_seed=7).model
    torch.manual_seed(2)
    again = load(random_seed=7).model
    other = load(random_seed=8).model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_drawing_weights_leaves_the_random_generator_alone(load: Load) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load(random_seed=7)
    assert torch.equal(torch.rand(4), expected)
