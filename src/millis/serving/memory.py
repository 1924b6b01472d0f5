"""Memory of a worker: the collector out of the way, and what is free back to the system.

Border: this process; no models.
"""

import ctypes
import gc
import sys


def settle_memory() -> None:
    """Take everything loaded so far out of the collector's sight and make it run rarely, for a quiet tail.

    What loading left free in the heap goes back to the system first: 8 MB after eight lengths of MiniLM-L6.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    trim_memory()


def trim_memory() -> None:
    """Give what is free in the heap back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's own
    if trim is not None:
        trim(0)
