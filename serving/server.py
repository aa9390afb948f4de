"""The server process: uvicorn with our settings, which says when and where it listens.

Not for routes (`app`) or options (`__main__`).
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from serving.app import build
from serving.service import Service


class Server(uvicorn.Server):
    """uvicorn's server; `announce` gets the address once it listens."""

    def __init__(
        self, service: Service, host: str, port: int, announce: Callable[[str], None]
    ) -> None:
        """Serve one service. Port 0 takes a free one."""
        self._announce = announce
        super().__init__(
            uvicorn.Config(
                build(service),
                host=host,
                port=port,
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
        """Listen, then say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
