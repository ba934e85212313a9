"""Sessions with vLLM itself, in an environment of their own (``tox -e vllm``); elsewhere they are skipped.

A session starts in half a minute or more, so there are few, and each shows several things.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# Attention on the CPU wants heads of 32, 64 and up, which the built-in model has.
VLLM = "{kv_cache_memory_bytes: 268435456, max_model_len: 256, max_num_seqs: 8, enforce_eager: true}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing here runs without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs vllm: tox -e vllm"))


@pytest.fixture
def engine() -> str:
    """No argument: the package's own engine."""
    return ""


@pytest.fixture(autouse=True)
def _memory_by_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would win over what the files say, which is an error.
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
