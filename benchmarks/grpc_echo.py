"""A bare grpc.aio echo, the floor under every gRPC server in Python: `python grpc_echo.py PORT`."""

import asyncio
import sys
from typing import Any

import uvloop
from grpc import unary_unary_rpc_method_handler as handle
from grpc.aio import server as make_server


async def echo(message: bytes, context: Any) -> bytes:
    """Answer with the message that came."""
    return message


class Everything:
    """Has a handler for every method."""

    def service(self, details: Any) -> Any:
        """Give the one there is."""
        return handle(echo)


async def main() -> None:
    """Listen for ever."""
    server = make_server()
    server.add_generic_rpc_handlers((Everything(),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
