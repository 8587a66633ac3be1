"""The command line: checking and completing overrides, help, names of runs, error messages."""
