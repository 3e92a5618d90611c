"""A census of foreign architectures: what limelight holds on each; `make census` runs it."""
