"""The mathematics of post-training quantization: tensors in, tensors out."""
