"""How long prompts and outputs are, where they differ: a truncated normal distribution, or a histogram from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from pytest_llem.config.base import EXPECTED, REFUSED, Conflict, Section, option, refuse
from pytest_llem.distributions import truncated_normal_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

# More tokens than any model reads, so that bounds that are as good as none are numbers to reckon with.
_MOST_TOKENS = 2**31

# Farther from the bounds than so many standard deviations, what is left of a normal distribution is no bell at all.
_FARTHEST_CENTRE = 4.0

_GIVEN = ("mean", "sd", "min", "max")


class Lengths(Section, stage="prompts"):
    """``lengths: {mean: 128, sd: 32, min: 16, max: 512}``, or the path of a histogram."""

    mean: float | None = option("Mean of the lengths, which they have exactly.", unit="tokens", ge=1)
    sd: float | None = option(
        "Standard deviation of the normal distribution before it is cut off at min and max.",
        unit="tokens",
        ge=0,
        le=1e6,
    )
    min: int | None = option("Least length. Unset: 1.", unit="tokens", ge=1)
    max: int | None = option(
        "Greatest length. Unset: max_input_tokens, or of outputs max_output_tokens.",
        unit="tokens",
        ge=1,
        le=_MOST_TOKENS,
    )
    file: str | None = option(
        "In place of the others: a histogram, .csv with a line `length,count` for each length, or .json with "
        "{length: count}; a relative path starts at the experiment file's folder. A text alone means this.",
        min_length=1,
    )

    @property
    def least(self) -> int:
        """The least length of a distribution."""
        return self.min or 1

    def greatest(self, limit: int) -> int:
        """The greatest length of a distribution, where the experiment allows ``limit``."""
        return self.max or min(limit, _MOST_TOKENS)

    @model_validator(mode="after")
    def _refuse_halves(self) -> Self:
        refuse(self, self._mistakes(), REFUSED)
        return self

    def _mistakes(self) -> Iterator[Conflict]:
        if self.file is not None:
            for name in _GIVEN:
                if getattr(self, name) is not None:
                    yield Conflict(name, "does not go with file, which has all lengths; remove one of the two")
            return
        for name in ("mean", "sd"):
            if getattr(self, name) is None:
                yield Conflict(name, "is missing; give mean and sd, or a file with a histogram")

    def conflicts(self, limit: int, limited_by: str) -> Iterator[Conflict]:
        """What of a distribution cannot be.

        Args:
            limit: the greatest length that the experiment allows.
            limited_by: the field that says so.
        """
        if self.mean is None or self.sd is None:
            return
        greatest = self.greatest(limit)
        if greatest > limit:
            yield Conflict("max", f"{greatest} is above {limited_by} ({limit}); lower it or raise {limited_by}")
        elif self.least > greatest:
            bound = "max" if self.max is not None else limited_by
            yield Conflict("min", f"{self.least} is above {bound} ({greatest}); lower it or raise {bound}")
        elif not self.least <= self.mean <= greatest:
            yield Conflict("mean", f"{self.mean:g} is not between {self.least} and {greatest}; change it or the bounds")
        elif self.sd and self.least < greatest and not self._has_a_bell(self.mean, self.sd, greatest):
            yield Conflict(
                "sd",
                f"a normal distribution with an sd of {self.sd:g} that is cut off at {self.least} and {greatest} does "
                f"not have the mean {self.mean:g}; lower sd, or move the bounds",
            )

    def _has_a_bell(self, mean: float, sd: float, greatest: int) -> bool:
        """Whether some centre that is not too far away gives the mean."""
        away = _FARTHEST_CENTRE * sd
        lowest, highest = (
            truncated_normal_mean(centre, sd, self.least, greatest) for centre in (self.least - away, greatest + away)
        )
        return lowest <= mean <= highest


class OutputLengths(Lengths, stage="call"):
    """``output_lengths: {mean: 64, sd: 16}``, or the path of a histogram."""


def _file_alone(value: Any) -> Any:
    if isinstance(value, str):
        return {"file": value}
    if not isinstance(value, Mapping | Lengths):
        raise PydanticCustomError(EXPECTED, "expected a mapping with mean and sd, or the path of a histogram")
    return value


AnyLengths = Annotated[Lengths, BeforeValidator(_file_alone, json_schema_input_type=str | Lengths)]
AnyOutputLengths = Annotated[OutputLengths, BeforeValidator(_file_alone, json_schema_input_type=str | OutputLengths)]
