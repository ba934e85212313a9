"""The results at the end of a session, each with its uncertainty and its warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.report import footprints, phrases
from pytest_llem.report.across_engines import PER_TOKEN, across_engines, sweeps
from pytest_llem.report.explanations import rounds_differ, waiting, waiting_line
from pytest_llem.report.pairs import ENERGY, LATENCY, POWER, compared_of
from pytest_llem.report.quantities import UNKNOWN, number, with_uncertainty
from pytest_llem.report.time_spent import session_line
from pytest_llem.report.verdicts import verdict_lines
from pytest_llem.verdict.decision import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.records.record import Record
    from pytest_llem.verdict.judging import Judged

_COLOURS: dict[Status, dict[str, bool]] = {
    Status.REGRESSED: {"red": True, "bold": True},
    Status.IMPROVED: {"green": True},
    Status.INCONCLUSIVE: {"yellow": True},
    Status.NO_BASELINE: {"yellow": True},
}
_HEADINGS = (
    *("experiment", "energy/call", "with host", "energy/token", "latency/call", "first token", "tokens/s"),
    *("idle share", "meter"),
)
_PAIR_HEADINGS = ("experiment", "energy/call, this / other", "change", "time change", "power change", "pairs")


def say_line(reporter: pytest.TerminalReporter, line: str) -> None:
    """Write a line of its own while items run: a quiet session's line of dots is one that ``write_line`` overlooks."""
    reporter.ensure_newline()
    writer = reporter.config.get_terminal_writer()
    if writer.width_of_current_line:
        writer.line()
    reporter.write_line(line)


def write_summary(
    reporter: pytest.TerminalReporter, records: Sequence[Record], judged: Sequence[Judged], notes: Sequence[str]
) -> None:
    """The results, what explains them, the verdicts (at every verbosity), and what else there is to say."""
    if records:
        write_results(reporter, records)
        if reporter.config.get_verbosity() >= 0:
            write_explanations(reporter, records)
    for found, line in zip(judged, verdict_lines(judged), strict=True):
        reporter.write_line(line, **_COLOURS.get(found.verdict.status, {}))
    for note in notes:
        reporter.write_line(note)


def write_results(reporter: pytest.TerminalReporter, records: Sequence[Record]) -> None:
    """One aligned line per result, the same of those in pairs, then the warnings. Quiet sessions keep what concerns
    validity."""
    if reporter.config.get_verbosity() >= 0:
        reporter.section("energy of LLM inference (intervals of 95%)", sep="-")
        rows = [_HEADINGS, *((record.name, *_cells(record.result)) for record in records)]
        for heading, field in (("idle share", "idle_share"), ("with host", "energy_total_j")):
            if all(getattr(record.result, field) is None for record in records):
                at = rows[0].index(heading)
                rows = [(*row[:at], *row[at + 1 :]) for row in rows]
        _write_table(reporter, rows)
        write_pairs(reporter, records)
        write_footprints(reporter, records)
    for record in records:
        if not record.result.valid:
            reporter.write_line(f"INVALID {record.name}: never used as a baseline", red=True)
        for text in _invalid_in_pairs(record):
            reporter.write_line(f"INVALID {record.name}{text}", red=True)
    for warning, names in _warnings(records, reporter.config.get_verbosity()).items():
        reporter.write_line(f"{_who(names)}: {warning}", yellow=True)


def write_pairs(reporter: pytest.TerminalReporter, records: Sequence[Record]) -> None:
    """One aligned line for each result that was measured in pairs."""
    rows: list[Sequence[str]] = [_PAIR_HEADINGS]
    for record in records:
        if (compared := compared_of(record)) is not None:
            energy, latency, power = (compared.quantity(name) for name in (ENERGY, LATENCY, POWER))
            both = UNKNOWN if energy is None else f"{number(energy.this, 'J')} / {number(energy.other, 'J')}"
            cells = (phrases.changed(quantity) for quantity in (energy, latency, power))
            rows.append((record.name, both, *cells, str(compared.pairs)))
    if len(rows) > 1:
        against = ", ".join(dict.fromkeys(record.against for record in records if record.other_runs))
        reporter.section(f"against {against} (intervals of 95% over pairs)", sep="-")
        _write_table(reporter, rows)


