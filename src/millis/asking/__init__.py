"""Ask a server: the clients, in one thread or on an event loop.

    conversation   when to send, to wait, to ask again and to give up: no sockets
    wire           requests as bytes, answers as values, problems as errors
    reply          an answer, read as its bytes come
    client         Client: sockets that block
    async_client   AsyncClient: sockets of asyncio
    live           Live: a WebSocket for texts that still change

Border: knows HTTP and the shapes of answers; no model, no server, nothing heavy.
"""

from millis.asking.async_client import AsyncClient
from millis.asking.client import Client
from millis.asking.wire import Answer

__all__ = ["Answer", "AsyncClient", "Client"]
