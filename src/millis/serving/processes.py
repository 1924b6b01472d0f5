"""A worker as its parent holds it: a process, and the pipes between the two.

Border: starts the process and speaks to it; when to start, replace and stop it is the supervisor's.
Limits: POSIX only (inherited descriptors).
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millis.serving.messages import Failed, Lines, Listen, Said, write_line
from millis.serving.placement import Placement
from millis.serving.settings import ServeSettings, write_settings

if TYPE_CHECKING:
    import socket

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GRPC_VERBOSITY": "NONE",  # it would write a line for each stranger that speaks something else
}


@dataclass(slots=True)
class Worker:
    """A worker; it stands by until it is told to listen.

    Args:
        ready: descriptor that the worker speaks through.
        control: descriptor that the worker hears.
        began: monotonic seconds.
        stands_by: it was not told to listen yet.
        is_loaded: it has loaded and warmed its models.
        is_ready: it answers clients.
        failed: why it could not start, if it said so.
    """

    process: subprocess.Popen[bytes]
    ready: int
    control: int
    began: float
    lines: Lines = field(default_factory=lambda: Lines(Said))
    stands_by: bool = True
    is_loaded: bool = False
    is_ready: bool = False
    failed: Failed | None = None

    def listen(self) -> None:
        """Let it answer clients as soon as it has loaded."""
        self.stands_by = False
        write_line(self.control, Listen())


def start_worker(
    settings: ServeSettings, *, placement: Placement, listener: "socket.socket", metrics: Path
) -> Worker:
    """Start a process that loads what is to be served.

    Args:
        listener: bound; the worker inherits it.
        metrics: folder of this server's workers.
    """
    ready, ready_end = os.pipe()
    control_end, control = os.pipe()
    descriptors = (listener.fileno(), ready_end, control_end)
    process = subprocess.Popen(
        [sys.executable, "-m", "millis.serving.starting", write_settings(settings),
         msgspec.json.encode(placement).decode(), *map(str, descriptors), str(metrics)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is the parent's to hear
        env={**os.environ, **_ENVIRONMENT},
    )  # fmt: skip
    os.close(ready_end)
    os.close(control_end)
    return Worker(process, ready, control, time.monotonic())
