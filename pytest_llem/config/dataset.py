"""The ``dataset:`` field: where the prompts come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from pytest_llem.config.base import EXPECTED, Section, option


class SyntheticPrompts(Section):
    """Random token ids of one exact length."""

    n: int = Field(default=8, description="Number of prompts.", ge=1)
    input_len: int | None = option("Length of each prompt. Unset: max_input_tokens.", unit="tokens", ge=1)
    seed: int | None = option("Seed of the token ids. Unset: the experiment's random_seed.", ge=0, le=2**32 - 1)


class SyntheticDataset(Section):
    """``dataset: {synthetic: {n: 8, input_len: 128, seed: 0}}``."""

    synthetic: SyntheticPrompts = Field(
        default_factory=SyntheticPrompts, description="Random token ids of one exact length."
    )


class FileDataset(Section):
    """``dataset: {path: prompts.jsonl, field: prompt}``."""

    path: str = Field(
        description="File of prompts, JSON Lines or text; a relative path starts at the experiment file's folder.",
        min_length=1,
    )
    field: str = Field(
        default="prompt", description="Key of the prompt in each line of a JSON Lines file.", min_length=1
    )


# They stand in the locations of errors, so no field must have their name.
TAGS = ("<name>", "<synthetic>", "<file>")


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<name>"
    if isinstance(value, SyntheticDataset) or (isinstance(value, Mapping) and "synthetic" in value):
        return "<synthetic>"
    if isinstance(value, FileDataset | Mapping):
        return "<file>"
    return None


DATASET_HELP = "Prompts: {synthetic: {n, input_len, seed}}, {path, field}, or the name of a built-in set (natural)."

Dataset = Annotated[
    Annotated[str, Field(min_length=1), Tag("<name>")]
    | Annotated[SyntheticDataset, Tag("<synthetic>")]
    | Annotated[FileDataset, Tag("<file>")],
    Discriminator(
        _kind,
        custom_error_type=EXPECTED,
        custom_error_message="expected a mapping with `synthetic` or `path`, or the name of a built-in set",
    ),
]
