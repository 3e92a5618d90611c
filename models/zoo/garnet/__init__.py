"""GaRNet: text is taken out of boxes of a photo; its discriminators."""
