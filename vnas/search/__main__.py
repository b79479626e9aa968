"""``python -m vnas.search``."""

import sys

from vnas.search.cli import main

if __name__ == "__main__":
    sys.exit(main())
