from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_llem.engines import get_engine
from pytest_llem.errors import UnavailableError


def test_importing_the_engines_imports_no_framework() -> None:
    code = (
        "import sys, pytest_llem.engines, pytest_llem.engines.base, pytest_llem.engines.prompts;"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("backend", ["vllm", "tensorrt"])
def test_a_backend_without_an_engine_is_unavailable(backend: str) -> None:
    with pytest.raises(UnavailableError, match=f"{backend} has no engine yet"):
        get_engine(backend)
