"""Files that differ from good ones, or from famous bad ones, in bytes and lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

CORPUS = Path(__file__).parent / "corpus"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# What YAML, the file's grammar and terminals give a meaning to.
_TOKENS = (
    *(
        b":",
        b": ",
        b"- ",
        b"?",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!",
        b"!!",
        b"|",
        b">",
        b"#",
        b"---\n",
    ),
    *(b"'", b'"', b"\\", b"\t", b"\r", b"\0", b"\x1b[2J", b"\xff", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
    *(b"null", b"~", b"true", b"-1", b"0", b"1e999", b".nan", b"0x", b"99999999999999999999", b"../", b"/dev/zero"),
    *(b"sweep: ", b"experiments: ", b"exclude: ", b"base: ", b"passthrough: ", b"pytorch.", b"decoder.", b"model: "),
)


def real_files() -> list[Path]:
    """The experiment files that come with the project."""
    return sorted(BENCHMARKS.rglob("*.llem.yaml"))


def corpus() -> list[Path]:
    """Files that a parser or this package once stumbled over, or could have."""
    return sorted(CORPUS.glob("*.yaml"))


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of ``seeds`` after one to four mutations."""
    content = rng.choice(seeds)
    for _ in range(rng.randint(1, 4)):
        content = rng.choice((_bytes, _token, _lines, _spliced))(content, seeds, rng)
    return content


def _bytes(content: bytes, _seeds: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    kind = rng.randrange(4)
    if kind == 0:  # another value
        return content[:at] + rng.randbytes(1) + content[at + 1 :]
    if kind == 1:  # one bit
        return content[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in content[at : at + 1]) + content[at + 1 :]
    if kind == 2:  # taken out
        return content[:at] + content[at + rng.randint(1, 20) :]
    return content[:at]


def _token(content: bytes, _seeds: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(_TOKENS) + content[at + rng.randint(0, 3) :]


def _lines(content: bytes, _seeds: Sequence[bytes], rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(other, lines[at])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = b" " * rng.randint(0, 4) + lines[at].lstrip()
    return b"\n".join(lines)


def _spliced(content: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(seeds)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]
