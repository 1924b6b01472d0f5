"""Live: one WebSocket to /v1/live, for texts that still change; what is written for each comes in as it grows.

Border: frames and their JSON; what a message means is the server's. Imported when somebody goes live, for websockets.
Limits: no proxies, no redirects, and nothing is asked again: a text that is typed has a newer one soon.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from millis.asking.wire import Address, read_error, write_json
from millis.errors import MillisError, RunFailed, TimedOut

_PATH = "/v1/live"
_CLOSING_S = 2.0


class _Connect(connect):
    """Takes a redirect for a refusal: followed, it would take the key elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow none."""
        return exc


class LiveAnswer:
    """What comes for one text: iterate over its deltas, until it is whole or another text took its place.

    Attributes:
        end: what its last message says (`finish_reason`, `model`, `rung`, `usage`, times); None until it came.

    Raises (when iterated):
        InvalidRequest: the server refused the text.
        TimedOut: nothing came for it within the client's timeout_ms.
        RunFailed: the connection ended.
    """

    def __init__(self, *, url: str, timeout_ms: float) -> None:
        self._url, self._timeout_ms = url, timeout_ms
        self._parts: asyncio.Queue[str | MillisError | None] = asyncio.Queue()
        self._is_over = False
        self.end: dict[str, Any] | None = None

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if self._is_over:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                part = await self._parts.get()
        except TimeoutError as error:
            raise TimedOut(f"{self._url} wrote nothing for {self._timeout_ms:.0f} ms: allow more.") from error
        if isinstance(part, str):
            return part
        self._is_over = True
        if part is None:
            raise StopAsyncIteration
        raise part

    async def text(self) -> str:
        """Wait for the end, and give what was written in the whole."""
        return "".join([part async for part in self])

    def take(self, said: Mapping[str, Any]) -> bool:
        """Take a message of the server, and say whether it was the last one.

        Raises:
            ValueError, KeyError, TypeError: it has another shape.
        """
        if "error" in said:
            problem, status = said["error"], int(said["error"]["status"])
            self.fail(read_error(msgspec.json.encode(problem), status=status, url=self._url))
        elif said.get("done"):
            self.end = {name: value for name, value in said.items() if name not in ("id", "done")}
            self._parts.put_nowait(None)
        else:
            self._parts.put_nowait(msgspec.convert(said["delta"], type=str))
            return False
        return True

    def fail(self, error: MillisError) -> None:
        """End with an error."""
        self._parts.put_nowait(error)


class Live:
    """A connection; made by `AsyncClient.live`, which says what its arguments mean.

    Raises (on entry):
        InvalidRequest: the server refused; see its `status` and `slug`.
        TimedOut: no answer in time.
        RunFailed: nobody answers there, or not as a millis server does.
    """

    def __init__(
        self, address: Address, *, url: str, key: str | None, timeout_ms: float, context: ssl.SSLContext | None,
        usual: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._address, self._url, self._key = address, url, key
        self._timeout_ms, self._context, self._usual = timeout_ms, context, usual
        self._answers: dict[int, LiveAnswer] = {}
        self._n_sent = 0
        self._failed: MillisError | None = None

    async def send(self, text: str, **chosen: Any) -> LiveAnswer:
        """Send a text as it stands, in place of the one before, whose answer ends; "" only ends that.

        Args:
            chosen: in place of what the connection was made with, for this text.
        Raises:
            InvalidValue: the text or what was chosen cannot be JSON; nothing was sent.
            RunFailed: the connection ended.
        """
        self._n_sent += 1
        number = self._n_sent
        message = write_json({**self._usual, **chosen, "input": text, "id": number})
        answer = LiveAnswer(url=self._url, timeout_ms=self._timeout_ms)
        if self._failed is None:
            self._answers[number] = answer
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(message.decode())
                return answer
            await self._reading  # it finds out why
        assert self._failed is not None
        raise self._failed

    async def __aenter__(self) -> "Live":
        self._socket = await self._connect()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()
        await self._reading

    async def _connect(self) -> ClientConnection:
        is_encrypted, prefix = self._address.is_encrypted, self._address.prefix
        try:
            return await _Connect(
                f"{'wss' if is_encrypted else 'ws'}://{self._address.authority}{prefix}{_PATH}",
                additional_headers={} if self._key is None else {"X-API-Key": self._key},
                open_timeout=self._timeout_ms / 1000, close_timeout=_CLOSING_S, compression=None, proxy=None,
                ssl=(self._context or ssl.create_default_context()) if is_encrypted else None,
            )  # fmt: skip
        except InvalidStatus as error:
            response = error.response
            raise read_error(bytes(response.body or b""), status=response.status_code, url=self._url) from None
        except TimeoutError as error:
            raise TimedOut(f"{self._url} gave no answer within {self._timeout_ms:.0f} ms: allow more.") from error
        except ssl.SSLError as error:
            raise self._strange("TLS failed: its certificate is not trusted, or it speaks plain http") from error
        except OSError as error:
            raise self._strange("nobody listens there") from error
        except WebSocketException as error:
            raise self._strange("it opens no WebSocket") from error

    async def _read(self) -> None:
        """Bring what comes to the answers that it is for, until the connection ends; then end them all."""
        try:
            while True:
                said = msgspec.json.decode(await self._socket.recv(), type=dict[str, Any])
                number = said["id"]
                is_over = 0 < number <= self._n_sent and number not in self._answers  # replaced just as it ended
                if not is_over and self._answers[number].take(said):
                    del self._answers[number]
        except ConnectionClosed as error:
            said_why = f" ({error.rcvd.code}: {error.rcvd.reason[:100]})" if error.rcvd is not None else ""
            self._failed = RunFailed(f"the connection to {self._url} has ended{said_why}: open another one.")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._failed = self._strange("a message of it has another shape")
            self._failed.__cause__ = error
        for answer in self._answers.values():
            answer.fail(self._failed)
        self._answers.clear()

    def _strange(self, reason: str) -> RunFailed:
        return RunFailed(f"{self._url} does not answer like a millis server ({reason}): is one running there?")
