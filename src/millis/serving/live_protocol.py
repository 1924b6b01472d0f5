"""WebSockets themselves, below /v1/live: frames to texts.

Border: uvicorn's protocol, which writes errors into the log where a text is not UTF-8, with the client's bytes, and
where a connection was refused; here the one is closed with 1007, as RFC 6455 says, and strangers write nothing.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_NOT_UTF8 = 1007


class LiveProtocol(WebSocketsSansIOProtocol):
    """Close on texts that are none."""

    async def send(self, message: Any) -> None:
        """Send; a refusal that is out completes the handshake, which uvicorn does not note."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """Hand a message on."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(_NOT_UTF8, "not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()
