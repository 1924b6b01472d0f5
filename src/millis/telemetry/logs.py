"""Lines about what happens, for people or, as JSON, for machines; never a text of a client's.

Border: values in, lines on standard error out. A line waits in memory and a thread writes it, so that a pipe that
nobody reads holds up no request; what does not fit into memory is counted, and the count is written.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

LogFormat = Literal["text", "json"]

_MOST_PENDING = 10_000
_WRITE_S = 0.1
_STDERR = 2


class Log:
    """Writes lines of one process.

    Args:
        form: "text" writes events alone, as sentences; "json" requests too, as one object each.
    """

    def __init__(self, form: LogFormat) -> None:
        self.is_json = form == "json"
        self._pending: deque[bytes] = deque()
        self._n_lost = 0
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True) if self.is_json else None
        if self._thread is not None:
            self._thread.start()

    def tell(self, sentence: str, **more: Any) -> None:
        """Write that something happened to the server."""
        if not self.is_json:
            sys.stderr.write(f"millis: {sentence}\n")
            sys.stderr.flush()
            return
        self._put({"level": "info", "event": sentence, **more})

    def note_request(self, **values: Any) -> None:
        """Write how a request ended, where requests are written."""
        if self.is_json:
            self._put({"level": "info", "event": "request", **values})

    def take_over_logging(self) -> None:
        """Let what libraries log come as lines of this log: of an error its class and its places, not its words."""
        handler = _Handler(self)
        for name in ("millis", "uvicorn", "uvicorn.error", "asyncio", "grpc", "opentelemetry"):
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [handler], False

    def note_record(self, level: str, event: str, *, error: str = "", places: Sequence[str] = ()) -> None:
        """Write what a library logged."""
        if self.is_json:
            self._put({"level": level, "event": event} | ({"error": error, "places": places} if error else {}))
        else:
            self.tell(f"{level}: {event}" + (f" ({error} at {' < '.join(reversed(places))})" if error else ""))

    def close(self) -> None:
        """Write what waits."""
        if self._thread is not None:
            self._is_closing.set()
            self._thread.join()

    def _put(self, values: dict[str, Any]) -> None:
        if len(self._pending) >= _MOST_PENDING:
            self._n_lost += 1
            return
        self._pending.append(_write_line(values))

    def _work(self) -> None:
        while not self._is_closing.wait(_WRITE_S):
            self._write()
        self._write()

    def _write(self) -> None:
        lost, self._n_lost = self._n_lost, 0
        if lost:
            self._pending.append(_write_line({"level": "warning", "event": "lines lost", "n": lost}))
        while self._pending:
            line = self._pending.popleft()
            try:
                while line:  # each by itself: a pipe keeps what is short whole among the lines of other processes
                    line = line[os.write(_STDERR, line) :]
            except OSError:  # a full disk, a pipe that nobody has open any more: the next turn tries again
                self._n_lost += 1
                return


def _write_line(values: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"at": round(time.time(), 3), "pid": os.getpid(), **values}) + b"\n"


class _Handler(logging.Handler):
    """Brings what the logging module collects into a Log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record: its message as the program wrote it, without the values put into it.

        Of several lines the first: asyncio writes into the others what an error said. That an answer was cut off when
        the server stopped is no error; the server says once how many were.
        """
        name, places = "", []
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            if isinstance(error, asyncio.CancelledError):
                return
            name = type(error).__name__
            places = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)
            ][-20:]
        event = str(record.msg).partition("\n")[0][:200]
        self._log.note_record(record.levelname.lower(), event, error=name, places=places)
