"""``python -m vnas.training``."""

import sys

from vnas.training.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
