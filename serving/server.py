"""The server process: uvicorn with our settings, which says when and where it listens.

Not for routes (`app`) or options (`__main__`).
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from hindcast.errors import HindcastError
from serving.app import Front, build
from serving.service import Service

SWITCH_EVERY = 0.0005
"""Seconds after which a request may take over from the thread that writes the log; Python's 5 ms
would show in every hundredth answer."""


class ListenError(HindcastError):
    """An address that cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes a free one.

    Raises:
        ListenError: the port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as fault:
        bound.close()
        raise ListenError(
            f"cannot listen on {host}, port {port}: {fault.strerror or fault}; give another "
            "--port (0 takes a free one) or --host"
        ) from None
    return bound


class Server(uvicorn.Server):
    """uvicorn's server; `announce` gets the address once it answers."""

    def __init__(self, service: Service, announce: Callable[[str], None]) -> None:
        """Serve one service."""
        self._announce = announce
        super().__init__(
            uvicorn.Config(
                Front(build(service)),
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=10,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End well. uvicorn's own would raise the signal again once all is shut down."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say where."""
        sys.setswitchinterval(SWITCH_EVERY)
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it again would show in the slowest
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
