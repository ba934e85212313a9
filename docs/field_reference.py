"""Writes the reference of experiment files from the fields that validate them.

python docs/field_reference.py > docs/reference.md
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pytest_llem.config.base import Section, metadata_of, stage_of
from pytest_llem.config.dataset import BuiltinDataset, FileDataset, SyntheticDataset, SyntheticPrompts
from pytest_llem.config.decoder import DecoderConfig
from pytest_llem.config.experiment import ExperimentConfig, MeasureConfig, ParallelConfig
from pytest_llem.config.kv_cache import QuantizedCacheConfig
from pytest_llem.config.lengths import Lengths, OutputLengths
from pytest_llem.config.passthrough import Passthrough
from pytest_llem.config.pytorch import LoraConfig, PyTorchConfig
from pytest_llem.config.schema import experiment_file_schema
from pytest_llem.config.tensorrt import BuildConfig, CudaGraphConfig, KvCacheConfig, QuantConfig, TensorRTConfig
from pytest_llem.config.vllm import SpeculativeConfig, VllmConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

_INTRODUCTION = """\
# Reference of experiment files

Written by `python docs/field_reference.py`; do not edit. `pytest --llem-schema` prints the same as a JSON Schema, by
which [editors](editors.md) complete and check a file.

A field that is not set has the default of its row; where that is empty, the backend's own applies. A field takes `null`
for its default, too. *Decides*: experiments that differ in a field of the *load* need a model of their own; those that
differ in the *prompts*, the *batch* or the *call* of `generate()` share one, and their results are not compared. Fields
of the *measurement* say how and where the same work is measured: results stay comparable. Fields of the *session* say
whether an experiment runs, how long it may take and how it is judged: a result stays as it is.
"""

_SECTIONS: tuple[tuple[str, str, type[Section]], ...] = (
    ("An experiment", "", ExperimentConfig),
    ("dataset: {synthetic: ...}", "dataset.", SyntheticDataset),
    ("dataset: {synthetic: ...}", "dataset.synthetic.", SyntheticPrompts),
    ("dataset: {synthetic: {lengths: ...}}", "dataset.synthetic.lengths.", Lengths),
    ("dataset: {builtin: ...}", "dataset.", BuiltinDataset),
    ("dataset: {path: ...}", "dataset.", FileDataset),
    ("output_lengths", "output_lengths.", OutputLengths),
    ("decoder", "decoder.", DecoderConfig),
    ("pytorch", "pytorch.", PyTorchConfig),
    ("pytorch.cache_config", "pytorch.cache_config.", QuantizedCacheConfig),
    ("pytorch.lora", "pytorch.lora.", LoraConfig),
    ("vllm", "vllm.", VllmConfig),
    ("vllm.speculative_config", "vllm.speculative_config.", SpeculativeConfig),
    ("tensorrt", "tensorrt.", TensorRTConfig),
    ("tensorrt.kv_cache_config", "tensorrt.kv_cache_config.", KvCacheConfig),
    ("tensorrt.quant_config", "tensorrt.quant_config.", QuantConfig),
    ("tensorrt.cuda_graph_config", "tensorrt.cuda_graph_config.", CudaGraphConfig),
    ("tensorrt.build_config", "tensorrt.build_config.", BuildConfig),
    ("parallel", "parallel.", ParallelConfig),
    ("measure", "measure.", MeasureConfig),
    ("passthrough", "passthrough.", Passthrough),
)


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_file_keys(), *_tables()])


def _file_keys() -> Iterator[str]:
    schema = experiment_file_schema()
    yield "## A file\n"
    yield "Beside the fields of an experiment, a file may hold:\n"
    yield "| key | meaning |\n|---|---|"
    for key in ("base", "experiments", "sweep", "exclude"):
        value = schema["properties"][key]
        if "$ref" in value:
            value = schema["$defs"][value["$ref"].rpartition("/")[2]]
        yield f"| `{key}` | {value['description']} |"
    yield ""


def _tables() -> Iterator[str]:
    before = None
    for title, prefix, section in _SECTIONS:
        if title != before:
            yield f"{'' if before is None else chr(10)}## {title if before is None else f'`{title}`'}\n"
            yield "| field | values | default | unit | decides | meaning |\n|---|---|---|---|---|---|"
        before = title
        properties = section.model_json_schema()["properties"]
        for name, field in section.model_fields.items():
            about = metadata_of(section, name)
            cells = (
                f"`{prefix}{name}`",
                _values(properties[name]),
                _default(field),
                about.get("unit", ""),
                stage_of(section, name) or "",
                str(field.description),
            )
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _values(schema: dict[str, Any]) -> str:
    """What a field takes."""
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        kinds = (_values(choice) for choice in choices if choice != {"type": "null"})
        return ", or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_values(schema['items'])}"
    if kind == "object" or "$ref" in schema:
        return "mapping"
    name = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}[str(kind)]
    return name + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return "".join(f" {word} {schema[key]}" for key, word in words.items() if key in schema)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        value = value.model_dump(exclude_defaults=True)
    if value is None or value in ({}, []):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    sys.stdout.write(reference())
