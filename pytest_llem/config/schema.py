"""The JSON Schema of an experiment file, for editors, made of the same fields that validate it."""

from __future__ import annotations

import re
from typing import Any

from pytest_llem.config.backends import backends
from pytest_llem.config.experiment import ExperimentConfig
from pytest_llem.config.names import fields, is_section, open_mappings, sections

URL = "https://pytest-llem.readthedocs.io/en/latest/schema/llem.schema.json"
"""Where the site of the documentation has the schema."""

_NULL = {"type": "null"}

# Types of which all values can be listed.
_VALUES: dict[str, list[Any]] = {"null": [None], "boolean": [True, False]}

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
    properties["dataset"] |= _dataset(schema["properties"]["dataset"], definitions)
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
        "$id": URL,
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
        "if": {"properties": dict.fromkeys(("base", "experiments", "sweep"), False)},
        "then": {"required": ["model"]},
        "$defs": definitions,
    }


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    """A field that takes null, too."""
    return _without_choice(field, _NULL)


def _without_choice(schema: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    """The same, and ``more`` kinds of values, with no choice (``anyOf``) in it.

    Of a value that fits no choice a validator says only this, or complains of the first one alone, and not what is
    wrong with the value.
    """
    kinds = _kinds(schema)
    kinds += [kind for kind in more if kind not in kinds]
    about = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "type", "enum", "const")}
    sections = [kind for kind in kinds if "$ref" in kind]
    if sections:
        # One takes null by itself. Which of several it is shows in the keys: _dataset().
        return {**sections[0], **about} if len(sections) == 1 else about
    return about | _joined(kinds) if any(kind.keys() & {"type", "enum", "const"} for kind in kinds) else schema


def _kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    choices = schema.get("anyOf") or schema.get("oneOf")
    return [schema] if choices is None else [kind for choice in choices for kind in _kinds(choice)]


def _joined(kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema for several kinds of values: all other keywords than lists of values bear on values of one type."""
    listed = [value for kind in kinds for value in kind.get("enum", [kind["const"]] if "const" in kind else [])]
    free = [kind for kind in kinds if not kind.keys() & {"enum", "const"}]
    if listed:  # with all values of a type that has few
        listed += [value for kind in free for value in _VALUES.get(kind["type"], ())]
        free = [kind for kind in free if kind["type"] not in _VALUES]
    if not free:
        return {"enum": listed}
    types = [kind["type"] for kind in free]
    if len(set(types)) < len(types):
        return {"anyOf": kinds}
    keywords = {key: _nested(key, value) for kind in free for key, value in kind.items() if key != "type"}
    if not listed:
        return {"type": types if len(types) > 1 else types[0], **keywords}
    of_listed = ["string", *(name for name, values in _VALUES.items() if values[0] in listed)]
    of_free = {"type": types, **keywords} if "string" in types else {"type": types}
    return {
        "type": list(dict.fromkeys([*types, *of_listed])),
        **({} if "string" in types else keywords),
        "if": of_free,
        "else": {"enum": listed},
        # VS Code's language server completes none of a condition.
        "defaultSnippets": [{"label": value, "body": value} for value in listed if isinstance(value, str)],
    }


def _nested(keyword: str, value: Any) -> Any:
    """What a keyword says of the values in a list or a mapping, without choices, too."""
    if keyword == "properties":
        return {name: _without_choice(field) for name, field in value.items()}
    return _without_choice(value) if keyword in ("items", "additionalProperties") and isinstance(value, dict) else value


def _dataset(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The ``dataset:`` field, whose mappings are told apart as the loader does, by their keys."""
    named, *mappings = _kinds(field)
    synthetic, builtin, file = (kind for kind in mappings if "$ref" in kind)
    keys = {
        name: value
        for kind in (synthetic, builtin, file)
        for name, value in definitions[kind["$ref"].rpartition("/")[2]]["properties"].items()
    }
    return {
        "type": [named["type"], "object", "null"],
        "minLength": named["minLength"],
        "properties": keys,
        "additionalProperties": False,
        "if": {"type": "object", "required": ["synthetic"]},
        "then": synthetic,
        "else": {
            "if": {"type": "object", "required": ["builtin"]},
            "then": builtin,
            "else": {"if": {"type": "object"}, "then": file},
        },
    }


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
        any_of_them = {"if": {"type": "array"}, "then": {"minItems": 1, "items": value}, "else": value}
        if "array" in value.get("type", ()):  # a list may be the field's value, or values
            any_of_them = {"anyOf": [value, {"type": "array", "minItems": 1, "items": value}]}
        # In a section, too, a list of values means any of them.
        wanted[name] = {"description": fields()[name].description, **({} if is_section(name) else any_of_them)}
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
