"""One file at a time, read as collection reads it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.effort import FACTOR, FIRST_SEED
from tests.fuzz.grammar import files
from tests.fuzz.mutations import CORPUS, corpus, mutated, real_files
from tests.fuzz.outcome import check

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_a_trap_is_told(path: Path, tmp_path: Path) -> None:
    check(tmp_path, path.read_bytes())


@pytest.mark.parametrize("name", ["alias-bomb", "alias-bomb-merged"])
def test_an_alias_bomb_is_refused_in_a_second_of_the_processor(name: str, tmp_path: Path) -> None:
    content = (CORPUS / f"{name}.yaml").read_bytes()
    start_s = time.process_time()
    assert not check(tmp_path, content)
    assert time.process_time() - start_s < 1


@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name)
def test_the_files_that_are_mutated_are_valid(path: Path, tmp_path: Path) -> None:
    assert check(tmp_path, path.read_bytes())


def test_mutations_of_real_files(tmp_path: Path) -> None:
    seeds = [path.read_bytes() for path in real_files()]
    valid = 0
    for seed in range(FIRST_SEED, FIRST_SEED + 300 * FACTOR):
        content = mutated(seeds, random.Random(seed))  # noqa: S311
        try:
            valid += check(tmp_path, content)
        except Exception as error:
            error.add_note(f"seed {seed}: {content[:2000]!r}")
            raise
    # Else they would say nothing of what lies behind the parser.
    assert 0.05 < valid / (300 * FACTOR) < 0.95


@settings(
    max_examples=300 * FACTOR,
    deadline=None,
    database=None,
    derandomize=FIRST_SEED == 0,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=files)
def test_files_of_the_grammar(content: bytes, tmp_path: Path) -> None:
    check(tmp_path, content)
