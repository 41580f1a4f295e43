"""The exceptions of the project. Each message states the value, the limit and the remedy."""

from leukoscope.core.terms import Reason


class LeukoscopeError(Exception):
    """Base class of the errors of this package.

    ``exit_code`` is the exit status of the command line: 1 for refused input or a failed check, 2 for wrong usage.
    """

    exit_code = 1


class UsageError(LeukoscopeError):
    """The call itself is wrong: an option, a path that must exist, a missing extra."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has an unknown key, a wrong type or an impossible value."""


class ImageError(LeukoscopeError):
    """One image cannot be classified. ``reason`` is the stable code, the message a sentence for the user."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CohortError(LeukoscopeError):
    """A set of images or its table is inconsistent."""


class SplitError(CohortError):
    """A split is invalid: a group is on both sides, or a part is empty."""


class WeightsError(LeukoscopeError):
    """A weights file does not match the network, or is unavailable."""


class TrainingError(LeukoscopeError):
    """Training cannot start or go on: not-a-number loss, out of memory, an empty class."""


class DivergedError(TrainingError):
    """The loss is no longer a number."""


class BundleError(LeukoscopeError):
    """A bundle is damaged, altered, incomplete or of an unknown format."""


class EngineError(LeukoscopeError):
    """The inference engine is missing or gives no usable answer."""
