"""Points of a sweep beside one another: energy against latency, and each against the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_llem.report.estimates import Estimate, Ratio, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.report.data import ExperimentPage


@dataclass(frozen=True)
class Variant:
    """One point of a sweep.

    Attributes:
        label: its swept values.
        energy, latency: what the scatter plot shows: joules per output token where :attr:`Sweep.per_token`, else per
            call; seconds per call.
        energy_ratio, energy_per_token_ratio, latency_ratio: to the first point; ``None`` where ``reason`` says why, or
            a quantity was not measured.
        reason: why its joules are not comparable with those of the first point.
    """

    page: ExperimentPage
    label: str
    energy: Estimate | None
    latency: Estimate | None
    energy_ratio: Ratio | None
    energy_per_token_ratio: Ratio | None
    latency_ratio: Ratio | None
    reason: str | None


@dataclass(frozen=True)
class Sweep:
    """Experiments that differ in swept values only; the first is the reference.

    Attributes:
        name: the experiment's name without the swept values.
        per_token: whether ``energy`` of the variants is per output token.
    """

    name: str
    file: str
    variants: tuple[Variant, ...]
    per_token: bool

    @property
    def energy_name(self) -> str:
        """What ``energy`` of the variants is."""
        return "energy per output token" if self.per_token else "energy per call"


def sweeps_of(pages: Sequence[ExperimentPage]) -> list[Sweep]:
    """The sweeps among the experiments, those with at least two measured points."""
    groups: dict[tuple[str, str], list[ExperimentPage]] = {}
    for page in pages:
        if page.source.swept:
            # A test of the user's own may run several experiments, each with its sweep, under one name.
            experiment = str((page.source.config or {}).get("name", ""))
            groups.setdefault((page.source.nodeid.partition("[")[0], experiment), []).append(page)
    return [_sweep(group) for group in groups.values() if len(group) > 1]


def _sweep(group: Sequence[ExperimentPage]) -> Sweep:
    per_token = all(per_output_token(page) is not None for page in group if page.energy is not None)
    return Sweep(
        name=group[0].source.name.partition("[")[0],
        file=group[0].source.file,
        variants=tuple(_variant(page, group[0], per_token) for page in group),
        per_token=per_token,
    )


def _variant(page: ExperimentPage, first: ExperimentPage, per_token: bool) -> Variant:
    reason = _incomparable(page, first)
    return Variant(
        page=page,
        label=", ".join(
            f"{key.split('.')[-1]}: {'default' if value == {} else value}" for key, value in page.source.swept.items()
        ),
        energy=per_output_token(page) if per_token else page.energy,
        latency=page.latency,
        energy_ratio=None if reason else ratio(page.energy, first.energy),
        energy_per_token_ratio=None if reason else ratio(per_output_token(page), per_output_token(first)),
        latency_ratio=ratio(page.latency, first.latency),
        reason=reason,
    )


def per_output_token(page: ExperimentPage) -> Estimate | None:
    """Joules per output token: a count has no uncertainty, so the half-width is the energy's over the tokens."""
    tokens = page.result.output_tokens
    if page.energy is None or not tokens:
        return None
    half_width = page.energy.half_width
    return Estimate(
        page.energy.value / tokens,
        None if half_width is None else half_width / tokens,
        page.energy.degrees_of_freedom,
    )


def _incomparable(page: ExperimentPage, first: ExperimentPage) -> str | None:
    if page.result.estimated != first.result.estimated or page.result.meter != first.result.meter:
        return f"joules of another meter: {page.result.meter}, the first is of {first.result.meter}"
    if set(page.result.boards) != set(first.result.boards):
        return "joules of other boards than the first"
    return None
