"""Codes of every layer on its own: the solves, the activations they need, the OBQ baseline."""
