"""Reading YAML: positions, types, and what a hostile or broken file does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_llem.config import document
from pytest_llem.config.document import Mark, Node, read_document
from pytest_llem.errors import ExperimentFileError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["libyaml", "python"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(document, "_PARSER", yaml.SafeLoader)


def read(folder: Path, text: str | bytes) -> Node:
    path = folder / "x.llem.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_document(path, "x.yaml").root


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ExperimentFileError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert message.isprintable()
    if excerpt := caught.value.excerpt:
        assert excerpt.startswith(f"{' ' * excerpt.index('-->')}--> {message.partition(': ')[0]}:")
    return message


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-4", -4),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("12e4567", "12e4567"),  # a commit's hash, not infinity
        ("!!float 1", 1.0),
        ("yes", True),
        ("Off", False),
        ("true", True),
        ("tRue", "tRue"),
        ("'yes'", "yes"),
        ("'4'", "4"),
        ("!!str 4", "4"),
        ("! 4", "4"),
        ("~", None),
        ("", None),
        ("null", None),
        ("2024-01-01", "2024-01-01"),
        ("2024-99-99", "2024-99-99"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("=", "="),
        ("[1, [a]]", [1, ["a"]]),
        ("{0: a, b: {}}", {0: "a", "b": {}}),
        ("{on: 1, ~: 2, 1.5: 3}", {"on": 1, "~": 2, "1.5": 3}),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_types(tmp_path: Path, text: str, value: Any) -> None:
    plain = read(tmp_path, f"x: {text}\n").plain["x"]
    assert plain == value
    assert type(plain) is type(value)


def at(mark: Mark | None) -> tuple[int, int]:
    assert mark is not None
    return mark.line, mark.column


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_positions(tmp_path: Path, line_break: str) -> None:
    text = line_break.join(("é😀: 1", "a: {b: 'é😀', c: [4,", "  5]}", ""))
    root = read(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert at(root.mark) == (1, 1)
    inner = root.content["a"]
    assert (at(inner.key), at(inner.mark)) == ((2, 1), (2, 4))
    assert (at(inner.content["b"].key), at(inner.content["b"].mark)) == ((2, 5), (2, 8))
    assert (at(inner.content["c"].key), at(inner.content["c"].mark)) == ((2, 14), (2, 17))
    assert at(inner.content["c"].content[1].mark) == (3, 3)


@pytest.mark.usefixtures("_parser")
def test_lines_are_counted_as_the_parser_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "x.llem.yaml"
    path.write_bytes("a: 1\r\n# \u2029# b\x85c: 2\n".encode())
    read = read_document(path, "x.yaml")
    assert read.root.content["c"].key is not None
    assert read.source.lines[read.root.content["c"].key.line - 1] == "c: 2"


@pytest.mark.usefixtures("_parser")
def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    root = read(
        tmp_path,
        "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: *a, y: 3}\nd: {y: 3, <<: [*a, *b]}\ne: *a\nf: {'<<': 1}\n",
    )
    assert root.plain["c"] == {"x": 1, "y": 3}
    assert root.plain["d"] == {"x": 1, "y": 3, "z": 2}
    assert root.plain["e"] == {"x": 1, "y": 1}
    assert root.plain["f"] == {"<<": 1}
    # A merged key stands where it was written; an alias has a key of its own.
    assert at(root.content["d"].content["z"].key) == (2, 14)
    assert at(root.content["e"].key) == (5, 1)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: the file is empty; an experiment needs at least `model:`"),
        ("# only a comment\n", "x.yaml:1: the file is empty; an experiment needs at least `model:`"),
        ("---\n...\n", "x.yaml:1: the file is empty; an experiment needs at least `model:`"),
        ("\n- a\n", "x.yaml:2: the file is not a mapping; write fields such as `model: gpt2`"),
        ("hello", "x.yaml:1: the file is not a mapping; write fields such as `model: gpt2`"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: a second YAML document starts here; keep one in a file"),
        ("---\n---\n", "x.yaml:2: a second YAML document starts here; keep one in a file"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: the key 'a' stands here twice, first on line 1; keep one"),
        ("a: 1\nb: *c\n", "x.yaml:2: the alias *c has no anchor &c above it"),
        ("a: &a\n  b: *a\n", "x.yaml:2: the alias *a stands inside its own anchor"),
        ("a: &a [*a]\n", "x.yaml:1: the alias *a stands inside its own anchor"),
        ("&a {? *a : 1}\n", "x.yaml:1: the alias *a stands inside its own anchor"),
        ("? [a]\n: b\n", "x.yaml:1: a key must be text or a whole number"),
        ("a: 1\n<<: 3\n", "x.yaml:2: << takes a mapping or a list of mappings"),
        ("<<: [{a: 1}, 2]\n", "x.yaml:1: << takes a mapping or a list of mappings"),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            "x.yaml:1: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed; remove it",
        ),
        ("a: !!set {x}\n", "x.yaml:1: the tag 'tag:yaml.org,2002:set' is not allowed; remove it"),
        ("a: !!binary aGk=\n", "x.yaml:1: the tag 'tag:yaml.org,2002:binary' is not allowed; remove it"),
        (
            "a: !!timestamp 2024-01-01\n",
            "x.yaml:1: the tag 'tag:yaml.org,2002:timestamp' is not allowed; remove it",
        ),
        ("a: !mine 1\n", "x.yaml:1: the tag '!mine' is not allowed; remove it"),
        ("a: !!int x\n", "x.yaml:1: 'x' is not of the type int; remove the tag or fix the value"),
        ("a: !!int '4.0'\n", "x.yaml:1: '4.0' is not of the type int; remove the tag or fix the value"),
        ("a: " + "9" * 6000, "x.yaml:1: a number of 6000 digits is too large; put text in quotes"),
        ("a: 0x" + "f" * 6000, "x.yaml:1: a number of 6002 digits is too large; put text in quotes"),
        ("a: 1\nb: \0\n", "x.yaml:2: the control character U+0000 is not allowed; remove it"),
        ("a: \x1b[0m", "x.yaml:1: the control character U+001B is not allowed; remove it"),
        ("a: 1\n\ufeffb: 2", "x.yaml:2: the control character U+FEFF is not allowed; remove it"),
        (b"a: 1\nb: \xff\n", "x.yaml:2: not UTF-8 text; save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "x.yaml:1: not UTF-8 text; save the file as UTF-8"),
        ("a: " + "[" * 100_000, "x.yaml:1: nested deeper than 50 levels"),
        ("a:\n" + "- " * 100_000, "x.yaml:2: nested deeper than 50 levels"),
        ("a: " + "{a: " * 60 + "}" * 60, "x.yaml:1: nested deeper than 50 levels"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_refuses_in_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert refusal(tmp_path, text) == message


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: {b\n", 2),
        ("a: 1\n b: 2\n", 2),
        ("a: 'b\n", 2),
        ("a: @b\n", 1),
        ("%YAML 3.0\n---\na: 1\n", 1),
        ("a: 1\nb\n", 3),
    ],
)
def test_a_syntax_error_has_its_line(tmp_path: Path, text: str, line: int) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith("x.yaml:")
    assert abs(int(message.split(":")[1]) - line) <= 1
    assert "not valid YAML: " in message


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    ("text", "excerpt"),
    [
        ("a: 1\n  b: 2\n", " --> x.yaml:2:4\n  |\n2 |   b: 2\n  |    ^"),
        ("a: 1\nb: 2\na: 3\n", " --> x.yaml:3:1\n  |\n3 | a: 3\n  | ^"),
        ("- a\n", ""),
    ],
)
def test_a_refusal_shows_the_line(tmp_path: Path, text: str, excerpt: str) -> None:
    with pytest.raises(ExperimentFileError) as caught:
        read(tmp_path, text)
    assert caught.value.excerpt == excerpt


@pytest.mark.usefixtures("_parser")
def test_half_a_character_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, 'a: 1\nb: "\\ud800"\n').startswith("x.yaml:2: ")


@pytest.mark.usefixtures("_parser")
def test_a_tab_in_the_indentation_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "model: x\npytorch:\n\tbatch_size: 1\n")
    assert message.startswith("x.yaml:3: not valid YAML: ")
    assert message.endswith("; indent with spaces, not tabs")


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("kind", ["list", "mapping", "merge"])
def test_an_alias_bomb_is_refused(tmp_path: Path, kind: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, 12):
        below = [f"*a{level - 1}"] * 10
        if kind == "list":
            value = f"[{', '.join(below)}]"
        elif kind == "mapping":
            value = "{" + ", ".join(f"k{index}: {alias}" for index, alias in enumerate(below)) + "}"
        else:
            value = "{<<: [" + ", ".join(below) + f"], k{level}: {below[0]}" + "}"
        lines.append(f"a{level}: &a{level} {value}")
    message = refusal(tmp_path, "\n".join(lines))
    assert message.endswith("aliases stand for more than 100000 values in all")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    text = b"#" * (document.MAX_FILE_BYTES + 1)
    assert refusal(tmp_path, text) == "x.yaml:1: the file is larger than 8 MiB"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentFileError, match=r"^x\.yaml:1: cannot be read: No such file"):
        read_document(tmp_path / "missing.yaml", "x.yaml")
    with pytest.raises(ExperimentFileError, match=r"^x\.yaml:1: cannot be read: "):
        read_document(tmp_path, "x.yaml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(st.text("ab: -[]{},&*!'\"\n\t#|>?%@<0.9é\0\r", max_size=60) | st.binary(max_size=40))
def test_any_input_is_read_or_refused_with_a_line(tmp_path: Path, text: str | bytes) -> None:
    try:
        read(tmp_path, text)
    except ExperimentFileError as error:
        message = str(error)
        assert message.startswith("x.yaml:")
        assert int(message.split(":")[1]) >= 1
        assert "\n" not in message


_SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.text()
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), _VALUES, min_size=1))
def test_what_yaml_writes_reads_back(tmp_path: Path, value: dict[str, Any]) -> None:
    assert read(tmp_path, yaml.safe_dump(value, default_style='"')).plain == value
