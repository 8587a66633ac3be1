"""Bits and costs of every layer: uniform, or searched for an accuracy target."""
