"""Did it regress? Statistics on plain numbers: limits, spread, decision, what a result is judged against."""

from pytest_llem.verdict.decision import Run, Spread, Status, Verdict, judge, pooled_spread

__all__ = ["Run", "Spread", "Status", "Verdict", "judge", "pooled_spread"]
