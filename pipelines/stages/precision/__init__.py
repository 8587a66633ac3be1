"""Bit allocation and costs: uniform bits, or mixed precision searched for an accuracy target."""
