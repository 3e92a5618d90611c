"""MaxViT: block and grid attention behind mobile convolutions."""
