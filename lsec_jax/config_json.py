"""Configs as JSON, and what differs between two of them. Knows no source and no model."""

import dataclasses
import difflib
import importlib
import json
import types
import typing
from typing import Any

from lsec_jax.config import ConfigError


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the JSON form of a config dataclass; fields declared `Any` carry their class as "type"."""

    def encode(value: Any, is_open: bool) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: encode(getattr(value, f.name), f.type is Any) for f in dataclasses.fields(value)}
            return {"type": f"{type(value).__module__}:{type(value).__qualname__}", **fields} if is_open else fields
        if isinstance(value, (list, tuple)):
            return [encode(item, False) for item in value]
        return value

    return encode(config, False)


def to_json(config: Any) -> dict[str, Any]:
    """Returns `to_dict` as it comes back from a JSON file: what stored configs are compared with."""
    return json.loads(json.dumps(to_dict(config)))


def from_dict(cls: Any, values: Any, plugins: tuple[str, ...] = (), key: str = "config") -> Any:
    """Builds a config dataclass from its JSON form.

    Args:
        cls: the dataclass, or the type of a leaf field.
        values: what `to_dict` returned, after a round trip through JSON.
        plugins: top-level packages besides lsec_jax that a "type" may name.
        key: where in the config this is, for messages.

    Raises:
        ConfigError: for unknown keys (naming the valid ones), wrong types, or a "type" outside the allowed packages.
    """
    if cls is Any and isinstance(values, dict) and "type" in values:
        return from_dict(_resolve(values["type"], plugins, key), _without_type(values), plugins, key)
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: expected a table of fields, got {values!r}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise ConfigError(unknown_key_message(f"{key}.{name}", fields))
        required = [
            name
            for name, f in fields.items()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if absent := [name for name in required if name not in values]:
            raise ConfigError(f"{key}.{absent[0]} is missing; give it")
        built = {name: from_dict(fields[name].type, value, plugins, f"{key}.{name}") for name, value in values.items()}
        return cls(**built)
    return _leaf(cls, values, plugins, key)


def _without_type(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "type"}


def _leaf(cls: Any, value: Any, plugins: tuple[str, ...], key: str) -> Any:
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}: expected a list, got {value!r}")
        return tuple(from_dict(arguments[0], item, plugins, f"{key}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return from_dict(next(a for a in arguments if a is not type(None)), value, plugins, key)
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(cls, type) and (not isinstance(value, cls) or (isinstance(value, bool) and cls is not bool)):
        raise ConfigError(f"{key}: expected {cls.__name__}, got {value!r}")
    return value


def _resolve(name: Any, plugins: tuple[str, ...], key: str) -> Any:
    if not isinstance(name, str):
        raise ConfigError(f"{key}.type: expected str, got {name!r}")
    module, _, qualname = name.partition(":")
    allowed = ("lsec_jax", *plugins)
    if module.split(".")[0] not in allowed:
        raise ConfigError(
            f"{key}.type: '{name}' is outside {', '.join(allowed)}; name its package with --plugin to allow it"
        )
    try:
        found = getattr(importlib.import_module(module), qualname)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}.type: cannot find '{name}': {error}") from None
    if not dataclasses.is_dataclass(found):
        raise ConfigError(f"{key}.type: '{name}' is not a config dataclass")
    return found


def unknown_key_message(key: str, valid: Any) -> str:
    """One line for an unknown config key: the key, the nearest valid one, and all valid ones."""
    name = key.rpartition(".")[2]
    close = difflib.get_close_matches(name, list(valid), n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"unknown config key '{key}'{hint}; valid here: {', '.join(sorted(valid))}"


def with_defaults(stored: Any, config: Any) -> Any:
    """Returns a stored config's JSON form with the defaults of the fields that the version which wrote it lacked.

    Args:
        stored: what an earlier `to_json` returned, or anything that a damaged file held.
        config: the dataclass that it will be compared with.
    """
    if isinstance(stored, list) and isinstance(config, (list, tuple)) and len(stored) == len(config):
        return [with_defaults(*pair) for pair in zip(stored, config, strict=True)]
    if not (isinstance(stored, dict) and dataclasses.is_dataclass(config)) or isinstance(config, type):
        return stored
    filled = dict(stored)
    for field in dataclasses.fields(config):
        if field.name in stored:
            filled[field.name] = with_defaults(stored[field.name], getattr(config, field.name))
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if default is not dataclasses.MISSING:
            filled[field.name] = to_json(dataclasses.replace(config, **{field.name: default}))[field.name]
    return filled


def differences(stored: Any, current: Any, key: str = "config") -> list[str]:
    """Returns one line for each key whose JSON value differs: 'key: stored -> current'.

    A key that is absent on one side and null or empty on the other is no difference: the older version lacks it.
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        lines = []
        for name in sorted({*stored, *current}):
            if all(values.get(name) in (None, []) for values in (stored, current)):
                continue
            lines += differences(stored.get(name, "(absent)"), current.get(name, "(absent)"), f"{key}.{name}")
        return lines
    if isinstance(stored, list) and isinstance(current, list) and len(stored) == len(current):
        if any(isinstance(value, dict) for value in (*stored, *current)):
            pairs = zip(stored, current, strict=True)
            return [line for i, pair in enumerate(pairs) for line in differences(*pair, f"{key}[{i}]")]
    return [] if stored == current else [f"{key}: {json.dumps(stored)} -> {json.dumps(current)}"]
