"""HRNet with polarized self-attention in its blocks, for labels of pixels and for keypoints."""
