"""What every benchmark shares: who measured what where, kept as one JSON line, and servers in processes of their own.

Border: helpers for the scripts beside this file; nothing of `millis` imports it.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from millis.errors import RunFailed
from millis.measuring.fingerprint import fingerprint

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def git_commit() -> str:
    """Give the commit that is checked out, "+" behind it when files differ from it, "none" before the first."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if commit.returncode != 0:
        return "none"
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def keep(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Append a result to benchmarks/results/NAME.jsonl, with time, commit, command and machine; give the whole line."""
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_without_folder, sys.argv[1:])]),
        "machine": msgspec.to_builtins(fingerprint()),
        **result,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return record


def _without_folder(argument: str) -> str:
    """Leave the folders of this machine out of a command that is kept."""
    return Path(argument).name if argument.startswith("/") else argument


def free_port() -> int:
    """Give a port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def pack_speaker(model: Path, scratch: Path, *, rung: str, threads: int) -> Path:
    """Pack a base that speaks into a folder and give its bundle; a bundle is given back as it is."""
    if model.suffix == ".millis":
        return model
    from millis.compressing.packing import pack
    from millis.contract import Contract

    out = scratch / f"{rung}.millis"
    pack(str(model), out, contract=Contract(p99="1 s", rate=1), rungs=(rung,), context=1024, threads=threads)
    return out


@contextmanager
def serve(
    command: Sequence[str], *, port: int, within_s: float = 60.0, env: dict[str, str] | None = None
) -> Iterator[int]:
    """Start a server and wait until its port answers; stop it at the end.

    Args:
        command: the program; it must listen on port of loopback.
        within_s: how long it may take until it listens.
        env: variables to set besides this process's.

    Yields:
        Its process id.

    Raises:
        RunFailed: it ended, or did not listen in time.
    """
    process = subprocess.Popen(command, env=os.environ | (env or {}))
    try:
        _wait(process, port=port, within_s=within_s)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", *, port: int, within_s: float) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RunFailed(f"the server ended with code {process.returncode} before it listened on port {port}.")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RunFailed(f"the server did not listen on port {port} within {within_s:g} s: see its messages above.")
