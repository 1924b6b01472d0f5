"""Where a server listens: sockets that are bound before any worker starts.

Border: addresses in, sockets out; who listens on them is supervisor.py's and the workers' matter.
"""

import socket

from millis.errors import InvalidValue, reason_of


def bind(host: str, port: int) -> socket.socket:
    """Bind a port, 0 for one that the system chooses; workers may inherit the socket.

    Raises:
        InvalidValue: it is taken, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InvalidValue(
            f"cannot listen on {host}:{port}: {reason_of(error)}. Choose another --host or --port (0 lets the system"
            " choose)."
        ) from error
    listener.set_inheritable(True)
    return listener


def hold(host: str, port: int) -> socket.socket:
    """Take a port that each worker opens for itself; who is not of ours finds it taken, since it was bound alone."""
    held = bind(host, port)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return held
