"""Whether passes have become steady: whether a trend in their times can still be told from their own noise.

A fixed tolerance cannot say that: work that waits for its host differs by 3 to 10% from pass to pass for ever, and work
bound by a GPU still falls by 1% when it has long been warm enough for others. So the newest half of the times, in up to
six blocks of neighbours, is tested for a trend by Mann and Kendall's test, which asks only how many pairs of blocks are
in order, and so knows no scale and is not misled by one pass that was held up.
"""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST = 4
"""With fewer passes no trend can be told from chance."""

_MOST_BLOCKS = 6
# Pairs in order less pairs out of order that occur by chance in 8.3%, 8.3% and 5.6% of sequences without a trend (the
# exact distribution of Kendall's S, both sides).
_CRITICAL = {4: 6, 5: 8, 6: 11}
# Less than that, from end to end, is not worth a pass.
_NEGLIGIBLE = 0.01


def has_trend(times_s: Sequence[float]) -> bool:
    """Whether the newest half of the passes still gets faster or slower, by more than 1% and more than by chance.

    Args:
        times_s: of each pass so far, oldest first, in seconds; at least :data:`FEWEST`.
    """
    newest = times_s[-max(FEWEST, (len(times_s) + 1) // 2) :]
    count = min(len(newest), _MOST_BLOCKS)
    bounds = [len(newest) * number // count for number in range(count + 1)]
    blocks = [statistics.fmean(newest[start:end]) for start, end in pairwise(bounds)]
    pairs = [(blocks[i], blocks[j]) for i in range(count) for j in range(i + 1, count)]
    score = sum((later > earlier) - (later < earlier) for earlier, later in pairs)
    third = count // 3
    change = statistics.fmean(blocks[-third:]) / statistics.fmean(blocks[:third]) - 1.0
    return abs(score) >= _CRITICAL[count] and abs(change) > _NEGLIGIBLE
