"""The architectures: one file each, a folder where one file would grow too long."""
