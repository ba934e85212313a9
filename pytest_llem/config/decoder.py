"""The ``decoder:`` section: how the next token is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pytest_llem.config.base import Section, metadata_of, option

if TYPE_CHECKING:
    from collections.abc import Mapping

Preset = Literal["deterministic", "standard", "creative", "factual"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "deterministic": {"do_sample": False},
    "standard": {"do_sample": True, "temperature": 1.0, "top_p": 0.95},
    "creative": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1},
    "factual": {"do_sample": True, "temperature": 0.3},
}


class DecoderConfig(Section, stage="call"):
    """How the next token is chosen. ``None`` means the backend's own default.

    Every field but ``preset`` is an argument of transformers' ``generate()`` of the same name, and means the same to
    every engine.
    """

    preset: Preset | None = option(
        "Named set of options: deterministic (greedy), standard (temperature 1.0, top_p 0.95), creative "
        "(temperature 0.8, top_p 0.9, repetition_penalty 1.1), factual (temperature 0.3). An option given "
        "beside it wins; do_sample: false drops what it says of sampling."
    )
    do_sample: bool | None = option("Sample the next token; false takes the likeliest.")
    temperature: float | None = option(
        "Divisor of the logits. Needs sampling; for 0 say do_sample: false.", sampling=True, ge=0, le=2
    )
    top_k: int | None = option(
        "Sample from this many likeliest tokens; 0 is off. Needs sampling.", sampling=True, unit="tokens", ge=0
    )
    top_p: float | None = option(
        "Sample from the likeliest tokens that hold this much probability. Needs sampling.", sampling=True, ge=0, le=1
    )
    min_p: float | None = option(
        "Drop tokens less likely than this share of the likeliest. Needs sampling.", sampling=True, ge=0, le=1
    )
    repetition_penalty: float | None = option("Divisor of the logits of tokens seen before; 1 is off.", gt=0)
    min_new_tokens: int | None = option(
        "Tokens generated before the end-of-sequence token may come.", unit="tokens", ge=1
    )
    stop_strings: list[Annotated[str, Field(min_length=1)]] | None = option(
        "Texts that end a sequence. With the backend pytorch it needs batch size 1 and one returned sequence.",
        min_length=1,
    )

    def resolved(self) -> DecoderConfig:
        """The options after the preset: what is given explicitly wins; ``preset`` itself is ``None``."""
        if self.preset is None:
            return self
        missing = {field: value for field, value in PRESETS[self.preset].items() if getattr(self, field) is None}
        if self.do_sample is False:
            # What the preset says of sampling goes with the sampling.
            missing = {field: value for field, value in missing.items() if field not in SAMPLING_OPTIONS}
        return self.model_copy(update={**missing, "preset": None})


SAMPLING_OPTIONS = tuple(
    field for field in DecoderConfig.model_fields if metadata_of(DecoderConfig, field).get("sampling")
)
"""What has no effect without sampling."""
