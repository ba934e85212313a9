"""From a file, or a folder of texts, to its records, each with the line it begins at. They are read one by one, so that
the first few of a large file cost no more than they are.
"""

from __future__ import annotations

import csv
import json
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_llem.errors import PromptError, UnavailableError, about, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

# A record is at most so long: a file that is none of prompts need not fit the memory.
_MOST_CHARACTERS = 2**26
_CHUNK_CHARACTERS = 2**20
_ROWS_AT_ONCE = 256

# What may stand before an object of a list.
_BETWEEN = re.compile(r"[\s\[,]+")

_JSON_LINES = (".jsonl", ".ndjson")
_KINDS = "prompts are read from .jsonl, .json, .csv, .tsv, .parquet, .txt (a prompt per line), or a folder of texts"


class Record(NamedTuple):
    """What a file holds of a prompt.

    Attributes:
        content: the object of a line, or the text of one or of a file of a folder.
        file: where it stands.
        line: where it begins, from 1 on; of a table without lines, its row; ``None`` for a whole file.
    """

    content: Any
    file: str
    line: int | None


def records(path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Record]:
    """The records of ``path``, in its order.

    Args:
        wanted: from the columns of a table to those that are read; of other files all is.

    Raises:
        PromptError: it cannot be read, or is none of the kinds of files that prompts are read from.
        UnavailableError: a package that reads it is missing.
    """
    if is_folder(path):
        yield from _folder(path)
        return
    kind = path.suffix.lower()
    file = str(path)
    if kind in (".csv", ".tsv"):
        with _opened(path, newline="") as opened:
            yield from _rows(_lines(opened, file), file, "," if kind == ".csv" else "\t", wanted)
    elif kind == ".parquet":
        yield from _parquet(path, wanted)
    elif kind in (*_JSON_LINES, ".json"):
        with _opened(path) as opened:
            if kind == ".json" and _begins_a_list(opened):
                yield from _listed(opened, file)
            else:
                yield from json_lines(_lines(opened, file), file)
    elif kind == ".txt":
        with _opened(path) as opened:
            for number, line in enumerate(_lines(opened, file), start=1):
                if line.strip():
                    yield Record(line.removesuffix("\n"), file, number)
    else:
        raise PromptError(_KINDS)


def is_folder(path: Path) -> bool:
    """Whether the prompts of ``path`` are the files in it."""
    return os.path.isdir(path)  # noqa: PTH112  (a Path raises at odd names)


def json_lines(lines: Iterable[str], file: str) -> Iterator[Record]:
    """The objects of JSON Lines; empty lines are none."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with about(file=file, line=number):
                content = _decoded(json.loads, line.removesuffix("\n"))
                if not isinstance(content, dict):
                    raise PromptError(f"expected a JSON object, found {type(content).__name__}")
            yield Record(content, file, number)


def table(path: Path) -> Iterator[tuple[list[str], int]]:
    """The rows of a CSV file that have anything in them, and the line that each begins at.

    Raises:
        PromptError: it cannot be read.
    """
    with _opened(path, newline="") as opened:
        yield from _cells(_lines(opened, str(path)), str(path), ",")


def document(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        PromptError: it cannot be read.
    """
    with _opened(path) as opened:
        return _decoded(json.loads, "".join(_lines(opened, str(path))))


@contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    with about(file=str(path)):
        try:
            # A device or a pipe might never end, or never begin.
            if path.exists() and not path.is_file():
                raise PromptError("cannot be read: not a file")
            # What is not UTF-8 comes as halves of characters, by which _checked() finds its line.
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as opened:
                yield opened
        except (OSError, ValueError) as exc:  # the latter for names that no file can have
            raise PromptError(f"cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def _lines(opened: TextIO, file: str) -> Iterator[str]:
    # Not str.splitlines: it also splits at characters that JSON strings may hold.
    number = 0
    while line := opened.readline(_MOST_CHARACTERS):
        number += 1
        with about(file=file, line=number):
            if len(line) == _MOST_CHARACTERS:
                raise PromptError(f"is longer than {_MOST_CHARACTERS:,} characters")
            yield _checked(line)


def _checked(text: str) -> str:
    """``text``, all of whose bytes were characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            text.encode(errors="surrogateescape").decode()
        except UnicodeDecodeError as exc:
            raise PromptError(f"is not UTF-8: {exc.reason}; save the file as UTF-8") from exc
    return text


def _decoded(decode: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return decode(*arguments)
    except json.JSONDecodeError as exc:
        raise PromptError(f"not JSON: {exc.msg} at column {exc.colno}", line=exc.lineno) from exc
    except (ValueError, RecursionError) as exc:
        raise PromptError(f"not JSON: {exc}") from exc


def _begins_a_list(opened: TextIO) -> bool:
    beginning = opened.read(_CHUNK_CHARACTERS).lstrip()
    opened.seek(0)
    return beginning.startswith("[")


def _listed(opened: TextIO, file: str) -> Iterator[Record]:
    """The objects of one JSON list, which may be a line of a gigabyte."""
    decoder = json.JSONDecoder()
    text, at, line = "", 0, 1
    while True:
        between = _BETWEEN.match(text, at)
        if between is not None:
            line += between[0].count("\n")
            at = between.end()
        with about(file=file, line=line):
            try:
                content, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                more = opened.read(max(len(text) - at, _CHUNK_CHARACTERS))
                text, at = text[at:] + more, 0
                if more and len(text) <= 2 * _MOST_CHARACTERS:
                    continue
                if text.strip() == "]":
                    return
                _checked(text)
                content, end = _decoded(decoder.raw_decode, text)
            _checked(text[at:end])
            if not isinstance(content, dict):
                raise PromptError(f"expected a JSON object, found {type(content).__name__}")
        yield Record(content, file, line)
        line += text.count("\n", at, end)
        at = end


def _folder(path: Path) -> Iterator[Record]:
    """The texts of a folder, by name."""
    for file in sorted(path.iterdir()):
        if file.name.startswith("."):
            continue
        with about(file=str(file)):
            if file.is_dir():
                raise PromptError("is a folder in a folder of prompts, each of which is a file; move it elsewhere")
            if file.suffix.lower() in _JSON_LINES:
                raise PromptError("holds many records, and a file of a folder is one prompt; make it the path itself")
            with _opened(file) as opened:
                text = "".join(_lines(opened, str(file))).removesuffix("\n")
            if not text.strip():
                raise PromptError("holds no text; remove it")
        yield Record(text, str(file), None)


def _cells(lines: Iterator[str], file: str, delimiter: str) -> Iterator[tuple[list[str], int]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    before = csv.field_size_limit(_MOST_CHARACTERS)
    try:
        begins = 1
        while True:
            with about(file=file, line=begins):
                try:
                    row = next(reader, None)
                except csv.Error as exc:
                    raise PromptError(f"not CSV: {exc}") from exc
            if row is None:
                return
            if row:
                yield row, begins
            begins = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def _rows(
    lines: Iterator[str], file: str, delimiter: str, wanted: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[Record]:
    rows = _cells(lines, file, delimiter)
    header, first = next(rows, ([], 1))
    with about(file=file, line=first):
        places = {name: header.index(name) for name in wanted(header)}
    for row, line in rows:
        with about(file=file, line=line):
            if len(row) != len(header):
                raise PromptError(f"has {len(row)} columns, and the header {len(header)}; put texts in quotes")
        yield Record({name: row[place] for name, place in places.items()}, file, line)


def _parquet(path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as exc:
        raise UnavailableError("needs pyarrow: pip install 'pytest-llem[parquet]'", file=str(path)) from exc
    with _opened(path) as opened, about(file=str(path)):
        try:
            with ParquetFile(opened.buffer) as parquet:
                columns = wanted(parquet.schema_arrow.names)
                number = 0
                for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=list(columns), use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield Record(row, str(path), number)
        except (ArrowException, OSError) as exc:
            raise PromptError(f"is no Parquet file that can be read: {one_line(exc)}") from exc
