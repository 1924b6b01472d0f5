"""Requests that are no requests, and clients that leave: does the server crash, hang, grow, or forget the next one?

    python benchmarks/fuzz.py people.millis [-n 20000] [--disconnects 10000] [--seed 0]

Starts a server on the bundle and sends it over raw sockets: valid requests of every route, broken by seeded mutations (bytes
flipped, cut out, doubled, put in; lines swapped; lengths that lie; chunks that are none; heads without end), alone or several in
one connection. Then a storm of clients that leave in the middle of the head, of the body, or while their answer is made. After each
hundred a plain request must be answered with 200. Exit code 1 when anything of that fails.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

AT_ONCE = 32
PATIENCE_S = 20.0
ALLOWED = {200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 503, 504}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ")
_NASTY = (
    b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b":", b" ", b"\t", b"\xff", b"\xc3\x28", b"%00", b"%", b"../", b"{", b"[", b'"', b"-1", b"9" * 40,
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Expect: 100-continue\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Upgrade: websocket\r\n", b"Host: \r\n", b"X-Deadline-Ms: nan\r\n", b"grpc-timeout: 1x\r\n", b"Inference-Header-Content-Length: 3\r\n", b"HTTP/1.1", b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"A" * 5000, b"a: b\r\n" * 300, b"\x16\x03\x01\x02\x00", b"\xf0\x9f\x98\x80", b"\\ud800", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"5;" + b"e" * 300 + b"\r\n",
)  # fmt: skip


def list_good(task: str, model: str) -> list[bytes]:
    """Give valid requests of every kind of route."""

    def post(path: str, body: bytes, more: str = "") -> bytes:
        return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body

    ask = json.dumps({"input": "maria garcia wrote from lisbon"}).encode()
    infer = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["maria"]}], "id": "1"}).encode()
    sized = json.dumps({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]}).encode()
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, ask[:10], len(ask) - 10, ask[10:])
    gets = ("/", "/health", "/health/live", "/metrics", "/contract", "/v1/models", "/openapi.json", "/page/playground.js", "/v2", f"/v2/models/{model}", "/v2/health/ready")
    return [
        post(f"/v1/{task}", ask), post(f"/v1/{task}", ask, "X-Deadline-Ms: 500\r\n"), post(f"/v1/{task}", ask, "Connection: close\r\n"),
        post(f"/v1/{task}", ask, "Expect: 100-continue\r\n"),
        f"POST /v1/{task} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks,
        post(f"/v2/models/{model}/infer", infer),
        post(f"/v2/models/{model}/infer", sized + struct.pack("<I", 5) + b"maria", f"Inference-Header-Content-Length: {len(sized)}\r\n"),
        *(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in gets for method in ("GET", "HEAD")),
    ]  # fmt: skip


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.randrange(256)


def _cut(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 2, 8, 64, 1000))]


def _double(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = bytes(data[start : start + chance.choice((1, 4, 32, 200))])
    data[start:start] = piece * chance.choice((1, 2, 50))


def _insert(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = chance.choice(_NASTY)


def _insert_header(data: bytearray, chance: random.Random) -> None:
    start = data.find(b"\r\n") + 2
    data[start:start] = chance.choice(_NASTY)


def _swap_lines(data: bytearray, chance: random.Random) -> None:
    lines = bytes(data).split(b"\r\n")
    chance.shuffle(lines)
    data[:] = b"\r\n".join(lines)


def _lie(data: bytearray, chance: random.Random) -> None:
    lied = b"Content-Length: " + chance.choice((b"0", b"1", b"-1", b"+5", b"0x10", b"1e3", b"5, 5", b"999999", b"", b"18446744073709551616"))
    data[:] = re.sub(rb"Content-Length: \d+", lambda _: lied, bytes(data), count=1)


def _truncate(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data) + 1) :]


_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _cut, _double, _insert, _insert_header, _swap_lines, _lie, _truncate,
)  # fmt: skip


def break_request(good: list[bytes], chance: random.Random) -> bytes:
    """Give one to three requests in one piece, broken by one to four mutations."""
    data = bytearray(b"".join(chance.choice(good) for _ in range(chance.choice((1, 1, 1, 2, 3)))))
    for _ in range(chance.choice((1, 1, 2, 3, 4))):
        if data:
            chance.choice(_MUTATIONS)(data, chance)
    return bytes(data)


async def send_broken(port: int, payload: bytes, *, leaves: bool, seen: Counter[str]) -> None:
    """Send bytes and read what comes until the server closes; a server that neither answers nor closes hangs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(payload)
        await writer.drain()
        if leaves:
            return
        writer.write_eof()
        said = await asyncio.wait_for(reader.read(-1), PATIENCE_S)
        final = said.removeprefix(_CONTINUE)
        found = _STATUS.match(final)
        if not final:
            seen["closed"] += 1
        elif found is None or int(found[1]) not in ALLOWED:
            seen[f"UNDOCUMENTED {said[:40]!r} after {payload[:200]!r}"] += 1
        else:
            seen[found[1].decode()] += 1
    except TimeoutError:
        seen[f"HANGS after {payload[:200]!r}"] += 1
    except OSError:
        seen["reset"] += 1
    finally:
        writer.close()


