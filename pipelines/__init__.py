"""The chain of stages, its store, its tracking and its command line."""
