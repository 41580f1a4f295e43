"""What pydantic found wrong, for messages."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError


class Fault(NamedTuple):
    """The first fault of a document."""

    place: str
    """Keys joined by dots; empty for the top level."""
    message: str


def first_fault(error: "ValidationError") -> Fault:
    """Return where a document breaks its schema first, and how."""
    first = error.errors()[0]
    return Fault(".".join(map(str, first["loc"])), first["msg"])