async def leave(port: int, payload: bytes, *, chance: random.Random, seen: Counter[str]) -> None:
    """Send a part of a request, or all of it, and go; every second time with a reset."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        seen["not let in"] += 1
        return
    writer.write(payload[: chance.choice((len(payload), len(payload), chance.randrange(1, len(payload))))])
    await asyncio.sleep(chance.choice((0.0, 0.0, 0.001, 0.004)))
    if chance.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    seen["left"] += 1


async def ask_plainly(port: int, good: bytes) -> float:
    """Give the ms that a valid request takes; it must be answered with 200."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for n_left in range(100, -1, -1):  # under a storm it may be refused, and then comes again
        writer.write(good)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if head.startswith(b"HTTP/1.1 200"):
            break
        if not head.startswith((b"HTTP/1.1 503", b"HTTP/1.1 504")) or not n_left:
            raise AssertionError(f"a plain request got {head[:40]!r}")
        await asyncio.sleep(0.02)
    writer.close()
    return 1000 * (time.perf_counter() - began)


async def fuzz(port: int, good: list[bytes], *, n: int, seed: int) -> Counter[str]:
    """Send n broken requests; every hundred a plain one."""
    chance, seen = random.Random(seed), Counter[str]()
    for start in range(0, n, 100):
        room = asyncio.Semaphore(AT_ONCE)

        async def one(payload: bytes, leaves: bool, room: asyncio.Semaphore = room) -> None:
            async with room:
                await send_broken(port, payload, leaves=leaves, seen=seen)

        batch = [(break_request(good, chance), chance.random() < 0.2) for _ in range(min(100, n - start))]
        await asyncio.gather(*(one(*each) for each in batch))
        await ask_plainly(port, good[0])
    return seen


async def storm(port: int, good: list[bytes], *, n: int, seed: int) -> Counter[str]:
    """Have n clients leave; every five hundred a plain request."""
    chance, seen = random.Random(seed), Counter[str]()
    for start in range(0, n, 500):
        await asyncio.gather(*(leave(port, chance.choice(good[:7]), chance=chance, seen=seen) for _ in range(min(500, n - start))))
        await ask_plainly(port, good[0])
    return seen


def read_memory(pid: int) -> int:
    """Give the resident bytes of a process, 0 where the system does not say."""
    file = Path(f"/proc/{pid}/statm")
    return int(file.read_text().split()[1]) * 4096 if file.exists() else 0


def list_wrong(seen: Counter[str]) -> list[str]:
    """Give what should not have been seen."""
    return [f"{times} times {what}" for what, times in seen.items() if what.startswith(("UNDOCUMENTED", "HANGS", "not let in"))]


def main() -> int:
    """Run both, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--disconnects", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    wrong: list[str] = []
    with Supervisor(ServeSettings(bundles=(asked.bundle,), port=0, workers=1)) as server:
        manifest, pids = server.bundles[0].manifest, server.pids
        port, good = int(server.url.rsplit(":", 1)[1]), list_good(manifest.task, manifest.name)
        asyncio.run(fuzz(port, good, n=min(asked.n, 500), seed=asked.seed + 1))  # what is loaded late is loaded
        for name, run, n in (("broken", fuzz, asked.n), ("left", storm, asked.disconnects)):
            before, began = read_memory(pids[0]), time.monotonic()
            seen = asyncio.run(run(port, good, n=n, seed=asked.seed))
            after = read_memory(pids[0])
            wrong += list_wrong(seen)
            print(f"{name}: {n} in {time.monotonic() - began:.0f} s, memory {before / 1e6:.1f} -> {after / 1e6:.1f} MB; {dict(seen.most_common(20))}")
        took = sorted(asyncio.run(ask_plainly(port, good[0])) for _ in range(200))
        print(f"afterwards a plain request on a new connection takes {took[100]:.2f} ms at the median, {took[197]:.2f} at p99")
        alive = [Path(f"/proc/{pid}").exists() for pid in pids]
        if server.n_restarts or not all(alive):
            wrong.append("a worker ended")
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
