"""EfficientNet-Lite, with the parameter names of its published files."""
