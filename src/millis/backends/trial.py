"""Grammars are tried in a process that may fail: one that hangs, crashes or costs too much harms no answer.

The process has the engine, the vocabulary and a model that costs nothing. A grammar that it compiled, and a few steps
of an answer held to it, within the time allowed, goes to the real engine; of every other it says what went wrong.
Border: lines of JSON between parent and child; which grammars there are is the caller's to know.
Limits: what a grammar costs is the child's processor time, which another machine's load does not change.
"""

import json
import os
import queue
import resource
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from millis.errors import InvalidRequest, RunFailed

MOST_CPU_MS = 500.0
"""To compile a grammar: the engine compiles it again, and answers that are open wait meanwhile."""

_MOST_TRIED = 500
"""By one process, since the engine forgets no grammar."""
_WALL_S, _START_S, _STEPS, _MOST_BYTES = 3.0, 30.0, 24, 4 << 30


class Trial:
    """Tries grammars, one at a time; the process starts with the first.

    Args:
        folder: that write_spelling wrote.
        n_pieces: logits of the model.
        wall_s: after which a grammar is given up, and the process with it.
    """

    def __init__(self, folder: Path, *, n_pieces: int, wall_s: float = _WALL_S) -> None:
        self._folder, self._n_pieces, self._wall_s = folder, n_pieces, wall_s
        self._process: subprocess.Popen[bytes] | None = None
        self._n_tried = 0
        self._lock = threading.Lock()

    def accept(self, grammar: str) -> None:
        """See Generator."""
        with self._lock:
            process = self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(grammar).encode() + b"\n")
                process.stdin.flush()
                said = _read(process, within_s=self._wall_s)
            except BrokenPipeError:
                said = None
            if said is None:
                self._stop()
                raise _refuse("it was not ready within the time allowed")
            if "failed" in said:
                raise _refuse("the engine cannot read it")
            if said["cpu_ms"] > MOST_CPU_MS:
                raise _refuse(f"to be made ready it takes {said['cpu_ms']:,.0f} ms of {MOST_CPU_MS:,.0f}")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._n_tried += 1
        if self._process is not None and self._process.poll() is None and self._n_tried % _MOST_TRIED:
            return self._process
        self._stop()
        command = [sys.executable, "-m", "millis.backends.trial", str(self._folder), str(self._n_pieces)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if _read(self._process, within_s=_START_S) is None:
            self._stop()
            raise RunFailed("the process that tries answer formats did not start: ask again, or without one.")
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes its pipes, and waits
                self._process = None


def _read(process: "subprocess.Popen[bytes]", *, within_s: float) -> dict[str, Any] | None:
    """Read a line; None when the time is over or the process is."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], within_s)
    line = process.stdout.readline() if ready else b""
    said: dict[str, Any] | None = json.loads(line) if line else None
    return said


def _refuse(wrong: str) -> InvalidRequest:
    return InvalidRequest(
        f"answers cannot be held to this schema: {wrong}. Give fewer members, choices or repetitions.",
        slug="invalid-schema", param="response_format",
    )  # fmt: skip


def _try(generator: Any, grammar: str, *, end_id: int) -> dict[str, Any]:
    from millis.backends.generator import Sampling, Step

    steps: queue.Queue[Step] = queue.Queue()
    began = time.process_time()
    sampling = Sampling(max_tokens=_STEPS, stop_ids=(end_id,), grammar=grammar, temperature=1.0)
    generator.start([0], sampling=sampling, emit=steps.put)
    while (step := steps.get()).ending is None:
        pass
    return {"failed": True} if step.ending == "failed" else {"cpu_ms": 1000 * (time.process_time() - began)}


def main() -> int:
    """Read grammars from stdin until it ends, answer each on stdout."""
    folder, n_pieces = Path(sys.argv[1]), int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the engine prints is no answer
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    from millis.backends.genai import GenAiGenerator
    from millis.backends.generator import GeneratorSettings
    from millis.backends.spelling import write_indifferent

    write_indifferent(folder, n_pieces=n_pieces)
    end_id = json.loads((folder / "config.json").read_text("utf-8"))["eos_token_id"]
    generator = GenAiGenerator()
    generator.load(folder, settings=GeneratorSettings(context=64, streams=1))
    print('{"ready": true}', file=answers)  # the parent waits for it
    for line in sys.stdin:
        print(json.dumps(_try(generator, json.loads(line), end_id=end_id)), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
