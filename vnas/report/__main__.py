"""``python -m vnas.report``."""

import sys

from vnas.report.cli import main

if __name__ == "__main__":
    sys.exit(main())
