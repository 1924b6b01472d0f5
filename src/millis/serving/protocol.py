"""HTTP/1.1 itself: what is no HTTP gets a problem too.

Border: uvicorn's protocol, with its one plain-text answer replaced; what parses is the app's matter.
Limits: uvicorn reads heads of any length and waits for them without end; put a proxy in front of a server that
strangers reach.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millis.errors import InvalidRequest
from millis.serving.problems import MEDIA_TYPE, write_problem


class Protocol(HttpToolsProtocol):
    """Answer what cannot be parsed, and close: nobody knows where the next request would begin."""

    def send_400_response(self, msg: str) -> None:
        """Write a problem in place of msg."""
        status, payload = write_problem(
            InvalidRequest(
                "this is no request in HTTP/1.1 (method, target, headers or lengths do not add up): send one, over"
                " plain http.",
                slug="not-http",
            )
        )
        head = (
            f"HTTP/1.1 {status} Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(payload)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + payload)
        self.transport.close()
