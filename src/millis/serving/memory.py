"""Memory of a worker: the collector out of the way, and what is free back to the system.

Border: this process; no models.
"""

import ctypes
import gc
import sys

_MMAP_THRESHOLD = -3  # mallopt's M_MMAP_THRESHOLD
_LARGE_BYTES = 1 << 20


def separate_large_blocks() -> None:
    """Let what is large go back to the system as soon as it is freed; call it before anything is loaded.

    Left alone, glibc learns from what is freed to keep such blocks in its heaps, where small ones pin them: of twenty
    models of 40 MB that were loaded and unloaded, 60 MB stayed; so none of them does.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if adjust is not None:
        adjust(_MMAP_THRESHOLD, _LARGE_BYTES)


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
