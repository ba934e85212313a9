"""Did greedy decoding generate the same? Not a statistic: one token that differs is a difference.

A greedy token is the one of the largest logit. Where the two largest are nearly equal, another order of the same sums
(another kernel, library or board) may choose the other one, and all tokens after it follow from that. So a difference
is shown with how far apart the two were.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from pytest_llem.verdict.decision import Status, Verdict
from pytest_llem.verdict.limits import SAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NEAR_TIE = 0.1
"""Of the median distance between the two best logits: a tenth of it is a near tie, as about every fifteenth token has
where distances are distributed exponentially."""

_SHOWN_BEFORE, _SHOWN_AFTER = 16, 16


@dataclass(frozen=True)
class GeneratedSequence:
    """What was generated for a prompt.

    Attributes:
        prompt: number of the prompt, from 1.
        tokens: ids of the new tokens: no padding, nothing after end-of-sequence, which belongs to them.
        text: the same decoded; ``None`` where the model has no tokenizer, or one that does not know them.
        logit_gaps: for each token, by how much the best logit was above the second best when it was chosen: those of
            the model, changed by what the experiment says of them (a penalty, a minimum of tokens). ``None`` for a
            token that had no rival, and as a whole where it is not known.
    """

    prompt: int
    tokens: list[int]
    text: str | None = None
    logit_gaps: list[float | None] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratedSequence:
        """Rebuild it from its plain values. Keys of a later schema are dropped."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


class Generated(Protocol):
    """What one side generated: an ``ExperimentResult``, a saved row."""

    @property
    def output_tokens_hash(self) -> str | None: ...

    @property
    def generated(self) -> Sequence[GeneratedSequence]: ...

    @property
    def output_repeats(self) -> bool | None: ...

    @property
    def samples(self) -> bool: ...


@dataclass(frozen=True)
class Choice:
    """What a side generated at one position.

    Attributes:
        token: its id; ``None`` where the sequence had ended.
        text: of the sequence, a few characters about the first that differs; ``None`` where no text tells the sides
            apart.
        logit_gap: see :class:`GeneratedSequence`.
    """

    token: int | None
    text: str | None
    logit_gap: float | None

    def __str__(self) -> str:
        if self.token is None:
            return f"{self.text or 'its text'} (its end)"
        return f"token {self.token}" if self.text is None else f"{self.text} (token {self.token})"


@dataclass(frozen=True)
class Difference:
    """The first difference between two sides.

    Attributes:
        prompt: number of the prompt, from 1.
        position: of the first token that differs, from 1.
        this, other: what the sides have there.
        differing, sequences: how many sequences differ, of how many.
        near_tie: every sequence that differs does so first where the two best logits were nearly equal on both sides,
            as far as they are known.
    """

    prompt: int
    position: int
    this: Choice
    other: Choice
    differing: int
    sequences: int
    near_tie: bool


def first_difference(this: Sequence[GeneratedSequence], other: Sequence[GeneratedSequence]) -> Difference | None:
    """The first sequence that differs, and where; ``None`` where all are the same.

    Raises:
        ValueError: they are not of the same prompts.
    """
    pairs = list(zip(this, other, strict=True))
    differing = [
        (ours, theirs, _parting(ours.tokens, theirs.tokens)) for ours, theirs in pairs if ours.tokens != theirs.tokens
    ]
    if not differing:
        return None
    ours, theirs, at = differing[0]
    texts = _about_the_difference(ours.text, theirs.text)
    medians = _median_gap(this), _median_gap(other)
    return Difference(
        prompt=ours.prompt,
        position=at + 1,
        this=_choice(ours, at, texts[0]),
        other=_choice(theirs, at, texts[1]),
        differing=len(differing),
        sequences=len(pairs),
        near_tie=all(_is_near_tie((a, b), at, medians) for a, b, at in differing),
    )


def judge_outputs(
    this: Generated,
    other: Generated | None,
    *,
    this_is: str = "now",
    other_is: str = "then",
    same_workload: bool = True,
    elsewhere: str | None = None,
) -> Verdict:
    """Judge what one side generated against the other.

    REGRESSED if a token differs, OK if none does; INCONCLUSIVE if the comparison says nothing: it samples, a side
    generates something else each time, the work is another one. A difference needs no second look.

    Args:
        this: what is judged.
        other: what it is judged against; ``None`` for nothing, which is NO-BASELINE.
        this_is, other_is: what the reason calls the sides, as after a value: ``now`` and ``then``, or ``here`` and
            ``on main``.
        same_workload: whether the sides did the same work.
        elsewhere: why a difference would say nothing of the code: how the environments differ. With it, the same tokens
            are OK and others INCONCLUSIVE.
    """
    if (reason := why_not_judged(this, this_is)) is not None:
        return output_verdict(Status.INCONCLUSIVE, reason)
    if other is None:
        return output_verdict(Status.NO_BASELINE, "no saved run to compare with")
    if not same_workload or not _same_prompts(this, other):
        reason = f"another workload {this_is} than {other_is}: the model, the prompts or an option changed"
        return output_verdict(Status.INCONCLUSIVE, reason, saved=1)
    if (reason := why_not_judged(other, other_is)) is not None:
        return output_verdict(Status.INCONCLUSIVE, reason, saved=1)
    if this.output_tokens_hash == other.output_tokens_hash:
        return output_verdict(Status.OK, "; ".join(["the same tokens", *([elsewhere] if elsewhere else [])]), saved=1)
    difference = _reason(this, other, this_is, other_is)
    if elsewhere is not None:
        return output_verdict(Status.INCONCLUSIVE, f"{elsewhere}; {difference}", saved=1)
    return output_verdict(Status.REGRESSED, difference, saved=1)