def write_footprints(reporter: pytest.TerminalReporter, records: Sequence[Record]) -> None:
    """One aligned line for each result's carbon and one for its cost, where they were asked for."""
    if rows := footprints.rows(records):
        reporter.section(f"{footprints.TITLE.lower()} (intervals of 95%)", sep="-")
        _write_table(reporter, [footprints.HEADINGS, *rows])
        reporter.write_line(
            f"llem: {footprints.TITLE.lower()} {footprints.explanation(record.result for record in records)}"
        )


def _write_table(reporter: pytest.TerminalReporter, rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns, the first one of words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        aligned = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))]
        reporter.write_line("  ".join(aligned).rstrip())


def _invalid_in_pairs(record: Record) -> Iterator[str]:
    """Which results of pairs were disturbed, but this side's first, which every result has."""
    for pair, run in enumerate(record.more_runs if record.against else (), 2):
        if not run.valid:
            yield f", pair {pair}"
    for pair, other in enumerate(record.other_runs, 1):
        if not other.result.valid:
            yield f" on {record.against}, pair {pair}"


def write_explanations(reporter: pytest.TerminalReporter, records: Sequence[Record]) -> None:
    """Which boards waited for their host, how rounds differ (verbose sessions only), what is not alike on
    two engines, and where the time went."""
    waited: dict[tuple[str, ...], dict[str, float]] = {}
    for record in records:
        if (found := waiting(record)) is not None:
            waited.setdefault(found.remedies, {})[record.name] = found.idle_share
    for remedies, shares in waited.items():
        reporter.write_line(f"{_who([*shares])}: {waiting_line([*shares.values()], remedies)}")
    for record in records if reporter.config.get_verbosity() > 0 else ():
        if (text := rounds_differ(record.result)) is not None:
            reporter.write_line(f"{record.name}: {text}")
    if any(across_engines(points) for points in sweeps(records)):
        reporter.write_line(f"llem: {PER_TOKEN}")
    for reason, names in _hosts_unread(records).items():
        reporter.write_line(f"llem: host not measured ({_who(names)}): {reason}; --llem-host none leaves it out")
    if (line := session_line(records)) is not None:
        reporter.write_line(f"llem: {line}")


def _hosts_unread(records: Sequence[Record]) -> dict[str, list[str]]:
    """The experiments whose host could not be read, by reason: most often one of the machine, and the same for all."""
    found: dict[str, list[str]] = {}
    for record in records:
        if (reason := record.result.missing.get("energy_host_j")) is not None:
            found.setdefault(reason, []).append(record.name)
    return found


def _who(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} experiments"


def _warnings(records: Sequence[Record], verbosity: int) -> dict[str, list[str]]:
    """Each warning once, with the experiments that it concerns; of pairs those of both sides, the other one's named.
    Quiet sessions show why a result is invalid or has no energy, and no more."""
    warnings: dict[str, dict[str, None]] = {}
    for record in records:
        sides = [("", record.result)]
        if record.against:
            sides += [("", run) for run in record.more_runs]
            sides += [(f"{record.against}: ", run.result) for run in record.other_runs]
        for side, result in sides:
            shown = result.warnings
            if verbosity < 0 and result.valid:
                shown = [f"energy_j: {result.missing['energy_j']}"] if "energy_j" in result.missing else []
            for warning in shown:
                warnings.setdefault(f"{side}{warning}", {})[record.name] = None
    return {warning: list(names) for warning, names in warnings.items()}


def _cells(result: ExperimentResult) -> tuple[str, ...]:
    return (
        with_uncertainty(result.energy_j, result.energy_uncertainty_j, "J"),
        with_uncertainty(result.energy_total_j, result.energy_total_uncertainty_j, "J"),
        number(result.energy_per_output_token_j, "J"),
        number(result.latency_s, "s"),
        number(result.time_to_first_token_s, "s"),
        number(result.output_tokens_per_s, ""),
        phrases.share(result.idle_share),
        phrases.meter(result),
    )
