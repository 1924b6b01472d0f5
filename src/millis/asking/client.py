"""Client: questions to a server, each on the thread that asks; connections are kept and shared among threads.

Border: sockets that block; what to say and when is conversation.py's matter.
"""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

from millis.asking.conversation import Conversation, Lost, Questions, Send
from millis.asking.reply import Reply
from millis.asking.wire import Answer, Asked, write_list

T = TypeVar("T")

_RECEIVE_BYTES = 1 << 16
_MOST_IDLE = 16


class Client:
    """Asks one server.

    Usage:
        with millis.Client("http://127.0.0.1:8000") as client:
            client.ner("Maria flew to Osaka", deadline_ms=20).results

    Args:
        url: http:// or https://, with a port.
        key: an API key; MILLIS_KEY of the environment when missing.
        timeout_ms: of a question that names no deadline, asking again included.
        retries: how often to ask again what was refused with Retry-After, or found nobody, while time is left.
        context: for https; the system's authorities when missing.
    Raises:
        InvalidValue: an address, a key or numbers that cannot be.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_ms: float = 30_000.0, retries: int = 2,
        context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._questions = Questions(url, key=key, timeout_ms=timeout_ms, retries=retries)
        self._address = self._questions.address
        self._context = context
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def ask(
        self, task: str, text: Asked | Sequence[Asked], *, model: str | None = None, rung: str | None = None,
        fallback: bool = True, deadline_ms: float | None = None, **options: Any,
    ) -> Answer:  # fmt: skip
        """Ask a task about one text or several.

        Args:
            model: name of a bundle; None is the first that serves the task.
            rung: the one that is to answer, and no other.
            fallback: may a faster, less accurate rung answer when time is short?
            deadline_ms: within which the answer is of use; the server is told, and nobody waits longer.
            options: what the task lets a request choose.
        Raises:
            InvalidRequest: the server refused; see its `status`, `slug` and `extra`.
            TimedOut: no answer in time.
            RunFailed: nobody answers there, or not as a millis server does.
            InvalidValue: a deadline, a text or an option that cannot be.
        """
        return self._drive(self._questions.ask(
            task, text, model=model, rung=rung, fallback=fallback, deadline_ms=deadline_ms, **options
        ))  # fmt: skip

    def search(self, query: str, *, index: str | None = None, **named: Any) -> Answer:
        """Ask an index for passages: `results` has them, the best first; see `ask`.

        Args:
            index: its name; may be left out when one is served.
            named: top_k, filter, rerank, candidates, rung, rerank_rung, fallback, deadline_ms.
        """
        return self._drive(self._questions.search(query, index=index, **named))

    def ner(self, text: str | Sequence[str], **named: Any) -> Answer:
        """Ask for named entities; see `ask`."""
        return self.ask("ner", text, **named)

    def classify(self, text: str | Sequence[str], **named: Any) -> Answer:
        """Ask for labels; see `ask`."""
        return self.ask("classify", text, **named)

    def qa(self, question: str, context: str, **named: Any) -> Answer:
        """Ask what answers a question in a text; see `ask`."""
        return self.ask("qa", {"question": question, "context": context}, **named)

    def rerank(self, query: str, documents: Sequence[str], **named: Any) -> Answer:
        """Ask which documents fit a query, the best first; see `ask`."""
        return self.ask("rerank", {"query": query, "documents": write_list(documents)}, **named)

    def translate(self, text: str | Sequence[str], **named: Any) -> Answer:
        """Ask for translations, whole; max_tokens bounds each; see `ask`."""
        return self.ask("translate", text, **named)

    def summarise(self, text: str | Sequence[str], **named: Any) -> Answer:
        """Ask for summaries, whole; max_tokens bounds each; see `ask`."""
        return self.ask("summarise", text, **named)

    def versions(self) -> list[dict[str, Any]]:
        """List the models with their versions, what is on trial, and what became of them; needs the scope admin."""
        return self._drive(self._questions.versions())

    def load_model(
        self, path: str, *, name: str | None = None, canary_percent: float | None = None,
        shadow_percent: float | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Load a bundle beside live traffic, or a new version of a model; give what `versions` does.

        Args:
            path: below a folder that the server's --models-from names.
            name: what requests call it; its own name when missing.
            canary_percent, shadow_percent: of the requests that a new version answers, or is compared on.
        """
        return self._drive(self._questions.load_model(
            path, name=name, canary_percent=canary_percent, shadow_percent=shadow_percent
        ))  # fmt: skip

    def unload_model(self, name: str) -> list[dict[str, Any]]:
        """Take a model out with all its versions; give what `versions` does."""
        return self._drive(self._questions.change_model(name, "unload"))

    def promote_model(self, name: str) -> list[dict[str, Any]]:
        """Let the version on trial take over; give what `versions` does."""
        return self._drive(self._questions.change_model(name, "promote"))

    def roll_back_model(self, name: str) -> list[dict[str, Any]]:
        """Go back to the version before; give what `versions` does."""
        return self._drive(self._questions.change_model(name, "rollback"))

    def models(self) -> list[dict[str, Any]]:
        """List the models that are served, with their tasks, rungs and contracts."""
        return self._drive(self._questions.models())

    def contract(self) -> list[dict[str, Any]]:
        """List what each model promises, and the certificate where there is one."""
        return self._drive(self._questions.contract())

    def health(self) -> dict[str, Any]:
        """Have each model answer its own example now; give the ms of each."""
        return self._drive(self._questions.health())

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._questions.url!r})"

    def _drive(self, conversation: Conversation[T]) -> T:
        came: Reply | Lost | None = None
        while True:
            try:
                step = conversation.send(came)
            except StopIteration as end:
                answer: T = end.value
                return answer
            if isinstance(step, Send):
                came = self._send(step)
            else:
                time.sleep(step.s)
                came = None

    def _send(self, step: Send) -> Reply | Lost:
        ends = time.monotonic() + step.within_s
        kept = None
        if not step.is_fresh:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
        try:
            peer = kept or self._connect(step.within_s)
        except TimeoutError:
            return Lost.LATE
        except ssl.SSLError:
            return Lost.UNTRUSTED
        except OSError:
            return Lost.UNREACHABLE
        reply = Reply()
        try:
            peer.settimeout(max(ends - time.monotonic(), 0.001))
            peer.sendall(step.payload)
            while not reply.is_whole:
                peer.settimeout(max(ends - time.monotonic(), 0.001))
                data = peer.recv(_RECEIVE_BYTES)
                if not reply.feed(data) and not data:
                    raise ConnectionResetError
        except TimeoutError:
            peer.close()
            return Lost.LATE
        except ValueError:
            peer.close()
            return Lost.GARBLED
        except OSError:
            peer.close()
            return Lost.STALE if kept and not reply.has_begun else Lost.BROKEN
        except BaseException:
            peer.close()
            raise
        self._keep(peer, reply)
        return reply

    def _connect(self, within_s: float) -> socket.socket:
        peer = socket.create_connection((self._address.host, self._address.port), timeout=within_s)
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._address.is_encrypted:
                return peer
            context = self._context or ssl.create_default_context()
            return context.wrap_socket(peer, server_hostname=self._address.host)
        except BaseException:
            peer.close()
            raise

    def _keep(self, peer: socket.socket, reply: Reply) -> None:
        with self._lock:
            if reply.is_reusable and len(self._idle) < _MOST_IDLE:
                self._idle.append(peer)
                return
        peer.close()
