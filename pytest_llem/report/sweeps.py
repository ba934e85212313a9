"""Points of a sweep beside one another: energy against latency, and each against the first and the best one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_llem.report import pareto
from pytest_llem.report.across_engines import PER_TOKEN, across_engines, other_tokens, sweeps
from pytest_llem.report.estimates import Estimate, Ratio, ratio, time_per_output_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_llem.records.record import Record
    from pytest_llem.report.data import ExperimentPage


@dataclass(frozen=True)
class Variant:
    """One point of a sweep.

    Attributes:
        label: its swept values.
        energy: joules per output token where :attr:`Sweep.per_token`, else per call.
        latency: what the reader of a sequence waits for: seconds per output token where :attr:`Sweep.timed_tokens`;
            else of a call, or across engines of a call over all its output tokens.
        joules, seconds: what is held against the best point: per output token where :attr:`Sweep.per_token`, else per
            call; ``None`` where they are not comparable with those of the first point.
        energy_ratio, energy_per_token_ratio, latency_ratio: to the first point, the last of a call or, across engines,
            of its seconds over its output tokens; ``None`` where ``reason`` says why, or a quantity was not measured.
            Of the energy of a call there is none across engines.
        reason: why it is not comparable with the first point, in its joules or at all.
        tokens: where its greedy tokens are others than another engine's; ``None`` where they are not.
    """

    page: ExperimentPage
    label: str
    energy: Estimate | None
    latency: Estimate | None
    joules: Estimate | None
    seconds: Estimate | None
    energy_ratio: Ratio | None
    energy_per_token_ratio: Ratio | None
    latency_ratio: Ratio | None
    reason: str | None
    tokens: str | None = None


@dataclass(frozen=True)
class Sweep:
    """Experiments that differ in swept values only; the first is the reference.

    Attributes:
        name: the experiment's name without the swept values.
        per_token: whether ``energy``, ``joules`` and ``seconds`` of the variants are per output token.
        timed_tokens: whether ``latency`` of the variants is the time between the tokens of a sequence.
        across_engines: whether points ran on different engines, for which a call is not the same work.
    """

    name: str
    file: str
    variants: tuple[Variant, ...]
    per_token: bool
    timed_tokens: bool
    across_engines: bool = False

    @property
    def latency_name(self) -> str:
        """What ``latency`` of the variants is."""
        if self.timed_tokens:
            return "time per output token"
        return "latency over output tokens" if self.across_engines else "latency of a call"

    @property
    def energy_name(self) -> str:
        """What ``energy`` of the variants is."""
        return "energy per output token" if self.per_token else "energy per call"

    @property
    def best_energy(self) -> Variant | None:
        """The valid point that needs the least energy."""
        known = [one for one in self.variants if one.joules is not None and one.page.result.valid]
        return min(known, key=lambda one: one.joules.value if one.joules else 0.0, default=None)

    @property
    def best_time(self) -> Variant | None:
        """The valid point that needs the least time."""
        known = [one for one in self.variants if one.seconds is not None and one.page.result.valid]
        return min(known, key=lambda one: one.seconds.value if one.seconds else 0.0, default=None)

    @cached_property
    def front(self) -> list[Variant]:
        """The points of which none is better in energy and time by the estimates, the fastest one first."""
        points = self._comparable
        return [points[at][0] for at in pareto.front([both for _, both in points])]

    @cached_property
    def dominators(self) -> Mapping[int, Variant]:
        """By the number of an experiment the point that is better in energy and time by more than the uncertainty."""
        points = self._comparable
        found = pareto.dominators([both for _, both in points])
        return {one.page.number: points[at][0] for (one, _), at in zip(points, found, strict=True) if at is not None}

    def standing(self, variant: Variant) -> str:
        """Where a point lies: on the front, behind it for sure, or as near as the uncertainty; empty where the first
        point's kind of joules and windows is another, or it is not valid."""
        if any(one is variant for one in self.front):
            return "on the front"
        if (better := self.dominators.get(variant.page.number)) is not None:
            return f"dominated by {better.label}"
        return "not told apart" if any(one is variant for one, _ in self._comparable) else ""

    @cached_property
    def _comparable(self) -> list[tuple[Variant, tuple[Estimate, Estimate]]]:
        """Valid points with the first one's kind of joules and windows, and their time and energy."""
        return [
            (one, (one.latency, one.energy))
            for one in self.variants
            if one.latency and one.energy and one.reason is None and one.page.result.valid
        ]

    def to_best(self) -> list[tuple[Variant, Ratio | None, Ratio | None]]:
        """Each point with its energy and its time relative to the best one's."""
        least_j = self.best_energy.joules if self.best_energy else None
        least_s = self.best_time.seconds if self.best_time else None
        return [(one, ratio(one.joules, least_j), ratio(one.seconds, least_s)) for one in self.variants]


