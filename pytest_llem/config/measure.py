"""The ``measure:`` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pytest_llem.config.base import Conflict, Section, expects, option, refusal, refuse
from pytest_llem.verdict.limits import parse_limit

# The energy of a settled window is known to some 0.3 J (two H200), however long it is: what a board draws in so many
# seconds that idles at 60 W. It is alike in all windows, so that it does not shrink with their number.
_SETTLED_S = 0.005
# Of shorter ones the samples of a board's power, every 20 ms, show too little to tell one from the next.
_SHORTEST_JOINED_S = 0.05
_DEFAULT_PRECISION = 0.01


def _precision(value: Any) -> str:
    try:
        limit = parse_limit(str(value))
    except ValueError:
        limit = None
    if limit is None or ".." in str(value) or ";" in str(value) or not limit.limit < 1:
        raise refusal(f"{str(value)[:40]!r} is no precision; write a percentage such as 1%")
    return str(value)


class MeasureConfig(Section, stage="measurement"):
    """The ``measure:`` section: how often and how long is measured."""

    rounds: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"],
        expects("an integer, at least 1, or auto"),
    ] = option(
        "Measured windows. auto: as many as precision needs, at least 3, until they have taken budget_s.", default=10
    )
    precision: Annotated[str, BeforeValidator(_precision)] | None = option(
        "With rounds: auto, the half-width of the 95% interval of the energy (where none is known, of the time) that "
        "the rounds are to reach. Unset: 1%."
    )
    budget_s: float | None = option(
        "With rounds: auto, the seconds after which no further round is begun. Unset: 60.", unit="s", gt=0
    )
    warmup_rounds: int = option("Passes over the prompts before the first measured window, at least.", default=2, ge=0)
    min_window_s: Annotated[
        Annotated[float, Field(ge=0)] | Literal["auto"] | None,
        expects("a number of seconds, at least 0, or auto"),
    ] = option(
        "Shortest window: whole passes are repeated until it is filled; 0 is one pass. auto: long enough for "
        "the sensor, as probed. Unset: auto on a GPU with the nvml meter, 1.0 elsewhere.",
        unit="s",
    )
    phases: Annotated[
        bool | Literal["one-token", "both"],
        expects("true, false, one-token or both"),
    ] = option(
        "Measure prefill and decode apart as well. true: from the same windows, by the board's power samples; where "
        "they do not tell it, and with one-token, by further windows of calls that stop after one token; both: both, "
        "compared.",
        default=False,
    )
    boundaries: Literal["settled", "joined"] | None = option(
        "How windows are bounded: settled: each on a device at rest; joined: back to back on a loaded one, which waits "
        "for the sensor once an experiment and not once a round. Results of the two are never compared. Unset: "
        "settled, unless rounds: auto asks for a precision that settled windows of min_window_s, of 0.05 s or more, do "
        "not have."
    )

    @property
    def relative_precision(self) -> float:
        """What ``precision`` says or its default, as a fraction."""
        return parse_limit(self.precision).limit if self.precision else _DEFAULT_PRECISION

    @property
    def is_joined(self) -> bool:
        """Whether windows are joined. The file alone decides, so that it is the same in every run of a workload."""
        if self.boundaries is not None:
            return self.boundaries == "joined"
        if self.rounds != "auto":
            return False
        # A window whose length is left to the meter is as long as 1% needs.
        window_s = self.min_window_s if isinstance(self.min_window_s, float) else _SETTLED_S / _DEFAULT_PRECISION
        return window_s >= _SHORTEST_JOINED_S and self.relative_precision * window_s < _SETTLED_S * (1 - 1e-9)

    @model_validator(mode="after")
    def _refuse_what_has_no_effect(self) -> Self:
        given = {"precision": self.precision, "budget_s": self.budget_s}
        fixed = self.rounds != "auto"
        refuse(
            self,
            (
                Conflict(field, f"has no effect with rounds: {self.rounds}; set rounds: auto or remove it")
                for field, value in given.items()
                if fixed and value is not None
            ),
        )
        return self
