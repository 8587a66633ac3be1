"""The quantized network as files for other programs."""