def sweeps_of(pages: Sequence[ExperimentPage]) -> list[Sweep]:
    """The sweeps among the experiments, those with at least two measured points."""
    page_of = {id(page.source): page for page in pages}
    return [
        _sweep(group, [page_of[id(record)] for record in group]) for group in sweeps([page.source for page in pages])
    ]


def _sweep(records: Sequence[Record], group: Sequence[ExperimentPage]) -> Sweep:
    # Without joules the tokens are known all the same.
    per_token = all(page.result.output_tokens for page in group)
    timed = per_token and all(page.result.time_per_output_token_s for page in group)
    across = across_engines(records)
    tokens = {id(record): text for record, text in other_tokens(records)}
    return Sweep(
        name=group[0].source.name.partition("[")[0],
        file=group[0].source.file,
        variants=tuple(
            _variant(page, group[0], per_token, timed, across, tokens.get(id(page.source))) for page in group
        ),
        per_token=per_token,
        timed_tokens=timed,
        across_engines=across,
    )


def _variant(
    page: ExperimentPage, first: ExperimentPage, per_token: bool, timed: bool, across: bool, tokens: str | None
) -> Variant:
    other_windows = _other_windows(page, first)
    if across and not per_token:
        other_windows = f"{PER_TOKEN}, which is not known"
    reason = other_windows or _other_joules(page, first)
    energy = per_output_token(page) if per_token else page.energy
    latency = _over(page.latency, page.result.output_tokens) if per_token else page.latency
    own, others = (_over(of.latency, of.result.output_tokens) if across else of.latency for of in (page, first))
    return Variant(
        page=page,
        label=", ".join(
            f"{key.split('.')[-1]}: {'default' if value == {} else value}" for key, value in page.source.swept.items()
        ),
        energy=energy if per_token or not across else None,
        latency=time_per_output_token(page.result) if timed else own,
        joules=None if reason else energy,
        seconds=None if other_windows else latency,
        energy_ratio=None if reason or across else ratio(page.energy, first.energy),
        energy_per_token_ratio=None if reason else ratio(per_output_token(page), per_output_token(first)),
        latency_ratio=None if other_windows else ratio(own, others),
        reason=reason,
        tokens=tokens,
    )


def per_output_token(page: ExperimentPage) -> Estimate | None:
    """Joules per output token."""
    return _over(page.energy, page.result.output_tokens)


def _over(quantity: Estimate | None, tokens: float | None) -> Estimate | None:
    """A quantity per output token: a count has no uncertainty, so the half-width is the quantity's over the tokens."""
    if quantity is None or not tokens:
        return None
    half_width = quantity.half_width
    return Estimate(
        quantity.value / tokens, None if half_width is None else half_width / tokens, quantity.degrees_of_freedom
    )


def _other_windows(page: ExperimentPage, first: ExperimentPage) -> str | None:
    if page.result.boundaries != first.result.boundaries:
        return f"its windows were {page.result.boundaries}, those of the first {first.result.boundaries}"
    return None


def _other_joules(page: ExperimentPage, first: ExperimentPage) -> str | None:
    if page.result.estimated != first.result.estimated or page.result.meter != first.result.meter:
        return f"joules of another meter: {page.result.meter}, the first is of {first.result.meter}"
    boards, others = set(page.result.boards), set(first.result.boards)
    # More of the same boards are what dividing a model costs.
    divided = any(field.partition(".")[0] == "parallel" for field in page.source.swept)
    if boards != others and not (divided and (boards < others or boards > others)):
        return "joules of other boards than the first"
    return None
