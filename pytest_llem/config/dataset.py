"""The ``dataset:`` field: where the prompts come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from pytest_llem.config.base import EXPECTED, Conflict, Section, builtin_dataset, option, refuse
from pytest_llem.config.lengths import AnyLengths  # noqa: TC001  (pydantic reads it)

Format = Literal["prompt", "messages", "sharegpt", "openai-batch"]
"""What an entry of a file of prompts is."""


class _Grown(Section, stage="prompts"):
    """A section with fields that came later than saved results: unset, they are not part of what it says, so that the
    hashes of what was said before stay."""

    _later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = inner(self)
        return {name: value for name, value in said.items() if value is not None or name not in self._later}


class SyntheticPrompts(_Grown):
    """Random token ids of exact lengths."""

    _later = ("lengths", "shared_prefix")

    n: int = option("Number of prompts.", default=8, ge=1)
    input_len: int | None = option("Length of each prompt. Unset: max_input_tokens.", unit="tokens", ge=1)
    seed: int | None = option(
        "Seed of the token ids, and of which prompt has which length. Unset: the experiment's random_seed.",
        ge=0,
        le=2**32 - 1,
    )
    lengths: AnyLengths | None = option(
        "Lengths that differ, in place of input_len: {mean, sd, min, max}, or the path of a histogram."
    )
    shared_prefix: int | None = option("So many tokens at the beginning are the same in all.", unit="tokens", ge=1)

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse(self, self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Conflict]:
        if self.lengths is not None and self.input_len is not None:
            yield Conflict("input_len", "does not go with lengths; remove one of the two")


class SyntheticDataset(Section, stage="prompts"):
    """``dataset: {synthetic: {n: 8, input_len: 128, seed: 0}}``."""

    synthetic: SyntheticPrompts = option("Random token ids of exact lengths.", default=SyntheticPrompts())


class TextDataset(_Grown):
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

    _later = ("format", "output_field")

    path: str = option(
        "File of prompts (.jsonl, .json, .csv, .tsv, .parquet, or .txt with a prompt a line), or a folder of text "
        "files, each a prompt; a relative path starts at the experiment file's folder.",
        default=...,
        min_length=1,
    )
    field: str | None = option(
        "Key or column of the prompt. Unset: the first there is of prompt, messages, conversations and body.",
        min_length=1,
    )
    format: Format | None = option(
        "What an entry is: a prompt (text), messages (of a chat), sharegpt (a conversation of from and value), or a "
        "request of OpenAI's batches. Unset: as the first entry looks."
    )
    output_field: str | None = option(
        "Key or column with the number of tokens that is generated for the prompt, no more and no less.", min_length=1
    )

    def _contradictions(self) -> Iterator[Conflict]:
        yield from super()._contradictions()
        suffix = PurePath(self.path).suffix.lower()
        if suffix == ".txt":
            for name in ("field", "format", "output_field"):
                if getattr(self, name) is not None:
                    way_out = "remove it or use a .jsonl file"
                    yield Conflict(name, f"has no effect on a text file, each line of which is a prompt; {way_out}")
        elif suffix in (".csv", ".tsv") and self.format not in (None, "prompt"):
            yield Conflict("format", f"{self.format} is nothing that a column of text holds; remove it")
        elif self.format == "openai-batch":
            for name in ("field", "output_field"):
                if getattr(self, name) is not None:
                    yield Conflict(name, "has no effect on requests, whose body says it; remove it")


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
    "Prompts: {synthetic: {n, input_len or lengths, shared_prefix, seed}}, {path, field, format, output_field, n, "
    "shuffle, seed}, {builtin, n, shuffle, seed}, or the name of a built-in set (natural)."
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
