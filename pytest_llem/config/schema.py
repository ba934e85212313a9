"""The JSON Schema of an experiment file, for editors, made of the same fields that validate it."""

from __future__ import annotations

import re
from typing import Any

from pytest_llem.config.backends import backends
from pytest_llem.config.experiment import ExperimentConfig
from pytest_llem.config.names import fields, is_section, open_mappings, sections

# A dataset is given as a whole; any other section may be completed by a default, a base or a sweep.
_WHOLE = ("BuiltinDataset", "FileDataset")


def experiment_file_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole experiment file: an experiment's fields and the file's own keys."""
    schema = ExperimentConfig.model_json_schema()
    schema["properties"]["backend"]["enum"] = backends()
    definitions = schema.pop("$defs")
    # An explicit null resets a field to its default, whatever the field takes.
    properties = {name: _nullable(field) for name, field in schema["properties"].items()}
    for section, definition in definitions.items():
        if "properties" in definition:
            definition["properties"] = {name: _nullable(field) for name, field in definition["properties"].items()}
        if section not in _WHOLE:
            definition.pop("required", None)
    values = _values({**definitions, ExperimentConfig.__name__: {"properties": properties}})
    definitions["Sweep"] = _sweep(values)
    definitions["Exclusions"] = _exclusions(values)
    expansion = {
        "sweep": {"$ref": "#/$defs/Sweep"},
        "exclude": {"$ref": "#/$defs/Exclusions"},
    }
    definitions["ExperimentEntry"] = {
        "type": "object",
        "description": "One experiment over the file's defaults.",
        "properties": {**properties, **expansion},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest-llem experiment file",
        "type": "object",
        "properties": {
            **properties,
            "base": {
                "description": "A file whose fields stand under those of this one; a relative path starts at this "
                "file's folder.",
                "anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}],
            },
            "experiments": {
                "description": "Several experiments; every other field of the file is their default.",
                "anyOf": [
                    {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/ExperimentEntry"}},
                    {"type": "null"},
                ],
            },
            **expansion,
        },
        "additionalProperties": False,
        # The model may also come from a base, an entry or the sweep.
        "anyOf": [{"required": [key]} for key in ("model", "base", "experiments", "sweep")],
        "$defs": definitions,
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in schema.get("anyOf", []):
        return schema
    about: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": [rest, {"type": "null"}]}


def _values(definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each field takes, by its dotted name."""
    found = {}
    for name, section in sections().items():
        field = definitions[section.__name__]["properties"][name.rpartition(".")[2]]
        # A variant of a section may hold a part of it, by dotted names too.
        found[name] = {"description": fields()[name].description} if is_section(name) else field
    return found


def _sweep(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    axes = {
        name: {
            "description": fields()[name].description,
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": value,
        }
        for name, value in values.items()
        if name != "name"
    }
    return {
        "description": "Fields by dotted name: a list of values is an axis, a list of mappings a group of "
        "variants; all are crossed.",
        "anyOf": [
            {
                "type": "object",
                "properties": axes,
                "patternProperties": {_OPEN: {"type": "array", "minItems": 1}},
                "additionalProperties": False,
            },
            {"type": "null"},
        ],
    }


def _exclusions(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    wanted = {
        name: {
            "description": fields()[name].description,
            "anyOf": [value, {"type": "array", "minItems": 1, "items": value}],
        }
        for name, value in values.items()
    }
    return {
        "description": "Points of the sweep to leave out: one with all the values of a mapping is dropped; a list of "
        "values means any of them.",
        "anyOf": [
            {
                "type": "array",
                "items": {
                    "type": "object",
                    "minProperties": 1,
                    "properties": wanted,
                    "patternProperties": {_OPEN: {}},
                    "additionalProperties": False,
                },
            },
            {"type": "null"},
        ],
    }


_OPEN = rf"^({'|'.join(map(re.escape, open_mappings()))})\..+$"
