"""Language models on gated linear attention, by name or from any folder with a config.json."""

from .checkpoints import from_checkpoint, from_config, read_config, tokenizer
