"""The JSON Schema of an experiment file, for editors, made of the same fields that validate it."""

from __future__ import annotations

import re
from typing import Any

from pytest_llem.config.backends import backends
from pytest_llem.config.experiment import ExperimentConfig
from pytest_llem.config.names import fields, is_section, open_mappings, sections

_NULL = {"type": "null"}

# A dataset is given as a whole; any other section may be completed by a default, a base or a sweep.
_WHOLE = ("BuiltinDataset", "FileDataset")


def experiment_file_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a whole experiment file: an experiment's fields and the file's own keys."""
    schema = ExperimentConfig.model_json_schema()
    schema["properties"]["backend"]["enum"] = backends()
    definitions = schema.pop("$defs")
    for section, definition in definitions.items():
        definition["properties"] = {name: _nullable(field) for name, field in definition["properties"].items()}
        definition["type"] = ["object", "null"]
        if section not in _WHOLE:
            definition.pop("required", None)
    # An explicit null resets a field to its default, whatever the field takes.
    properties = {name: _nullable(field) for name, field in schema["properties"].items()}
    properties["dataset"] |= _keys_of_any(properties["dataset"], definitions)
    values = _values({**definitions, ExperimentConfig.__name__: {"properties": properties}})
    definitions |= {"Sweep": _sweep(values), "Exclusions": _exclusions(values)}
    expansion = {"sweep": {"$ref": "#/$defs/Sweep"}, "exclude": {"$ref": "#/$defs/Exclusions"}}
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
                "type": ["string", "null"],
                "minLength": 1,
            },
            "experiments": {
                "description": "Several experiments; every other field of the file is their default.",
                "type": ["array", "null"],
                "minItems": 1,
                "items": {"$ref": "#/$defs/ExperimentEntry"},
            },
            **expansion,
        },
        "patternProperties": {"^x-": {"description": "Ignored: a place for YAML anchors."}},
        "additionalProperties": False,
        # The model may also come from a base, an entry or the sweep.
        "anyOf": [{"required": [key]} for key in ("model", "base", "experiments", "sweep")],
        "$defs": definitions,
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A field that takes null, too.

    Not by a choice (``anyOf``) around it where that can be helped: of a value that fits no choice a validator says only
    this, and not which key is misspelt.
    """
    about = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
    kinds = [
        kind
        for choice in schema.get("anyOf") or schema.get("oneOf") or [{}]
        for kind in choice.get("anyOf", [choice])
        if kind != _NULL
    ]
    if len(kinds) > 1:
        return {**about, "anyOf": [*kinds, _NULL]}
    field = {**kinds[0], **about}
    if "enum" in field:
        field["enum"] = [*field["enum"], None]
    # A section takes null by itself.
    return field if "$ref" in field else {**field, "type": [field["type"], "null"]}


def _keys_of_any(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The keys of all sections that ``field`` has the choice of, so that another key is named."""
    sections = [definitions[kind["$ref"].rpartition("/")[2]] for kind in field["anyOf"] if "$ref" in kind]
    keys = {name: value for section in sections for name, value in section["properties"].items()}
    return {"properties": keys, "additionalProperties": False}


def _values(definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each field takes, by its dotted name."""
    return {
        name: definitions[section.__name__]["properties"][name.rpartition(".")[2]]
        for name, section in sections().items()
    }


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
        "type": ["object", "null"],
        "properties": axes,
        "patternProperties": {_OPEN: {"type": "array", "minItems": 1}},
        "additionalProperties": False,
    }


def _exclusions(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    wanted: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        either = [value, {"type": "array", "minItems": 1, "items": value}]
        # In a section, too, a list of values means any of them.
        wanted[name] = {"description": fields()[name].description, **({} if is_section(name) else {"anyOf": either})}
    return {
        "description": "Points of the sweep to leave out: one with all the values of a mapping is dropped; a list of "
        "values means any of them.",
        "type": ["array", "null"],
        "items": {
            "type": "object",
            "minProperties": 1,
            "properties": wanted,
            "patternProperties": {_OPEN: {}},
            "additionalProperties": False,
        },
    }


_OPEN = rf"^({'|'.join(map(re.escape, open_mappings()))})\..+$"
