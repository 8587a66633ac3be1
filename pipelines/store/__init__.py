"""Stored results: computed once, found again by what they were computed from, resumed, removed."""
