"""What is searched: passages on disk, found by their vectors and by their words.

Border: knows bundles, for the vectors; no HTTP.
"""

from millis.retrieving.index import Found, Index, open_index
from millis.retrieving.writing import add_passages, build_index, delete_passages

__all__ = ["Found", "Index", "add_passages", "build_index", "delete_passages", "open_index"]
