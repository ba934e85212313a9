"""From an experiment's dataset to prompts, as lists of token ids.

Three kinds of dataset: synthetic token ids of exact lengths, a file or folder of texts and conversations, and the sets
that come with this package. Entries may be shuffled, limited to the first ones, and put into the tokenizer's chat
template.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from dataclasses import dataclass
from datetime import date
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_llem.config import FileDataset, SyntheticDataset
from pytest_llem.config.contradictions import fixed_output_conflicts
from pytest_llem.engines.chat import ChatTemplate
from pytest_llem.engines.datasets.entries import Conversation, FileEntries, builtin_entries
from pytest_llem.engines.datasets.lengths import lengths_of
from pytest_llem.errors import PromptError, about

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, SyntheticPrompts
    from pytest_llem.engines.chat import Tokenizer
    from pytest_llem.engines.datasets.entries import Entry

_DATA_PACKAGE = "pytest_llem.config.data"
_DEFAULT_DATE = "2026-01-01"

# So many prompts are made twice, to find a tokenizer or a template that draws at random.
_MADE_TWICE = 16


@dataclass(frozen=True)
class Prompts:
    """The prompts of an experiment, tokenised.

    Attributes:
        token_ids: one tuple of token ids for each prompt, in the order in which they run.
        truncated: how many prompts were longer than ``max_input_tokens`` and lost their end, or that of the last
            message where they stand in a chat template.
        notes: what else a result should say of them.
        output_tokens: for each, how many tokens are generated, no more and no less; ``None`` where the experiment's
            options alone decide it. An engine carries that out.
    """

    token_ids: tuple[tuple[int, ...], ...]
    truncated: int
    notes: tuple[str, ...] = ()
    output_tokens: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def input_tokens(self) -> int:
        """Tokens of all prompts together."""
        return sum(map(len, self.token_ids))

    def longest_call(self, new_tokens: int, prompts: int = 1) -> tuple[int, int]:
        """Of the call that needs most room the tokens of its longest prompt, and the most that one of its prompts gets.

        Args:
            new_tokens: what each gets, where it has no number of its own.
            prompts: how many a call takes; all of them are as long as the longest, and run as long.
        """
        lengths, each = [len(ids) for ids in self.token_ids], self.output_tokens or (new_tokens,) * len(self)
        calls = (slice(first, first + prompts) for first in range(0, len(self), prompts))
        return max(((max(lengths[call]), max(each[call])) for call in calls), key=sum)

    def sha256(self) -> str:
        """Hex SHA-256 of the token ids, prompt by prompt, in order, and of how many tokens each gets."""
        text = "\n".join(" ".join(map(str, ids)) for ids in self.token_ids)
        if self.output_tokens is not None:
            text += "\n\n" + " ".join(map(str, self.output_tokens))
        return hashlib.sha256(text.encode()).hexdigest()


def load_prompts(
    config: ExperimentConfig,
    folder: Path,
    *,
    vocabulary_size: int,
    special_ids: Collection[int],
    tokenizer: Tokenizer | None,
) -> Prompts:
    """The prompts of ``config``.

    Args:
        config: the experiment; its fields of the prompts and its seeds are used.
        folder: where a relative ``dataset.path`` starts.
        vocabulary_size: number of token ids that the model has an embedding for.
        special_ids: token ids that synthetic prompts leave out.
        tokenizer: turns texts into token ids; ``None`` where the model has none.

    Raises:
        PromptError: the dataset cannot be read, is empty or holds fewer prompts than asked for, there is no chat
            template that takes them whole and leaves room for them, their tokens are not the model's, or what is to be
            generated for them is more than ``max_output_tokens``, or does not go with other options.
        UnavailableError: a package that reads the dataset is missing.
    """
    dataset = config.dataset
    if isinstance(dataset, SyntheticDataset):
        return _synthetic(config, dataset.synthetic, folder, vocabulary_size, special_ids)
    if isinstance(dataset, FileDataset):
        file = FileEntries(dataset, folder, chat=bool(config.chat))
        found: FileEntries | Iterator[Entry] = file
        place = {"file": str(file.path)}
    else:
        file, name = None, dataset if isinstance(dataset, str) else dataset.builtin
        found = _builtin(name)
        place = {"field": "dataset", "value": name}
    with about(**place):
        if isinstance(dataset, str):
            entries = list(found)
        else:
            entries = _selected(found, dataset.n, config.dataset_seed if dataset.shuffle else None)
        if not entries:
            raise PromptError("holds no prompts")
        if tokenizer is None:
            raise PromptError("the model comes without a tokenizer; use a synthetic dataset")
    today = config.template_date or _DEFAULT_DATE
    with about(field="chat"):
        template = ChatTemplate(tokenizer, date.fromisoformat(today)) if config.chat else None
    output_tokens = _said_output_tokens(config, entries) or _drawn_output_tokens(config, folder, len(entries))
    ids, truncated = _tokenise(entries, tokenizer, template, config.max_input_tokens, vocabulary_size)
    notes = [] if file is None else file.notes
    if template is not None and template.uses_date:
        notes.append(f"template_date: the chat template writes the date {today}")
    return Prompts(ids, truncated, tuple(notes), output_tokens)


def _synthetic(
    config: ExperimentConfig,
    synthetic: SyntheticPrompts,
    folder: Path,
    vocabulary_size: int,
    special_ids: Collection[int],
) -> Prompts:
    limit = config.max_input_tokens
    n, prefix = synthetic.n, synthetic.shared_prefix or 0
    if synthetic.lengths is None:
        lengths = [config.input_len or limit] * n
    else:
        seed = config.dataset_seed
        lengths = lengths_of(
            synthetic.lengths, n, of="input", seed=seed, folder=folder, limit=limit, limited_by="max_input_tokens"
        )
    if prefix > min(lengths):
        message = f"is above the {min(lengths)} tokens of the shortest prompt; lower it"
        raise PromptError(message, field="dataset.synthetic.shared_prefix", value=prefix)
    ids = synthetic_token_ids(lengths, config.dataset_seed, vocabulary_size, special_ids)
    ids = tuple(ids[0][:prefix] + prompt[prefix:] for prompt in ids)
    return Prompts(ids, truncated=0, output_tokens=_drawn_output_tokens(config, folder, n))


def _drawn_output_tokens(config: ExperimentConfig, folder: Path, n: int) -> tuple[int, ...] | None:
    """How many tokens each of ``n`` prompts gets by ``output_lengths``; ``None`` where it is not set."""
    if config.output_lengths is None:
        return None
    limit, seed = config.max_output_tokens, config.dataset_seed
    return tuple(
        lengths_of(
            config.output_lengths, n, of="output", seed=seed, folder=folder, limit=limit, limited_by="max_output_tokens"
        )
    )


def _said_output_tokens(config: ExperimentConfig, entries: Sequence[Entry]) -> tuple[int, ...] | None:
    """How many tokens each of ``entries`` gets by its own file; ``None`` where that says nothing."""
    saying = next((entry.file for entry in entries if entry.output_tokens is not None), None)
    if saying is None:
        return None
    for field, message in fixed_output_conflicts(config, saying):
        raise PromptError(message, field=field)
    if config.output_lengths is not None:
        raise PromptError(f"does not go with {saying}, whose requests say it; remove it", field="output_lengths")
    limit, found = config.max_output_tokens, []
    for entry in entries:
        with about(file=entry.file, line=entry.line):
            if entry.output_tokens is None:
                raise PromptError("does not say max_tokens, and other requests do; say it in all or in none")
            if entry.output_tokens > limit:
                raise PromptError(f"{entry.output_tokens} new tokens are above max_output_tokens ({limit}); raise it")
        found.append(entry.output_tokens)
    return tuple(found)


def synthetic_token_ids(
    lengths: Sequence[int], seed: int, vocabulary_size: int, special_ids: Collection[int]
) -> tuple[tuple[int, ...], ...]:
    """Prompts of so many token ids, drawn uniformly from the vocabulary without ``special_ids``.

    The same arguments give the same ids on every machine and Python version: ``random()`` is the one method
    of :class:`random.Random` whose sequence is promised to stay.
    """
    specials = sorted(id_ for id_ in set(special_ids) if 0 <= id_ < vocabulary_size)
    ordinary = vocabulary_size - len(specials)
    if ordinary < 1:
        raise PromptError("the model's vocabulary has no ordinary token to draw synthetic prompts from")
    draw = random.Random(seed).random  # noqa: S311  (reproducible on purpose)

    def token_id() -> int:
        id_ = int(draw() * ordinary)
        for special in specials:
            if id_ < special:
                break
            id_ += 1
        return id_

    return tuple(tuple(token_id() for _ in range(length)) for length in lengths)


def _builtin(name: str) -> Iterator[Entry]:
    file = resources.files(_DATA_PACKAGE) / f"{name}.jsonl"
    return builtin_entries(file.read_text(encoding="utf-8").splitlines(), file.name)


def _selected(entries: Iterable[Entry], n: int | None, seed: int | None) -> list[Entry]:
    """The first ``n`` of ``entries``, in the order that ``seed`` decides; ``None`` leaves them all, or in their order.

    Where the order stays, no further ones are read.
    """
    read = list(islice(entries, n if seed is None else None))
    if read and n is not None and n > len(read):
        raise PromptError(f"holds {len(read)} prompts, fewer than n ({n}); lower n")
    order = list(range(len(read)))
    if seed is not None:
        random.Random(seed).shuffle(order)  # noqa: S311  (reproducible on purpose)
    return [read[index] for index in order[:n]]


def _tokenise(
    entries: Sequence[Entry], tokenizer: Tokenizer, template: ChatTemplate | None, limit: int, vocabulary_size: int
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The token ids of ``entries``, and how many of them were cut to ``limit``."""
    prompts: list[tuple[int, ...]] = []
    truncated = 0
    for number, entry in enumerate(entries, start=1):
        with about(file=entry.file, line=entry.line, field=f"prompt {number}"):
            text, encode = _encoding(entry.content, tokenizer, template)
            ids = encode(text)
            if number <= _MADE_TWICE and encode(text) != ids:
                raise PromptError(
                    "gets other tokens each time: the tokenizer or its chat template draws at random; remove what "
                    "draws (a dropout in tokenizer.json, the filter random in the template)"
                )
            if len(ids) > limit:
                truncated += 1
                ids = ids[:limit] if template is None else _shortened(text, encode, limit)
            _check_embedded(ids, vocabulary_size, tokenizer)
        prompts.append(tuple(ids))
    return tuple(prompts), truncated


