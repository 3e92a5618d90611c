"""ViG: gated linear attention over pictures, flat and hierarchical."""
