"""Networks to quantize: timm models, checkpoint files, and a small one trained on digits."""
