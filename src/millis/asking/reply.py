"""An answer over HTTP/1.1, read as its bytes come.

Border: bytes in, status, headers and body out; what they mean is wire.py's.
Limits: an answer of 64 MB at most.
"""

import httptools

_MOST_BYTES = 64_000_000


class Reply:
    """An answer, fed with bytes until it is whole.

    Attributes:
        has_begun: something of it came.
        is_reusable: the connection may carry the next request.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.has_begun = self.is_whole = self.is_reusable = False
        self._has_length = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bool:
        """Read on; no bytes mean that the server closed. True once it is whole.

        Raises:
            ValueError: it is not HTTP/1.1, or far too long.
        """
        if not data:
            if self.status and not self._has_length:
                self.is_whole = True
            return self.is_whole
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ValueError("its answer is not HTTP/1.1") from error
        return self.is_whole

    def on_message_begin(self) -> None:
        """Begin an answer (called by the parser)."""
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (called by the parser)."""
        lowered = name.decode("latin-1").lower()
        self.headers[lowered] = value.decode("latin-1")
        self._has_length = self._has_length or lowered in ("content-length", "transfer-encoding")

    def on_headers_complete(self) -> None:
        """Learn the status (called by the parser)."""
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        """Take a part of the body (called by the parser)."""
        self.body += part
        if len(self.body) > _MOST_BYTES:
            raise ValueError("its answer does not end")

    def on_message_complete(self) -> None:
        """End an answer (called by the parser); 100 Continue and its like are not the answer."""
        if self.status >= 200:
            self.is_reusable = self._parser.should_keep_alive()
            self.is_whole = True
