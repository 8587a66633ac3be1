"""ONNX models of layers, and running and timing them in onnxruntime."""
