"""Whole experiment files, from the names and kinds of values that the grammar knows, right and wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from hypothesis import strategies as st

from pytest_llem.config.names import FILE_KEYS, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = sorted(fields())

# Valid somewhere, wrong elsewhere.
_WORDS = (
    *("builtin:tiny-llama", "gpt2", "./x", "~/x", "pretrained", "random", "pytorch", "vllm", "fp32", "bf16", "any"),
    *("cpu", "cuda", "auto", "natural", "greedy", "deterministic", "creative", "sdpa", "eager", "org/kernel", "static"),
    *("quantized", "offloaded", "never", "5%", "2%..5%", "slow", "skip", "10GiB", "float16", "nf4", "main", "a", ""),
    *("tensorrt", "ngram", "fp8", "awq", "FLASH_ATTN", "NONE", "FP8"),
)

_SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from((0, 1, 2, 4, 64, -1, 2**31, 2**63))
    | st.integers()
    | st.floats()
    | st.sampled_from(_WORDS)
    | st.text(max_size=20)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES) | _SCALARS, inner, max_size=3),
    max_leaves=6,
)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of dotted names; of two that do not go together, the later one stands."""
    root: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, leaf = name.split(".")
        at = root
        for section in sections:
            below = at.get(section)
            if not isinstance(below, dict):
                below = at[section] = {}
            at = below
        at[leaf] = value
    return root


_FIELDS = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=5).map(_nested)
_EXPERIMENTS = st.builds(lambda model, rest: {"model": model, **rest}, st.sampled_from(_WORDS), _FIELDS)
_AXES = st.dictionaries(
    st.sampled_from(_NAMES) | st.text(max_size=5), st.lists(_SCALARS | _FIELDS, max_size=3) | _VALUES, max_size=3
)
_EXCLUSIONS = st.lists(st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=2), max_size=2)
_PARTS: Mapping[str, st.SearchStrategy[Any]] = {
    "experiments": st.lists(_EXPERIMENTS | _VALUES, max_size=3) | _VALUES,
    "sweep": _AXES | _VALUES,
    "exclude": _EXCLUSIONS | _VALUES,
    "base": st.sampled_from((".", "fuzzed.llem.yaml", "/dev/null", "missing.yaml")) | _SCALARS,
}
assert set(_PARTS) == set(FILE_KEYS)

_PYTHON = st.builds(
    lambda experiment, parts: {**experiment, **parts}, _EXPERIMENTS, st.fixed_dictionaries({}, optional=dict(_PARTS))
)

_STYLES = st.sampled_from((True, False, None))


def _written(content: Any, style: bool | None) -> bytes:
    text: str = yaml.safe_dump(content, default_flow_style=style, allow_unicode=True, sort_keys=False)
    # A lone surrogate is written as it is, and no file of UTF-8 can hold it.
    return text.encode("utf-8", errors="backslashreplace")


files: st.SearchStrategy[bytes] = st.builds(_written, _PYTHON, _STYLES)
"""Files as bytes, in the block and the flow style."""
