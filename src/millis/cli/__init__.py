"""The commands, one file each.

Border: reads arguments, calls one public function, prints. Results go to standard output (one JSON document with
--json), everything else to standard error. Exit codes: 0 done or kept, 1 failed, 2 bad input, 3 contract broken,
4 undecided or void, 130 interrupted.
"""

from millis.cli.app import main

__all__ = ["main"]
