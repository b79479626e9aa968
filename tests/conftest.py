"""For every test: one thread a process, since pytest-xdist runs a process a core and waiting threads would spin.

And device locks of its own for each of these processes, so that they do not wait for each other; and a cache of its
own, so that nothing is left in the user's. A shell has what it starts in the background ignore Ctrl-C, and so would all
that the tests start: they hear it again.
"""

import atexit
import os
import signal
import tempfile
import threading

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"

_locks = tempfile.TemporaryDirectory(prefix="vnas-test-locks-")
atexit.register(_locks.cleanup)
os.environ["VNAS_LOCK_DIR"] = _locks.name

_cache = tempfile.TemporaryDirectory(prefix="vnas-test-cache-")
atexit.register(_cache.cleanup)
os.environ["VNAS_CACHE_DIR"] = _cache.name

if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
