"""The HTTP server of an api process: uvicorn on uvloop and httptools, ended by the process's own stop event."""

from __future__ import annotations

import asyncio
import threading

import uvicorn
from uvicorn._types import ASGIApplication

from chassis.settings import Bind

DRAIN_SECONDS = 20


def serve(app: ASGIApplication, bind: Bind, stop: threading.Event) -> None:
    """Serve until told to stop, then drain for at most 20 seconds."""
    config = uvicorn.Config(
        app,
        host=bind.host,
        port=bind.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_until(uvicorn.Server(config), stop))


async def _until(server: uvicorn.Server, stop: threading.Event) -> None:
    """Serve; a thread waits for the stop event, so that an idle server is woken by nothing."""
    task = asyncio.ensure_future(server._serve())  # noqa: SLF001 - serve() would take over the signals, which are ours
    waiter = asyncio.get_running_loop().run_in_executor(None, stop.wait)
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stop.set()
    await task
