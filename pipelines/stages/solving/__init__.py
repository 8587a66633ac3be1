"""Layer-wise quantization: the solves, the inputs they need, and the OBQ baseline."""
