"""The values of options and arguments, checked in one place before a command runs.

1. A value that is given is not empty: ``--out ''``, often an unset variable of a shell, is not the current folder.
2. A text is UTF-8; a path may be of any bytes.
3. A message about a wrong number or word names the option, the value and what is expected.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import typer

from leukoscope.core.errors import UsageError
from leukoscope.core.text import check_utf8


def check_values(command: Any) -> None:
    """Let a command, or each command of a group, refuse wrong values of its options and arguments."""
    for inner in getattr(command, "commands", {}).values():
        check_values(inner)
    if command.callback is None:
        return
    hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for parameter in command.params:
        if parameter.name in hints:  # all but --help
            parameter.process_value = _checked(parameter, hints[parameter.name])


def _checked(parameter: Any, hint: Any) -> Callable[[Any, Any], Any]:
    convert = parameter.process_value
    is_option = parameter.param_type_name == "option"
    name = max(parameter.opts, key=len) if is_option else f"argument {parameter.name}"
    kinds = set(_leaves(hint))

    def process(context: Any, value: Any) -> Any:
        source = context.get_parameter_source(parameter.name)
        given = [] if source is None or "DEFAULT" in source.name else list(_texts(value))
        for text in given:
            if not text:
                remedy = "give a value, or leave the option out" if is_option else "give a value"
                raise UsageError(f"{name} '': the value is empty; {remedy}")
            if is_option and str in kinds:
                check_utf8(text, name)
        try:
            return convert(context, value)
        except typer.BadParameter as error:
            if not given:
                raise
            expected = _expected(hint, kinds) or error.message
            raise UsageError(f"{name} {', '.join(map(_shown, given))}: {expected}") from None

    return process


def _texts(value: Any) -> Iterator[str]:
    """Yield the words of the command line that a value consists of."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, str) and not isinstance(one, Enum):
            yield one


def _leaves(hint: Any) -> Iterator[Any]:
    """Yield the types in an annotation, without None."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _leaves(inner[0])
    elif origin in (typing.Union, types.UnionType, list, tuple):
        for one in inner:
            yield from _leaves(one)
    elif hint not in (type(None), Ellipsis):
        yield hint


def _expected(hint: Any, kinds: set[Any]) -> str | None:
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"expected one of {', '.join(str(one.value) for one in kind)}"
    if kind not in (int, float):
        return None
    least, most = _limits(hint)
    number = "a whole number" if kind is int else "a number"
    if least is not None and most is not None:
        return f"expected {number} from {least} to {most}"
    if least is not None:
        return f"expected {number} of {least} or more"
    return f"expected {number}" if most is None else f"expected {number} of {most} or less"


def _limits(hint: Any) -> tuple[float | None, float | None]:
    """Return least and largest value of a number, as its option states them."""
    for one in getattr(hint, "__metadata__", ()):
        if hasattr(one, "min") and hasattr(one, "max"):
            return one.min, one.max
    return None, None


def _shown(text: str) -> str:
    return text if re.fullmatch(r"[\w.+-]+", text) else repr(text)
