"""The ``dataset:`` field: where the prompts come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pytest_llem.config.base import EXPECTED, Conflict, Section, builtin_dataset, option, refuse


class SyntheticPrompts(Section, stage="prompts"):
    """Random token ids of one exact length."""

    n: int = option("Number of prompts.", default=8, ge=1)
    input_len: int | None = option("Length of each prompt. Unset: max_input_tokens.", unit="tokens", ge=1)
    seed: int | None = option("Seed of the token ids. Unset: the experiment's random_seed.", ge=0, le=2**32 - 1)


class SyntheticDataset(Section, stage="prompts"):
    """``dataset: {synthetic: {n: 8, input_len: 128, seed: 0}}``."""

    synthetic: SyntheticPrompts = option("Random token ids of one exact length.", default=SyntheticPrompts())


class TextDataset(Section, stage="prompts"):
    """Which prompts of a set of texts are used, and in which order."""

    n: int | None = option("Number of prompts: the first n, after shuffling. Unset: all.", ge=1)
    shuffle: bool = option("Put the prompts into a random order, which the seed decides.", default=False)
    seed: int | None = option(
        "Seed of the order. Needs shuffle: true. Unset: the experiment's random_seed.", ge=0, le=2**32 - 1
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        if self.seed is not None and not self.shuffle:
            yield Conflict("seed", "has no effect without shuffle; set shuffle: true or remove it")


class BuiltinDataset(TextDataset):
    """``dataset: {builtin: natural, n: 16}``; the name alone stands for the whole set in its own order."""

    builtin: Annotated[str, AfterValidator(builtin_dataset)] = Field(
        description="Name of a set of prompts that comes with this package (natural).", min_length=1
    )


class FileDataset(TextDataset):
    """``dataset: {path: prompts.jsonl, field: prompt}``."""

    path: str = option(
        "File of prompts, JSON Lines or text; a relative path starts at the experiment file's folder.",
        default=...,
        min_length=1,
    )
    field: str | None = option("Key of the prompt in each line of a JSON Lines file. Unset: prompt.", min_length=1)

    def _contradictions(self) -> Iterator[Conflict]:
        yield from super()._contradictions()
        if self.field is not None and PurePath(self.path).suffix.lower() == ".txt":
            yield Conflict(
                "field", "has no effect on a text file, each line of which is a prompt; remove it or use a .jsonl file"
            )


# They stand in the locations of errors, so no field must have their name.
TAGS = ("<name>", "<synthetic>", "<builtin>", "<file>")


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<name>"
    for section, key in ((SyntheticDataset, "synthetic"), (BuiltinDataset, "builtin")):
        if isinstance(value, section) or (isinstance(value, Mapping) and key in value):
            return f"<{key}>"
    return "<file>" if isinstance(value, FileDataset | Mapping) else None


DATASET_HELP = (
    "Prompts: {synthetic: {n, input_len, seed}}, {path, field, n, shuffle, seed}, {builtin, n, shuffle, seed}, or the "
    "name of a built-in set (natural)."
)

Dataset = Annotated[
    Annotated[str, Field(min_length=1), AfterValidator(builtin_dataset), Tag("<name>")]
    | Annotated[SyntheticDataset, Tag("<synthetic>")]
    | Annotated[BuiltinDataset, Tag("<builtin>")]
    | Annotated[FileDataset, Tag("<file>")],
    Discriminator(
        _kind,
        custom_error_type=EXPECTED,
        custom_error_message="expected a mapping with `synthetic`, `builtin` or `path`, or the name of a built-in set",
    ),
]
