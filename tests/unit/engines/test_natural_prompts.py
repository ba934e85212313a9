"""The built-in natural prompts: enough of them, varied, well-formed and really distinct."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations, pairwise

import pytest

KINDS = {
    "question",
    "instruction",
    "chat",
    "code",
    "summarise",
    "translate",
    "reasoning",
    "extract",
    "creative",
}
# Languages whose script tells them apart; every other language of the file is written in Latin letters.
SCRIPTS = {"zh": "CJK", "ja": "HIRAGANA", "ko": "HANGUL", "ar": "ARABIC", "hi": "DEVANAGARI"}

SHORT_MAX_WORDS = 25
MEDIUM_MAX_WORDS = 110

CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
LANGUAGE_TAG = re.compile("[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?")
CONTACT = re.compile(r"\w@\w+\.\w|https?://|\bwww\.")
IPV4 = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


@dataclass(frozen=True)
class Prompt:
    text: str
    kind: str
    language: str

    @property
    def words(self) -> int:
        """Words between blanks; two Chinese or Japanese characters, written without blanks, count as one."""
        return len(CJK.sub(" ", self.text).split()) + (len(CJK.findall(self.text)) + 1) // 2

    @property
    def size(self) -> str:
        if self.words <= SHORT_MAX_WORDS:
            return "short"
        return "medium" if self.words <= MEDIUM_MAX_WORDS else "long"


def raw() -> bytes:
    return (resources.files("pytest_llem.config.data") / "natural.jsonl").read_bytes()


def lines() -> list[str]:
    # Not str.splitlines: it would also split at separators that JSON allows within a string.
    return raw().decode("utf-8", errors="strict").removesuffix("\n").split("\n")


@cache
def prompts() -> list[Prompt]:
    rows = [json.loads(line) for line in lines()]
    return [Prompt(row["prompt"], row["kind"], row["language"]) for row in rows]


def scripts(text: str) -> Counter[str]:
    """How many letters of ``text`` belong to each script, by the first word of their Unicode name."""
    letters = (character for character in text if unicodedata.category(character).startswith("L"))
    return Counter(unicodedata.name(letter).split()[0] for letter in letters)


def test_there_are_at_least_two_hundred() -> None:
    assert len(prompts()) >= 200


def test_file_is_utf8_with_unix_lines() -> None:
    assert not raw().startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw()
    assert raw().endswith(b"}\n")
    assert raw().decode("utf-8", errors="strict")


def test_every_line_is_one_object_with_the_documented_fields() -> None:
    for number, line in enumerate(lines(), 1):
        row = json.loads(line)
        assert list(row) == ["prompt", "kind", "language"], number
        assert all(isinstance(value, str) and value for value in row.values()), number
        assert json.dumps(row, ensure_ascii=False) == line, f"line {number} is not in the file's own format"


def test_characters_are_printable_and_normalised() -> None:
    for number, prompt in enumerate(prompts(), 1):
        odd = {c for c in prompt.text if c not in "\n " and unicodedata.category(c)[0] in "CZ"}
        assert not odd, f"line {number}: {odd!r}"
        assert "\ufffd" not in prompt.text, number
        assert prompt.text == unicodedata.normalize("NFC", prompt.text), number


def test_no_blanks_at_the_ends() -> None:
    for number, prompt in enumerate(prompts(), 1):
        assert prompt.text == prompt.text.strip(), number
        assert all(line == line.rstrip() for line in prompt.text.split("\n")), number


def test_no_contact_data() -> None:
    for number, prompt in enumerate(prompts(), 1):
        assert not CONTACT.search(prompt.text), number
        # RFC 5737: the blocks reserved for documentation.
        addresses = IPV4.findall(prompt.text)
        assert all(a.startswith(("192.0.2.", "198.51.100.", "203.0.113.")) for a in addresses), number


def test_prompts_differ_from_their_first_words_on() -> None:
    openings = Counter(prompt.text.casefold()[:60] for prompt in prompts())
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_no_two_prompts_come_from_one_template() -> None:
    sizes: list[int] = []
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts()):
        plain = " ".join(prompt.text.casefold().split())
        shingles = {plain[start : start + 8] for start in range(max(1, len(plain) - 7))}
        sizes.append(len(shingles))
        for shingle in shingles:
            holders[shingle].append(index)
    shared = Counter(pair for indices in holders.values() for pair in combinations(indices, 2))
    for (i, j), common in shared.items():
        similarity = common / (sizes[i] + sizes[j] - common)
        assert similarity < 0.15, f"lines {i + 1} and {j + 1} share {similarity:.0%} of their text"


def test_lengths_are_spread_in_thirds() -> None:
    sizes = Counter(prompt.size for prompt in prompts())
    for size in ("short", "medium", "long"):
        assert sizes[size] / len(prompts()) == pytest.approx(1 / 3, abs=0.07), sizes


def test_lengths_reach_from_a_line_to_a_page() -> None:
    counts = [prompt.words for prompt in prompts()]
    assert min(counts) <= 8
    assert sum(count > 200 for count in counts) >= 30
    assert sum(count >= 400 for count in counts) >= 3


def test_every_kind_is_well_represented() -> None:
    kinds = Counter(prompt.kind for prompt in prompts())
    assert set(kinds) == KINDS
    assert min(kinds.values()) >= len(prompts()) / 20, kinds


def test_english_leads_among_many_languages() -> None:
    languages = Counter(prompt.language for prompt in prompts())
    assert languages["en"] > len(prompts()) / 2
    assert sum(count >= 5 for count in languages.values()) >= 8, languages
    assert all(LANGUAGE_TAG.fullmatch(language) for language in languages), languages


def test_language_tags_fit_the_script() -> None:
    for number, prompt in enumerate(prompts(), 1):
        found = scripts(prompt.text)
        expected = SCRIPTS.get(prompt.language, "LATIN")
        assert found[expected] >= 8, f"line {number}: {prompt.language}, but {found}"
        if expected == "LATIN":
            assert set(found) <= {"LATIN", "FEMININE", "MASCULINE"}, f"line {number}: {found}"
        if prompt.language == "zh":
            assert not found["HIRAGANA"], number


def test_code_comes_in_several_programming_languages() -> None:
    text = " ".join(prompt.text for prompt in prompts() if prompt.kind == "code")
    names = (
        "Python",
        "Rust",
        "Go",
        "JavaScript",
        "TypeScript",
        "Java",
        "C++",
        "C#",
        "SQL",
        "Haskell",
        "Ruby",
    )
    missing = [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    assert missing == []


def test_chats_include_conversations_to_continue() -> None:
    chats = [prompt for prompt in prompts() if prompt.kind == "chat"]
    turns = [len(re.findall(r"^\w+ ?[:\uff1a]", chat.text, re.MULTILINE)) for chat in chats]
    assert sum(count >= 3 for count in turns) >= 8, turns


def test_the_first_prompts_are_a_fair_sample() -> None:
    first = prompts()[:8]
    assert len({prompt.kind for prompt in first}) >= 6
    assert len({prompt.language for prompt in first}) >= 3
    assert {prompt.size for prompt in first} == {"short", "medium", "long"}

    first = prompts()[:50]
    assert {prompt.kind for prompt in first} == KINDS
    assert len({prompt.language for prompt in first}) >= 8
    assert min(Counter(prompt.size for prompt in first).values()) >= 12


def test_neighbours_are_of_different_kinds() -> None:
    repeats = sum(a.kind == b.kind for a, b in pairwise(prompts()))
    assert repeats <= len(prompts()) / 20
