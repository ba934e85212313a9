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
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_llem.config import FileDataset, SyntheticDataset
from pytest_llem.errors import LlemError, about

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pytest_llem.config import ExperimentConfig

_DATA_PACKAGE = "pytest_llem.config.data"
_DEFAULT_FIELD = "prompt"
_SUFFIXES = (".jsonl", ".ndjson", ".txt")


class PromptError(LlemError):
    """The prompts of an experiment cannot be read, or do not fit its limits."""


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    chat_template: Any

    def __call__(self, text: str) -> Any: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, return_dict: bool
    ) -> Any: ...


@dataclass(frozen=True)
class Prompts:
    """The prompts of an experiment, tokenised.

    Attributes:
        token_ids: one tuple of token ids for each prompt, in the order in which they run.
        truncated: how many prompts were longer than ``max_input_tokens`` and lost their end, or that of the user's
            text where it stands in a chat template.
    """

    token_ids: tuple[tuple[int, ...], ...]
    truncated: int

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
        config: the experiment; its ``dataset``, ``chat``, ``max_input_tokens`` and seeds are used.
        folder: where a relative ``dataset.path`` starts.
        vocabulary_size: number of token ids that the model has an embedding for.
        special_ids: token ids that synthetic prompts leave out.
        tokenizer: turns texts into token ids; ``None`` where the model has none.

    Raises:
        PromptError: the dataset cannot be read, is empty or holds fewer prompts than ``n``, or there is no
            chat template to put them into, or one that leaves no room for them.
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
        return _tokenise(texts, tokenizer, limit, chat=bool(config.chat))


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


def _selected(texts: Sequence[str], n: int | None, seed: int | None) -> list[str]:
    """The first ``n`` of ``texts``, in the order that ``seed`` decides; ``None`` leaves them all, or in their order."""
    if n is not None and n > len(texts):
        raise PromptError(f"holds {len(texts)} prompts, fewer than n ({n}); lower n")
    order = list(range(len(texts)))
    if seed is not None:
        random.Random(seed).shuffle(order)  # noqa: S311  (reproducible on purpose)
    return [texts[index] for index in order[:n]]


def _builtin_texts(name: str) -> list[str]:
    file = resources.files(_DATA_PACKAGE) / f"{name}.jsonl"
    return _json_lines(file.read_text(encoding="utf-8").splitlines(), _DEFAULT_FIELD)


def _file_texts(path: Path, field: str) -> list[str]:
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
        raise PromptError(f"is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    return _json_lines(lines, field) if kind != ".txt" else [line.rstrip("\r") for line in lines if line.strip()]


def _json_lines(lines: Iterable[str], field: str) -> list[str]:
    texts: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise PromptError(f"not JSON: {exc}", line=number) from exc
        if not isinstance(entry, dict):
            raise PromptError(f"expected a JSON object, found {type(entry).__name__}", line=number)
        if field not in entry:
            near = difflib.get_close_matches(field, entry, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PromptError(f"no field {field!r}: {hint}there is {', '.join(entry) or 'nothing'}", line=number)
        text = entry[field]
        if not isinstance(text, str) or not text:
            raise PromptError(f"field {field!r} is not a text, or is empty", line=number)
        texts.append(text)
    return texts


def _tokenise(texts: Sequence[str], tokenizer: Tokenizer | None, limit: int, *, chat: bool) -> Prompts:
    if tokenizer is None:
        raise PromptError("the model comes without a tokenizer; use a synthetic dataset")
    if chat and not tokenizer.chat_template:
        message = "the model's tokenizer has no chat template; use a model made for chat, or remove chat"
        raise PromptError(message, field="chat")
    prompts: list[tuple[int, ...]] = []
    truncated = 0
    for number, text in enumerate(texts, start=1):
        ids = _chat_ids(text, tokenizer) if chat else tokenizer(text)["input_ids"]
        if not ids:
            raise PromptError(f"prompt {number} has no tokens")
        if len(ids) > limit:
            truncated += 1
            ids = _shortened_chat_ids(text, tokenizer, limit) if chat else ids[:limit]
        if not ids:
            raise PromptError(
                f"the chat template leaves no room for prompt {number} in {limit} tokens; raise max_input_tokens"
            )
        prompts.append(tuple(ids))
    return Prompts(tuple(prompts), truncated)


def _shortened_chat_ids(text: str, tokenizer: Tokenizer, limit: int) -> list[int]:
    """The longest beginning of ``text`` that fits into ``limit`` tokens with the template; empty if none does.

    The text is cut and not the ids, whose end is the header of the answer.
    """

    def exceeds(characters: int) -> bool:
        return len(_chat_ids(text[:characters], tokenizer)) > limit

    # Up from a short text: tokenising much more than is kept takes long where texts are whole documents.
    high = min(limit, len(text))
    while high < len(text) and not exceeds(high):
        high = min(2 * high, len(text))
    # A few more characters may make fewer tokens, but what the search ends at has been tried and fits.
    kept = bisect.bisect_left(range(1, high + 1), True, key=exceeds)
    return _chat_ids(text[:kept], tokenizer) if kept else []


def _chat_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    # With the header of the answer, so that the model answers instead of writing on in the user's name.
    messages = [{"role": "user", "content": text}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    ids: list[int] = encoded["input_ids"]
    return ids
