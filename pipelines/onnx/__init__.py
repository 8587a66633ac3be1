"""Layers and networks as ONNX, and how they run in onnxruntime."""