def why_not_judged(side: Generated, when: str) -> str | None:
    """Why nothing can be said of a side, and nothing held against it; ``None`` where something can."""
    if side.samples:
        return "it samples: only greedy decoding is to give the same tokens"
    if side.output_tokens_hash is None:
        return f"its tokens are not known {when}"
    if side.output_repeats is False:
        return f"it does not agree with itself {when}: passes of the same work generated different tokens"
    return None


def output_verdict(status: Status, reason: str, *, runs: int = 1, saved: int = 0) -> Verdict:
    """A verdict on what was generated, of which no number is known and no further run is asked for."""
    return Verdict(
        status=status,
        change=None,
        interval=None,
        detectable_change=None,
        runs=runs,
        saved=saved,
        limit=SAME,
        reason=reason,
        needs_more_runs=False,
        spread=None,
    )


def _same_prompts(this: Generated, other: Generated) -> bool:
    """Whether the sides generated for as many prompts; what one has not kept is not known to differ."""
    prompts = [[sequence.prompt for sequence in side.generated] for side in (this, other)]
    return prompts[0] == prompts[1] or [] in prompts


def _reason(this: Generated, other: Generated, this_is: str, other_is: str) -> str:
    without = [when for side, when in ((other, other_is), (this, this_is)) if not side.generated]
    found = None if without else first_difference(this.generated, other.generated)
    if found is None:
        kept = f": the tokens themselves were not kept {' nor '.join(without)}" if without else ""
        return f"other tokens {this_is} than {other_is}; at which position is not known{kept}"
    parts = [
        f"prompt {found.prompt}, position {found.position}: {found.other} {other_is}, {found.this} {this_is}",
        f"{found.differing} of {found.sequences} sequences differ",
    ]
    gaps = [
        (choice.logit_gap, when)
        for choice, when in ((found.other, other_is), (found.this, this_is))
        if choice.logit_gap is not None
    ]
    if gaps:
        apart = ", ".join(f"{gap:.3g} apart {when}" for gap, when in gaps)
        tie = ": nearly a tie, which numerics alone may decide either way" if found.near_tie else ""
        parts.append(f"the two best logits were {apart}{tie}")
    return "; ".join(parts)


def _parting(this: Sequence[object], other: Sequence[object]) -> int:
    """The first index where two sequences differ; the length of one that the other begins with."""
    pairs = enumerate(zip(this, other, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(this), len(other)))


def _choice(sequence: GeneratedSequence, at: int, text: str | None) -> Choice:
    return Choice(sequence.tokens[at] if at < len(sequence.tokens) else None, text, _gap(sequence, at))


def _gap(sequence: GeneratedSequence, at: int) -> float | None:
    gaps = sequence.logit_gaps or ()
    return gaps[at] if at < len(gaps) else None


def _median_gap(sequences: Sequence[GeneratedSequence]) -> float | None:
    gaps = [gap for sequence in sequences for gap in sequence.logit_gaps or () if gap is not None]
    return statistics.median(gaps) if gaps else None


def _is_near_tie(
    sides: tuple[GeneratedSequence, GeneratedSequence], at: int, medians: tuple[float | None, float | None]
) -> bool:
    known = [
        gap <= _NEAR_TIE * median
        for side, median in zip(sides, medians, strict=True)
        if median is not None and (gap := _gap(side, at)) is not None
    ]
    return bool(known) and all(known)


def _about_the_difference(this: str | None, other: str | None) -> tuple[str | None, str | None]:
    """A few characters of either text about the first that differs, quoted; nothing where they are the same."""
    if this is None or other is None or this == other:
        return None, None
    at = _parting(this, other)
    return _window(this, at), _window(other, at)


def _window(text: str, at: int) -> str:
    start, end = max(at - _SHOWN_BEFORE, 0), at + _SHOWN_AFTER
    # Quoted as Python does, which shows control characters as escapes.
    return repr(f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}")
