from __future__ import annotations

import logging
import sys
import warnings
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from pytest_llem.engines.library_warnings import library_warnings, with_earlier
from pytest_llem.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.engines.transformers.conftest import Load


class Output(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def output() -> Iterator[Output]:
    """What becomes visible of the logger ``a.library``, which hands nothing on to others, as transformers' does not."""
    logger, handler = logging.getLogger("a.library"), Output()
    logger.addHandler(handler)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_a_log_is_kept_once_and_written_after_the_block(output: Output) -> None:
    logger = logging.getLogger("a.library")
    logger.setLevel(logging.INFO)
    with library_warnings() as heard:
        for value in (1, 1, 2):
            logger.warning("cast to %s", value)
        logger.info("at once")
        assert output.lines == ["at once"]
    assert heard.texts == ["a.library: cast to 1", "a.library: cast to 2"]
    assert output.lines == ["at once", "cast to 1", "cast to 2"]
    logger.warning("later")
    assert output.lines[-1] == "later"
    assert heard.by("a") == heard.by("a.library") == ["cast to 1", "cast to 2"]
    assert heard.by("a.lib") == []


def test_what_is_written_after_the_block_has_all_that_handlers_set_up_within_it_ask_for(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_process(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.of_a_library = "main"
        return record

    before, handler = logging.getLogRecordFactory(), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(of_a_library)s: %(message)s"))
    logger = logging.getLogger("a.library")
    try:
        with library_warnings():
            logger.warning("no %s", "kernel")
            logging.setLogRecordFactory(with_process)
            logger.addHandler(handler)
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert output.lines == ["no kernel"]
    assert capsys.readouterr() == ("main: no kernel\n", "")


@pytest.mark.parametrize("how", ["level", "disable"])
def test_what_is_silenced_is_kept_and_stays_silent(output: Output, how: str) -> None:
    logger = logging.getLogger("a.library")
    if how == "level":
        logger.setLevel(logging.CRITICAL)
    else:
        logging.disable(logging.CRITICAL)
    try:
        with library_warnings() as heard:
            logger.error("slow kernels")
        assert not logger.isEnabledFor(logging.ERROR)
    finally:
        logging.disable(logging.NOTSET)
    assert heard.texts == ["a.library: slow kernels"]
    assert output.lines == []


def test_what_is_said_once_a_process_counts_in_each_block() -> None:
    for _ in range(2):
        with library_warnings() as heard:
            for _ in range(2):
                transformers_logging.get_logger("transformers.once").warning_once("reference kernels")
        assert heard.texts == ["transformers.once: reference kernels"]


def test_what_vllm_says_once_a_process_does_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As vLLM's loggers do it.
    say = lru_cache(logging.getLogger("vllm.x").warning)
    monkeypatch.setitem(sys.modules, "vllm.logger", SimpleNamespace(_print_warning_once=say))
    for _ in range(2):
        with library_warnings() as heard:
            say("no kernels")
        assert heard.texts == ["vllm.x: no kernels"]


def test_a_text_is_one_printable_line_of_bounded_length() -> None:
    with library_warnings() as heard:
        logging.getLogger("a").warning("\x1b[1mREPORT\x1b[0m\n  a\u202e\tb" + 500 * "x")
    (text,) = heard.texts
    assert text.startswith("a: REPORT a\\u202e bxxx")
    assert text.endswith("x...")
    assert len(text) == 400


def test_a_warning_is_kept_once_and_issued_after_the_block() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with library_warnings() as heard:
            for _ in range(3):
                warnings.warn("slow", stacklevel=1)
                warnings.warn("will go", DeprecationWarning, stacklevel=1)
                warnings.warn("will go", FutureWarning, stacklevel=1)
                warnings.warn("left open", ResourceWarning, stacklevel=1)
            warnings.warn_explicit("slow", UserWarning, "/usr/lib/site-packages/torch/nn/functional.py", 5)
            assert not shown
    assert heard.texts == ["test_library_warnings.py: slow", "torch.nn.functional: slow"]
    assert [str(warning.message) for warning in shown] == ["slow"] * 2


def test_a_warning_that_is_an_error_to_the_user_is_raised_after_the_block() -> None:
    reached = []
    with pytest.raises(MeasurementError, match=r"warns, which is an error here: slow$"), library_warnings():  # noqa: PT012
        warnings.warn("slow", stacklevel=1)
        reached.append(True)
    assert reached


def test_a_failure_is_told_with_what_was_logged_before(output: Output) -> None:
    before = logging.Logger.handle
    with pytest.raises(RuntimeError, match="it failed"), library_warnings():  # noqa: PT012
        warnings.warn("slow", stacklevel=1)
        logging.getLogger("a.library").warning("before it failed")
        raise RuntimeError("it failed")
    assert logging.Logger.handle is before
    assert output.lines == ["before it failed"]


def test_a_block_within_another_leaves_nothing_out(output: Output) -> None:
    with library_warnings() as outer:
        with library_warnings() as inner:
            logging.getLogger("a.library").warning("inner")
        assert output.lines == []
        logging.getLogger("a.library").warning("outer")
    assert inner.texts == ["a.library: inner"]
    assert outer.texts == ["a.library: inner", "a.library: outer"]
    assert output.lines == ["inner", "outer"]


def test_what_a_library_says_once_holds_for_each_model_that_it_is_a_part_of(load: Load) -> None:
    class Layer(torch.nn.Linear):
        """Of a library."""

    Layer.__module__ = "once.layers"
    with library_warnings():
        logging.getLogger("once.kernels").warning("falls back")
    model = load()
    assert with_earlier(["a"], model.libraries) == ["a"]
    model.model.add_module("further", Layer(1, 1))
    heard, further = with_earlier(["a"], model.libraries)
    assert heard == "a"
    assert further.startswith("once.kernels: falls back (said earlier")
    assert with_earlier(["once.kernels: falls back"], model.libraries) == ["once.kernels: falls back"]
