"""``python -m vnas.profiler``."""

import sys

from vnas.profiler.cli import main

if __name__ == "__main__":
    sys.exit(main())
