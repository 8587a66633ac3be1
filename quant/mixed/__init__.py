"""Mixed precision: the effect of fewer bits in several layers, and the choice of bits per layer."""
