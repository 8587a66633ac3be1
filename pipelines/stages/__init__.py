"""Stages, one per file: a frozen dataclass of settings with a `run` method."""
