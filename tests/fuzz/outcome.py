"""What any file must come to, whatever it holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_llem.config import load_experiments
from pytest_llem.config.experiment import mistake_in_name
from pytest_llem.errors import ExperimentFileError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "fuzzed.llem.yaml"

# What could drive a terminal, or begin a line that a CI server obeys.
UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def check(folder: Path, content: bytes) -> bool:
    """Load ``content`` as an experiment file.

    Returns:
        Whether it holds at least one valid experiment.

    Raises:
        AssertionError: it came to anything but valid experiments and messages of the promised form.
    """
    path = folder / NAME
    path.write_bytes(content)
    try:
        experiments = load_experiments(path, display=NAME)
    except ExperimentFileError as error:
        check_message(str(error), lines=1)
        return False
    assert experiments
    identities = {(one.name, one.id) for one in experiments}
    assert len(identities) == len(experiments)
    for one in experiments:
        assert mistake_in_name(one.name) is None
        assert one.line >= 1
        for message in one.errors:
            check_message(message, lines=5)
        if one.contradiction is not None:
            assert not UNPRINTABLE.search(one.contradiction)
            assert "\n" not in one.contradiction
        elif one.config is None:
            assert one.errors
        else:
            hash(one.config.load_config(folder))
            one.config.model_dump_json()
    return any(one.config is not None for one in experiments)


def check_message(message: str, *, lines: int) -> None:
    """A message names a file and a line first, and holds nothing but text."""
    assert re.match(r"[^\n]+?:\d+: .", message), message
    assert not UNPRINTABLE.search(message), repr(message)
    assert message.count("\n") == lines - 1, message
