"""Vision transformers, with the names of timm and of torchvision."""
