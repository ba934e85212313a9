"""From an experiment's dataset to prompts, as lists of token ids.

Three kinds of dataset: synthetic token ids of an exact length, a file of texts (JSON Lines with a field, or
plain text with one prompt a line), and the sets that come with this package. Texts may be shuffled, limited to
the first ones, and put into the tokenizer's chat template, as a user's message.
"""

from __future__ import annotations

import bisect
import difflib
import hashlib
import json
import random
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_llem.config import FileDataset, SyntheticDataset
from pytest_llem.engines.chat import ChatTemplate
from pytest_llem.errors import PromptError, about

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.chat import Tokenizer

_DATA_PACKAGE = "pytest_llem.config.data"
_DEFAULT_FIELD = "prompt"
_SUFFIXES = (".jsonl", ".ndjson", ".txt")
_DEFAULT_DATE = "2026-01-01"

# So many prompts are made twice, to find a tokenizer or a template that draws at random.
_MADE_TWICE = 16


class _Text(NamedTuple):
    """A prompt before it is tokenised, and where it stands."""

    text: str
    file: str
    line: int


@dataclass(frozen=True)
class Prompts:
    """The prompts of an experiment, tokenised.

    Attributes:
        token_ids: one tuple of token ids for each prompt, in the order in which they run.
        truncated: how many prompts were longer than ``max_input_tokens`` and lost their end, or that of the user's
            text where it stands in a chat template.
        notes: what else a result should say of them.
    """

    token_ids: tuple[tuple[int, ...], ...]
    truncated: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def input_tokens(self) -> int:
        """Tokens of all prompts together."""
        return sum(map(len, self.token_ids))

    def sha256(self) -> str:
        """Hex SHA-256 of the token ids, prompt by prompt, in order."""
        text = "\n".join(" ".join(map(str, ids)) for ids in self.token_ids)
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
            template that takes them whole and leaves room for them, or their tokens are not the model's.
    """
    dataset, limit = config.dataset, config.max_input_tokens
    if isinstance(dataset, SyntheticDataset):
        length = config.input_len or limit
        ids = synthetic_token_ids(dataset.synthetic.n, length, config.dataset_seed, vocabulary_size, special_ids)
        return Prompts(ids, truncated=0)

    if isinstance(dataset, FileDataset):
        path = folder / Path(dataset.path).expanduser()
        place, read = {"file": str(path)}, partial(_file_texts, path, dataset.field or _DEFAULT_FIELD)
    else:
        name = dataset if isinstance(dataset, str) else dataset.builtin
        place, read = {"field": "dataset", "value": name}, partial(_builtin_texts, name)
    with about(**place):
        texts = read()
        if not texts:
            raise PromptError("holds no prompts")
        if not isinstance(dataset, str):
            texts = _selected(texts, dataset.n, config.dataset_seed if dataset.shuffle else None)
        if tokenizer is None:
            raise PromptError("the model comes without a tokenizer; use a synthetic dataset")
    today = config.template_date or _DEFAULT_DATE
    with about(field="chat"):
        template = ChatTemplate(tokenizer, date.fromisoformat(today)) if config.chat else None
    ids, truncated = _tokenise(texts, tokenizer, template, limit, vocabulary_size)
    dated = template is not None and template.uses_date
    return Prompts(ids, truncated, (f"template_date: the chat template writes the date {today}",) if dated else ())


def synthetic_token_ids(
    n: int, length: int, seed: int, vocabulary_size: int, special_ids: Collection[int]
) -> tuple[tuple[int, ...], ...]:
    """``n`` prompts of ``length`` token ids, drawn uniformly from the vocabulary without ``special_ids``.

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

    return tuple(tuple(token_id() for _ in range(length)) for _ in range(n))


def _selected(texts: Sequence[_Text], n: int | None, seed: int | None) -> list[_Text]:
    """The first ``n`` of ``texts``, in the order that ``seed`` decides; ``None`` leaves them all, or in their order."""
    if n is not None and n > len(texts):
        raise PromptError(f"holds {len(texts)} prompts, fewer than n ({n}); lower n")
    order = list(range(len(texts)))
    if seed is not None:
        random.Random(seed).shuffle(order)  # noqa: S311  (reproducible on purpose)
    return [texts[index] for index in order[:n]]


def _builtin_texts(name: str) -> list[_Text]:
    file = resources.files(_DATA_PACKAGE) / f"{name}.jsonl"
    return _json_lines(file.read_text(encoding="utf-8").splitlines(), _DEFAULT_FIELD, file.name)


def _file_texts(path: Path, field: str) -> list[_Text]:
    kind = path.suffix.lower()
    if kind not in _SUFFIXES:
        raise PromptError("prompts are read from .jsonl (a JSON object per line) or .txt (a prompt per line)")
    try:
        # A device or a pipe might never end, or never begin.
        if path.exists() and not path.is_file():
            raise PromptError("cannot be read: not a file")
        # Not str.splitlines: it also splits at characters that JSON strings may hold.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as exc:
        raise PromptError(f"cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise PromptError(f"is not UTF-8: {exc.reason}; save the file as UTF-8", line=line) from exc
    if kind != ".txt":
        return _json_lines(lines, field, str(path))
    return [_Text(text, str(path), number) for number, text in enumerate(lines, start=1) if text.strip()]


def _json_lines(lines: Iterable[str], field: str, file: str) -> list[_Text]:
    texts: list[_Text] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with about(file=file, line=number):
                texts.append(_Text(_field(line, field), file, number))
    return texts


def _field(line: str, field: str) -> str:
    """The text in ``field`` of a line of JSON."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as exc:
        raise PromptError(f"not JSON: {exc.msg} at column {exc.colno}") from exc
    except (ValueError, RecursionError) as exc:
        raise PromptError(f"not JSON: {exc}") from exc
    if not isinstance(entry, dict):
        raise PromptError(f"expected a JSON object, found {type(entry).__name__}")
    if field not in entry:
        near = difflib.get_close_matches(field, entry, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise PromptError(f"no field {field!r}: {hint}there is {', '.join(entry) or 'nothing'}")
    text = entry[field]
    if not isinstance(text, str) or not text:
        raise PromptError(f"field {field!r} is not a text, or is empty")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        half = f"half a character ({text[exc.start]}) after {exc.start} others"
        raise PromptError(f"field {field!r} holds {half}: complete its escape, or remove it") from exc
    return text


def _tokenise(
    texts: Sequence[_Text], tokenizer: Tokenizer, template: ChatTemplate | None, limit: int, vocabulary_size: int
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """The token ids of ``texts``, and how many of them were cut to ``limit``."""

    def plain(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    encode = plain if template is None else template.token_ids
    prompts: list[tuple[int, ...]] = []
    truncated = 0
    for number, (text, file, line) in enumerate(texts, start=1):
        with about(file=file, line=line, field=f"prompt {number}"):
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