def _encoding(
    content: str | Conversation, tokenizer: Tokenizer, template: ChatTemplate | None
) -> tuple[str, Callable[[str], list[int]]]:
    """The text of an entry that may be cut, and what makes token ids of such a text."""
    if template is None:
        # Without a template no conversations are read.
        return str(content), lambda text: list(tokenizer(text)["input_ids"])
    conversation = Conversation.of(content) if isinstance(content, str) else content
    return conversation.last_text, lambda text: template.token_ids(conversation.ending_in(text))


def _check_embedded(ids: Sequence[int], vocabulary_size: int, tokenizer: Tokenizer) -> None:
    if not ids:
        raise PromptError("has no tokens")
    if max(ids) >= vocabulary_size:
        raise PromptError(
            f"has the token id {max(ids)}, but the model embeds {vocabulary_size} tokens, and its tokenizer has "
            f"{len(tokenizer)}: one of the two is another model's"
        )


def _shortened(text: str, encode: Callable[[str], list[int]], limit: int) -> list[int]:
    """The token ids of the longest beginning of ``text`` of which ``encode`` makes no more than ``limit``.

    The text is cut and not the ids, whose end is the header of the answer.

    Raises:
        PromptError: there is no such beginning.
    """

    def exceeds(characters: int) -> bool:
        return len(encode(text[:characters])) > limit

    # Up from a short text: tokenising much more than is kept takes long where texts are whole documents.
    high = min(limit, len(text))
    while high < len(text) and not exceeds(high):
        high = min(2 * high, len(text))
    # A few more characters may make fewer tokens, but what the search ends at has been tried and fits.
    kept = bisect.bisect_left(range(1, high + 1), True, key=exceeds)
    if not kept:
        raise PromptError(f"the chat template leaves it no room in {limit} tokens; raise max_input_tokens")
    return encode(text[:kept])


def text_of(tokenizer: Any, tokens: list[int]) -> str | None:
    """What tokens spell; ``None`` without a tokenizer, or where it does not know them."""
    if tokenizer is None:
        return None
    try:
        return str(tokenizer.decode(tokens))
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        # A model may embed more tokens than its tokenizer has.
        return None
