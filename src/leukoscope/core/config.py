"""TOML files and ``--set`` overrides into frozen dataclasses; an unknown key is an error.

The dataclasses are defined with the code they configure; this module only fills them. The dataclass has the defaults, a
TOML file holds differences.
"""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from leukoscope.core.errors import ConfigError, UsageError
from leukoscope.core.limits import LARGEST_COUNT
from leukoscope.core.places import expand_user
from leukoscope.core.text import TextError, check_utf8, escape_surrogates, read_text

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file; a missing or malformed one is a ``ConfigError`` that names it."""
    try:
        return tomllib.loads(read_text(path).replace("\r\n", "\n"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}") from None
    except TextError as error:
        raise ConfigError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def apply_overrides(settings: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply ``section.key=value`` strings; the value is read as TOML, or as plain text where it is none.

    Examples
    --------
    >>> apply_overrides({"network": {"arch": "efficientnet_b3"}}, ["network.arch=resnet50", "seed=3"])
    {'network': {'arch': 'resnet50'}, 'seed': 3}
    """
    result = _copy(settings)
    for override in overrides:
        key, separator, text = override.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not separator or not all(names):
            raise ConfigError(f"--set {override!r}: expected section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (
            ValueError,
            RecursionError,
        ):  # no TOML, a number of thousands of digits, or brackets without end
            value = text
        node = result
        for name in names[:-1]:
            child = node.setdefault(name, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {override!r}: {name!r} is a value, not a section")
            node = child
        node[names[-1]] = value
    return result


def build(schema: type[T], settings: Mapping[str, Any], where: str = "") -> T:
    """Fill the dataclass ``schema`` from nested mappings.

    Raises
    ------
    ConfigError
        Unknown key (with the nearest known one), wrong type, a ``ValueError`` from the dataclass's own checks, a number
        that is not finite or beyond ``LARGEST_COUNT``, or text with NUL or that is not UTF-8.
    """
    built = _fill(schema, settings, where, None)
    _check_values(built, where)  # after the sections' own checks, whose messages name their limits
    return built


def _check_values(value: Any, where: str) -> None:
    """Refuse what no setting can mean, however deep it stands."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _check_values(getattr(value, field.name), f"{where}.{field.name}" if where else field.name)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_values(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} = {value}: expected a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST_COUNT:
        raise ConfigError(f"{where} = {shorten(value)}: expected at most {LARGEST_COUNT:,}")
    elif isinstance(value, str | Path):
        try:  # a path may have bytes that are not UTF-8
            check_utf8(escape_surrogates(str(value)) if isinstance(value, Path) else value, where)
        except UsageError as error:
            raise ConfigError(str(error)) from None


def shorten(value: int) -> str:
    """Return a whole number for a message; a very long one by its first digits and its length."""
    try:
        text = str(value)
    except ValueError:  # Python writes at most 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 24 else f"{text[:12]}... ({len(text)} digits)"


def _fill(schema: type[T], settings: Mapping[str, Any], where: str, base: T | None) -> T:
    """Build ``schema``; what ``settings`` leave out is taken from ``base``, or else from the field's default."""
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{where}.{name}" if where else name
        if name not in fields:
            near = get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ConfigError(f"unknown configuration key {path!r}{hint}")
        section = _default(fields[name]) if base is None else getattr(base, name)
        if dataclasses.is_dataclass(section) and isinstance(value, Mapping):
            # A section contains only differences: two sections of one type may have different defaults.
            values[name] = _fill(type(section), value, path, section)
        else:
            values[name] = _convert(hints[name], value, path)
    try:
        return schema(**values) if base is None else dataclasses.replace(base, **values)  # type: ignore[type-var]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"configuration section {where or 'top level'!r}: {error}") from None


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def to_mapping(settings: Any) -> dict[str, Any]:
    """Return a configuration dataclass as nested mappings, lists and plain values, without the Nones."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item is not None}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(settings)))


def _copy(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in settings.items()}


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Convert one TOML value to the field's type, or raise an error that names the expected type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return _convert_union(hint, arguments, value, path)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{path} = {value!r}: expected one of {', '.join(map(repr, arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_tuple(hint, arguments, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build(hint, value, path)
    # TOML writes 1 for a float field and text for a path; True is no number here.
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(
                f"{path} = {shorten(typing.cast(int, value))}: expected a finite number"
            ) from None
    if hint is Path and isinstance(value, str):
        try:
            return expand_user(value)
        except UsageError as error:
            raise ConfigError(f"{path} = {value!r}: {error}") from None
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise _unexpected(hint, value, path)


def _convert_union(hint: Any, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    for option in arguments:
        try:
            return _convert(option, value, path)
        except ConfigError:
            continue
    raise _unexpected(hint, value, path)


def _convert_tuple(hint: Any, arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    variable = len(arguments) == 2 and arguments[1] is Ellipsis
    kinds = [arguments[0]] * len(value) if variable else list(arguments)
    if len(kinds) != len(value):
        raise _unexpected(hint, value, path)
    return tuple(_convert(kind, item, path) for kind, item in zip(kinds, value, strict=True))


def _unexpected(hint: Any, value: Any, path: str) -> ConfigError:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return ConfigError(f"{path} = {value!r}: expected {name}, got {type(value).__name__}")
