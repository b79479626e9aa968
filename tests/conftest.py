"""For every test: one thread a process, since pytest-xdist runs a process a core and waiting threads would spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
