"""Puts this folder on the import path, so that tests on every floor can share ``synthetic_runs``."""

pytest_plugins = ("web_fixtures",)
