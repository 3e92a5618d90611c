"""The `limelight` command: one file a command, one table that names them."""

from .app import main
