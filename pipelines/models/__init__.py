"""Networks to quantize: checkpoints, timm, ultralytics, transformers, a small digits network."""
