"""YAML with a position for every key and value.

The tree is built from the parser's events, so that nothing of a file is executed and aliases are never
expanded in memory: only the scalar types of the YAML core schema exist, duplicate keys and recursive aliases
are refused, and size, depth and the nodes that aliases stand for are bounded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from pytest_llem.errors import ExperimentFileError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FILE_BYTES = 8 * 2**20
MAX_DEPTH = 50
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
MAX_ALIASED_NODES = 100_000

_SHOWN_LINE_CHARS = 100

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"

# The line breaks of YAML 1.1, which the parser counts lines by.
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
# Escapes can still make one: text that could be neither printed nor saved.
_SURROGATE = re.compile("[\ud800-\udfff]")

# Booleans as in YAML 1.1; numbers as in the core schema of 1.2, where 1e-3 is a number and 1:30 is not.
_BOOLEANS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
_NULL = re.compile(r"~|null|Null|NULL|")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

# Beyond this no field has a meaning for an integer, and libraries written in C refuse it.
_MAX_INTEGER_DIGITS = 19


@dataclass(frozen=True, eq=False)
class Source:
    """A file as messages show it.

    Attributes:
        display: its path.
        lines: its text, line by line.
    """

    display: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a file; both numbers start at 1."""

    line: int
    column: int
    source: Source = field(repr=False)

    def excerpt(self) -> str:
        """The place and, below it, the line of the file with a sign beneath the column."""
        line, column, lines = self.line, self.column, self.source.lines
        text = lines[line - 1].replace("\t", " ") if line <= len(lines) else ""
        start = max(0, column - 1 - _SHOWN_LINE_CHARS // 2) if len(text) > _SHOWN_LINE_CHARS else 0
        shown = printable(text[start : start + _SHOWN_LINE_CHARS].rstrip())
        gutter = " " * len(str(line))
        return "\n".join(
            (
                f"{gutter}--> {printable(self.source.display)}:{line}:{column}",
                f"{gutter} |",
                f"{line} | {shown}",
                f"{gutter} | {' ' * (column - 1 - start)}^",
            )
        )


class Node:
    """A value of the file, where it stands, and the plain data it means.

    Attributes:
        content: a scalar, a list of nodes, or a mapping of keys (text or whole numbers) to nodes.
        mark: where the value starts.
        key: where its key starts, ``None`` outside a mapping.
        plain: the value without positions. Shared between nodes: never change it.
    """

    __slots__ = ("content", "key", "mark", "plain")

    def __init__(self, content: Any, mark: Mark, key: Mark | None = None) -> None:
        self.content = content
        self.mark = mark
        self.key = key
        self.plain: Any = content
        if isinstance(content, dict):
            self.plain = {name: node.plain for name, node in content.items()}
        elif isinstance(content, list):
            self.plain = [node.plain for node in content]

    def with_key(self, key: Mark) -> Node:
        """The same value under a key at another place."""
        node = Node.__new__(Node)
        node.content, node.mark, node.key, node.plain = self.content, self.mark, key, self.plain
        return node

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.content, dict)

    @property
    def is_null(self) -> bool:
        return self.content is None


@dataclass(frozen=True)
class Document:
    """A file that was read.

    Attributes:
        source: what messages show of it.
        root: the top level, a mapping.
    """

    source: Source
    root: Node


def read_document(path: Path, display: str) -> Document:
    """Read the one YAML mapping of ``path``.

    Raises:
        ExperimentFileError: it cannot be read, is not YAML, or is not one mapping. The message is one line
            that starts with ``display`` and a line number.
    """
    return parse_document(_read_text(path, display), display)


def parse_document(text: str, display: str) -> Document:
    """:func:`read_document` of a text that is there already."""
    _refuse_unprintable(text, display)
    source = Source(display, _LINE_BREAK.split(text))
    try:
        root = _Builder(text, source).build()
    except _Refusal as refusal:
        mark = _mark(refusal.event.start_mark, source)
        raise _error(refusal.message, mark) from None
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark or error.context_mark, source)
        tabs = mark.line <= len(source.lines) and "\t" in source.lines[mark.line - 1][: mark.column]
        hint = "; indent with spaces, not tabs" if tabs else ""
        problem = " ".join(str(error.problem or error.context or "cannot be parsed").split())
        if "nesting depth" in problem:  # libyaml has a limit of its own from 0.2.6 on
            raise _error(_TOO_DEEP, mark) from None
        raise _error(f"not valid YAML: {problem}{hint}", mark) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ExperimentFileError(f"not valid YAML: {reason}", file=display, line=1) from None
    if root is None:
        raise ExperimentFileError("the file is empty; an experiment needs at least `model:`", file=display, line=1)
    if not root.is_mapping:
        message = "the file is not a mapping; write fields such as `model: gpt2`"
        raise ExperimentFileError(message, file=display, line=root.mark.line)
    return Document(source, root)


def _error(message: str, mark: Mark) -> ExperimentFileError:
    return ExperimentFileError(message, file=mark.source.display, line=mark.line, excerpt=mark.excerpt())


