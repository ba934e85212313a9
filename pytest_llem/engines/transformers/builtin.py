"""Configuration and tokenizer of the built-in models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.config.builtin_models import BOS_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, PREFIX, SHAPES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def builtin_config(model: str) -> PretrainedConfig:
    """The architecture of ``model`` (``builtin:NAME``)."""
    from transformers import AutoConfig

    shape = SHAPES[model.removeprefix(PREFIX)]
    config: PretrainedConfig = AutoConfig.for_model(
        **shape, bos_token_id=BOS_TOKEN_ID, eos_token_id=EOS_TOKEN_ID, pad_token_id=PAD_TOKEN_ID
    )
    return config


def builtin_tokenizer(max_length: int) -> PreTrainedTokenizerBase:
    """A tokenizer with one token for each byte of UTF-8, which begins every text with the BOS token.

    Args:
        max_length: longest input of the model, in tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # The byte-level alphabet stands for the 256 bytes as printable characters, in no promised order.
    vocabulary = {character: id_ for id_, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    special = {"<bos>": BOS_TOKEN_ID, "<eos>": EOS_TOKEN_ID, "<pad>": PAD_TOKEN_ID}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary | special, merges=[]))
    tokenizer.add_special_tokens(list(special))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS_TOKEN_ID)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<bos>",  # noqa: S106  (a token of text)
        eos_token="<eos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
