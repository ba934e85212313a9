"""The JSON Schema of an experiment file, for editors, made of the same fields that validate it."""

from __future__ import annotations

import re
from typing import Any

from pytest_llem.config.experiment import ExperimentConfig
from pytest_llem.config.names import fields, open_mappings

_ENTRY = "#/$defs/ExperimentEntry"


def experiment_file_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole experiment file, with ``experiments:`` and ``sweep:``."""
    schema = ExperimentConfig.model_json_schema()
    definitions = schema.pop("$defs")
    # An explicit null resets a field to its default, whatever the field takes.
    properties = {name: _nullable(field) for name, field in schema["properties"].items()}
    for definition in definitions.values():
        if "properties" in definition:
            definition["properties"] = {name: _nullable(field) for name, field in definition["properties"].items()}
    sweep = _sweep_schema()
    definitions["ExperimentEntry"] = {
        "type": "object",
        "description": "One experiment over the file's defaults.",
        "properties": {**properties, "sweep": sweep},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest-llem experiment file",
        "type": "object",
        "properties": {
            **properties,
            "experiments": {
                "description": "Several experiments; every other field of the file is their default.",
                "anyOf": [{"type": "array", "minItems": 1, "items": {"$ref": _ENTRY}}, {"type": "null"}],
            },
            "sweep": sweep,
        },
        "additionalProperties": False,
        # The model may also come from an entry or from the sweep.
        "anyOf": [{"required": ["model"]}, {"required": ["experiments"]}, {"required": ["sweep"]}],
        "$defs": definitions,
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in schema.get("anyOf", []):
        return schema
    about: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": [rest, {"type": "null"}]}


def _sweep_schema() -> dict[str, Any]:
    names = {
        name: {"description": field.description, "type": "array", "minItems": 1, "uniqueItems": True}
        for name, field in fields().items()
        if name != "name"
    }
    return {
        "description": "Fields by dotted name: a list of values is an axis, a list of mappings a group of "
        "variants; all are crossed.",
        "anyOf": [
            {
                "type": "object",
                "properties": names,
                "patternProperties": {
                    rf"^({'|'.join(map(re.escape, open_mappings()))})\..+$": {"type": "array", "minItems": 1}
                },
                "additionalProperties": False,
            },
            {"type": "null"},
        ],
    }
