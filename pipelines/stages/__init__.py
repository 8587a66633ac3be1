"""One stage a file: a frozen dataclass of settings with a `run` method."""
