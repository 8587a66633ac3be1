"""Quantized networks and single layers as ONNX models, and running and timing them."""
