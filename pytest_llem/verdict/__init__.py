"""Did it regress? Statistics on plain numbers: limits, spread, decision, what a result is judged against."""

from pytest_llem.verdict.decision import Run, Spread, Status, Verdict, judge, pooled_spread
from pytest_llem.verdict.pairs import judge_pairs

__all__ = ["Run", "Spread", "Status", "Verdict", "judge", "judge_pairs", "pooled_spread"]
