"""How small a change the pairs of a comparison can find: before the first of them, and once some are there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_llem.items import gates_of
from pytest_llem.records import rows as benchmark
from pytest_llem.report import phrases
from pytest_llem.session.against.verdicts import saved_spreads
from pytest_llem.verdict.pairs import MIN_PAIRS, detectable_by_pairs, expected_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pytest

    from pytest_llem.settings import Settings
    from pytest_llem.verdict.judging import Judged
    from pytest_llem.verdict.limits import Limit
    from pytest_llem.verdict.spread import Spread

# Of differences of pairs, where nothing is known of them: quiet processes, and ones that differ by 2%.
_USUAL_SPREADS = (0.01, 0.028)


def expectation(config: pytest.Config, items: Sequence[pytest.Item], settings: Settings) -> str:
    """What the pairs can find, by how much the saved pairs of a session before differed, or as most would."""
    saved = saved_spreads(benchmark.saved_sessions(config, "last:20"))
    gates = {
        (item.nodeid, metric): limit
        for item in items
        for metric, limit in gates_of(item, settings).items()
        if limit.rule == "interval"  # another rule needs no spread
    }
    known = [(saved[key], limit) for key, limit in gates.items() if key in saved]
    said = [f"at most {settings.pairs} pairs"]
    if known:
        spread, limit = max(known, key=lambda pair: pair[0].relative)
        found = _found_by(lambda _: spread, limit, settings)
        said.append(f"if pairs differ by {spread.relative:.1%}, as saved ones did, {found}")
    for guess in () if known or not gates else _USUAL_SPREADS:
        loosest = max(gates.values(), key=lambda limit: limit.tolerance)
        found = _found_by(partial(expected_spread, guess), loosest, settings)
        said.append(f"if pairs differ by {guess:.1%}, with the limit {loosest} {found}")
    return "; ".join(said)


def detectable(judged: Iterable[Judged], settings: Settings) -> str | None:
    """The same by the pairs that there are, of the gate of which they differ most; ``None`` where none has a spread."""
    known = [(found.verdict.spread, found.candidate) for found in judged if found.verdict.spread is not None]
    if not known:
        return None
    spread, candidate = max(known, key=lambda pair: pair[0].relative)
    found = _found_by(lambda _: spread, candidate.limit, settings)
    return f"{candidate.name} {candidate.metric}: pairs differ by {spread.relative:.1%}, {found}"


def _found_by(spread: Callable[[int], Spread], limit: Limit, settings: Settings) -> str:
    """``spread`` is that of the differences, by the number of pairs."""
    most, (alpha, _) = settings.pairs, settings.error_rates
    found = {
        pairs: detectable_by_pairs(spread(pairs), limit, pairs, alpha=alpha, max_pairs=most)
        for pairs in sorted({MIN_PAIRS, most})
    }
    return phrases.detectable_line(found)
