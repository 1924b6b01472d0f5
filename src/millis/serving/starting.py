"""How a worker begins: it loads its models, and what serves them is imported meanwhile.

Run by the supervisor as `python -m millis.serving.starting SETTINGS PLACEMENT SOCKET READY CONTROL METRICS`: settings
and what is to be served as JSON, three inherited file descriptors, a folder.

Border: the command line, and which of the two is on which thread: runtimes keep what they need by thread, and the
models run on this one. Compiled lengths take a second to load, in which nobody holds the interpreter.
"""

import importlib
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millis.errors import MillisError
from millis.serving.loading import load_version
from millis.serving.memory import separate_large_blocks
from millis.serving.messages import Failed, write_line
from millis.serving.placement import Placement, Version
from millis.serving.settings import read_settings

if TYPE_CHECKING:
    from millis.serving.generating import Talker
    from millis.serving.served import Served

_SERVES, _AFTER_S = "millis.serving.worker", 0.15
"""What is imported, and when: sooner the interpreter is taken by loading, which then would end later by as much."""


def main() -> int:
    """Read the command line that the supervisor wrote; say what went wrong on READY."""
    settings_json, placement_json, listener, ready, control, metrics = sys.argv[1:7]
    settings, placement = read_settings(settings_json), msgspec.json.decode(placement_json, type=Placement)
    separate_large_blocks()
    threading.Thread(target=_import, args=(_SERVES,), daemon=True).start()
    load = partial(
        load_version, threads=settings.threads or 0, has_fallback=settings.fallback, n_workers=settings.workers or 1
    )
    try:
        loaded = {number: load(version) for number, version in placement.versions().items()}

        def take(version: Version) -> "Served | Talker":
            return loaded.pop(version.number, None) or load(version)

        from millis.serving.worker import run_worker

        run_worker(
            settings, placement=placement, load=take, listener=socket.socket(fileno=int(listener)), ready=int(ready),
            control=int(control), metrics=Path(metrics),
        )  # fmt: skip
    except MillisError as error:
        write_line(int(ready), Failed(slug=error.slug, reason=str(error)))
        return error.exit_code
    except FileNotFoundError:
        if Path(metrics).is_dir():
            raise
        # else the parent was interrupted while this process started, and took its folder away
    return 0


def _import(name: str) -> None:
    time.sleep(_AFTER_S)
    with suppress(Exception):  # whoever needs it imports it again, and hears why it cannot be
        importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
