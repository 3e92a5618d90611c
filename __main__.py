"""`python -m limelight` is the `limelight` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