def _read_text(path: Path, display: str) -> str:
    try:
        # A device or a pipe might never end, or never begin.
        if path.exists() and not path.is_file():
            raise ExperimentFileError("cannot be read: not a file", file=display, line=1)
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ExperimentFileError(f"cannot be read: {error.strerror or error}", file=display, line=1) from None
    if len(data) > MAX_FILE_BYTES:
        raise ExperimentFileError(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB", file=display, line=1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ExperimentFileError("not UTF-8 text; save the file as UTF-8", file=display, line=line) from None
    return text


def _refuse_unprintable(text: str, display: str) -> None:
    unprintable = _UNPRINTABLE.search(text)
    if unprintable is not None:
        line = len(_LINE_BREAK.findall(text, 0, unprintable.start())) + 1
        code = f"U+{ord(unprintable.group()):04X}"
        message = f"the control character {code} is not allowed; remove it"
        raise ExperimentFileError(message, file=display, line=line)


class _Refusal(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, event: yaml.Event, message: str) -> None:
        super().__init__(message)
        self.event = event
        self.message = message


class _Builder:
    """Builds nodes from events, one document."""

    def __init__(self, text: str, source: Source) -> None:
        self._source = source
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_PARSER)
        # By anchor: the node and how many nodes it holds; None while it is being built.
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._nodes = 0
        self._aliased_nodes = 0

    def build(self) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refusal(event, "a second YAML document starts here; keep one in a file")
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0)
        # A file of comments only, or of a lone `---`.
        return None if root is None or root.is_null else root

    def _node(self, event: yaml.NodeEvent, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise _Refusal(event, _TOO_DEEP)
        before = self._nodes
        self._nodes += 1
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(_scalar(event), self._mark(event))
        else:
            is_list = isinstance(event, yaml.SequenceStartEvent)
            _check_tag(event, "seq" if is_list else "map")
            node = Node(list(self._items(depth)) if is_list else self._mapping(depth), self._mark(event))
        if event.anchor is not None:
            self._anchors[event.anchor] = node, self._nodes - before
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        name = str(event.anchor)
        if name not in self._anchors:
            raise _Refusal(event, f"the alias *{name} has no anchor &{name} above it")
        anchored = self._anchors[name]
        if anchored is None:
            raise _Refusal(event, f"the alias *{name} stands inside its own anchor")
        node, nodes = anchored
        self._nodes += nodes
        self._aliased_nodes += nodes
        if self._aliased_nodes > MAX_ALIASED_NODES:
            raise _Refusal(event, f"aliases stand for more than {MAX_ALIASED_NODES} values in all")
        return node

    def _items(self, depth: int) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self._node(event, depth + 1)  # type: ignore[arg-type]

    def _mapping(self, depth: int) -> dict[str | int, Node]:
        own: dict[str | int, Node] = {}
        merged: dict[str | int, Node] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            is_merge = _is_plain(event) and event.value == "<<"  # type: ignore[attr-defined]
            key = None if is_merge else self._key(event, depth)  # type: ignore[arg-type]
            value = self._node(next(self._events), depth + 1)  # type: ignore[arg-type]
            if key is None:
                for source in _merge_sources(value, event):
                    for name, node in source.items():
                        merged.setdefault(name, node)
                continue
            if key in own:
                first = own[key].key
                where = f", first on line {first.line}" if first is not None else ""
                raise _Refusal(event, f"the key {str(key)[:60]!r} stands here twice{where}; keep one")
            own[key] = value.with_key(self._mark(event))
        return {**merged, **own}

    def _key(self, event: yaml.NodeEvent, depth: int) -> str | int:
        node = self._node(event, depth + 1)
        if isinstance(node.content, dict | list):
            raise _Refusal(event, "a key must be text or a whole number")
        if isinstance(node.content, str) or type(node.content) is int:
            return node.content
        # Elsewhere `on` is a boolean, but as a key it can only be a name.
        return str(event.value) if isinstance(event, yaml.ScalarEvent) else str(node.content)

    def _mark(self, event: yaml.Event) -> Mark:
        return _mark(event.start_mark, self._source)


def _mark(mark: Any, source: Source) -> Mark:
    return Mark(1, 1, source) if mark is None else Mark(mark.line + 1, mark.column + 1, source)


def _merge_sources(value: Node, event: yaml.Event) -> list[dict[str | int, Node]]:
    sources = value.content if isinstance(value.content, list) else [value]
    if not all(source.is_mapping for source in sources):
        raise _Refusal(event, "<< takes a mapping or a list of mappings")
    return [source.content for source in sources]


def _is_plain(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.tag is None and event.implicit[0]


def _check_tag(event: Any, kind: str) -> None:
    if event.tag not in (None, "!", _TAG + kind):
        raise _Refusal(event, f"the tag {event.tag[:60]!r} is not allowed; remove it")


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = str(event.value)
    if _SURROGATE.search(text):
        raise _Refusal(event, "an escape stands for half a character; write the character itself")
    if event.tag is None or event.tag == "!":
        return _resolved(text, event) if _is_plain(event) else text
    kind = event.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    value = _resolved(text, event)
    if kind == "float" and type(value) is int:
        return float(value)
    types = {"int": int, "float": float, "bool": bool, "null": type(None)}
    if kind not in types:
        raise _Refusal(event, f"the tag {event.tag[:60]!r} is not allowed; remove it")
    if type(value) is not types[kind]:
        raise _Refusal(event, f"{text[:40]!r} is not of the type {kind}; remove the tag or fix the value")
    return value


def _resolved(text: str, event: yaml.Event) -> Any:
    """The value of a plain scalar."""
    if _NULL.fullmatch(text):
        return None
    if text.lower() in _BOOLEANS and text in (text.lower(), text.capitalize(), text.upper()):
        return _BOOLEANS[text.lower()]
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("+-0xo")) > _MAX_INTEGER_DIGITS:
            raise _Refusal(event, f"a number of {len(text)} digits is too large; put text in quotes")
        return int(text, 0) if text[1:2] in ("o", "x") else int(text)
    if _FLOAT.fullmatch(text):
        named = text[-1] in "fFnN"
        number = float(text.replace(".", "") if named else text)
        # Digits that no number can hold, such as the hash 12e4567, are text.
        return number if named or math.isfinite(number) else text
    return text
