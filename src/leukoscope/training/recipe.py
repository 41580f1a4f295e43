"""The settings of one training: a configuration file and what overrides it."""

from collections.abc import Sequence
from pathlib import Path

from leukoscope.core.config import apply_overrides, build, read_toml
from leukoscope.training.settings import TrainSettings


def read_settings(config: Path | None, overrides: Sequence[str] = ()) -> TrainSettings:
    """Return the settings of a TOML file (None for the defaults) with ``section.key=value`` overrides."""
    return build(TrainSettings, apply_overrides(read_toml(config) if config else {}, list(overrides)))
