"""AsyncClient: the same questions on an event loop of asyncio; connections are kept.

Border: streams; what to say and when is conversation.py's matter.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from millis.asking.conversation import Conversation, Lost, Questions, Send, check_deadline
from millis.asking.reply import Reply
from millis.asking.wire import Answer, Asked, write_list

if TYPE_CHECKING:
    from millis.asking.live import Live

T = TypeVar("T")

_RECEIVE_BYTES = 1 << 16
_MOST_IDLE = 100


class _Peer(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class AsyncClient:
    """Asks one server; every question is a coroutine, and cancelling it closes its connection.

    Usage:
        async with millis.AsyncClient("http://127.0.0.1:8000") as client:
            (await client.ner("Maria flew to Osaka", deadline_ms=20)).results

    Args, Raises: as `Client`.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_ms: float = 30_000.0, retries: int = 2,
        context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._questions = Questions(url, key=key, timeout_ms=timeout_ms, retries=retries)
        self._address = self._questions.address
        self._context = context
        self._idle: list[_Peer] = []

    async def ask(
        self, task: str, text: Asked | Sequence[Asked], *, model: str | None = None, rung: str | None = None,
        fallback: bool = True, deadline_ms: float | None = None, **options: Any,
    ) -> Answer:  # fmt: skip
        """See `Client.ask`."""
        return await self._drive(self._questions.ask(
            task, text, model=model, rung=rung, fallback=fallback, deadline_ms=deadline_ms, **options
        ))  # fmt: skip

    async def search(self, query: str, *, index: str | None = None, **named: Any) -> Answer:
        """Ask an index for passages: `results` has them, the best first; see `ask`.

        Args:
            index: its name; may be left out when one is served.
            named: top_k, filter, rerank, candidates, rung, rerank_rung, fallback, deadline_ms.
        """
        return await self._drive(self._questions.search(query, index=index, **named))

    async def ner(self, text: str | Sequence[str], **named: Any) -> Answer:
        """Ask for named entities; see `ask`."""
        return await self.ask("ner", text, **named)

    async def classify(self, text: str | Sequence[str], **named: Any) -> Answer:
        """Ask for labels; see `ask`."""
        return await self.ask("classify", text, **named)

    async def qa(self, question: str, context: str, **named: Any) -> Answer:
        """Ask what answers a question in a text; see `ask`."""
        return await self.ask("qa", {"question": question, "context": context}, **named)

    async def rerank(self, query: str, documents: Sequence[str], **named: Any) -> Answer:
        """Ask which documents fit a query, the best first; see `ask`."""
        return await self.ask("rerank", {"query": query, "documents": write_list(documents)}, **named)

    async def translate(self, text: str | Sequence[str], **named: Any) -> Answer:
        """See Client.translate."""
        return await self.ask("translate", text, **named)

    async def summarise(self, text: str | Sequence[str], **named: Any) -> Answer:
        """See Client.summarise."""
        return await self.ask("summarise", text, **named)

    def live(
        self, task: str, *, model: str | None = None, deadline_ms: float | None = None, **options: Any
    ) -> "Live":
        """Open a connection for texts that still change: /v1/live; the newest takes the place of the one before.

        Usage:
            async with client.live("translate") as live:
                await live.send("Good mor")
                answer = await live.send("Good morning")
                async for delta in answer:
                    print(delta, end="")

        Args:
            deadline_ms: of each text, told to the server, which ends the answer then.
            options: what a message may say beside it, like max_tokens.
        Raises:
            InvalidValue: a deadline that cannot be.
        """
        from millis.asking.live import Live  # websockets, which no other question needs

        check_deadline(deadline_ms)
        said = {"task": task, "model": model, "deadline_ms": deadline_ms, **options}
        return Live(
            self._address, url=self._questions.url, key=self._questions.key, timeout_ms=self._questions.timeout_ms,
            context=self._context, usual={name: value for name, value in said.items() if value is not None},
        )  # fmt: skip

    async def versions(self) -> list[dict[str, Any]]:
        """See Client.versions."""
        return await self._drive(self._questions.versions())

    async def load_model(self, path: str, **chosen: Any) -> list[dict[str, Any]]:
        """See Client.load_model."""
        return await self._drive(self._questions.load_model(path, **chosen))

    async def unload_model(self, name: str) -> list[dict[str, Any]]:
        """See Client.unload_model."""
        return await self._drive(self._questions.change_model(name, "unload"))

    async def promote_model(self, name: str) -> list[dict[str, Any]]:
        """See Client.promote_model."""
        return await self._drive(self._questions.change_model(name, "promote"))

    async def roll_back_model(self, name: str) -> list[dict[str, Any]]:
        """See Client.roll_back_model."""
        return await self._drive(self._questions.change_model(name, "rollback"))

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        return await self._drive(self._questions.models())

    async def contract(self) -> list[dict[str, Any]]:
        """See `Client.contract`."""
        return await self._drive(self._questions.contract())

    async def health(self) -> dict[str, Any]:
        """See `Client.health`."""
        return await self._drive(self._questions.health())

    async def close(self) -> None:
        """Close the connections that are kept."""
        idle, self._idle = self._idle, []
        for one in idle:
            one.writer.close()
            with contextlib.suppress(OSError):
                await one.writer.wait_closed()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._questions.url!r})"

    async def _drive(self, conversation: Conversation[T]) -> T:
        came: Reply | Lost | None = None
        while True:
            try:
                step = conversation.send(came)
            except StopIteration as end:
                answer: T = end.value
                return answer
            if isinstance(step, Send):
                came = await self._send(step)
            else:
                await asyncio.sleep(step.s)
                came = None

    async def _send(self, step: Send) -> Reply | Lost:
        kept = self._idle.pop() if self._idle and not step.is_fresh else None
        try:
            async with asyncio.timeout(step.within_s):
                try:
                    peer = kept or await self._connect()
                except TimeoutError:  # the network's own; the limit's arrives as a cancellation
                    return Lost.LATE
                except ssl.SSLError:
                    return Lost.UNTRUSTED
                except OSError:
                    return Lost.UNREACHABLE
                return await self._exchange(peer, step.payload, is_kept=kept is not None)
        except TimeoutError:
            return Lost.LATE

    async def _exchange(self, peer: _Peer, payload: bytes, *, is_kept: bool) -> Reply | Lost:
        reply = Reply()
        is_over = False
        try:
            peer.writer.write(payload)
            await peer.writer.drain()
            while not reply.is_whole:
                data = await peer.reader.read(_RECEIVE_BYTES)
                if not reply.feed(data) and not data:
                    raise ConnectionResetError
            is_over = reply.is_reusable and len(self._idle) < _MOST_IDLE
        except ValueError:
            return Lost.GARBLED
        except OSError:
            return Lost.STALE if is_kept and not reply.has_begun else Lost.BROKEN
        finally:
            if is_over:
                self._idle.append(peer)
            else:
                peer.writer.close()
        return reply

    async def _connect(self) -> _Peer:
        context = (self._context or ssl.create_default_context()) if self._address.is_encrypted else None
        return _Peer(*await asyncio.open_connection(self._address.host, self._address.port, ssl=context))
