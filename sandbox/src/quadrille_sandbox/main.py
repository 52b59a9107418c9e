"""Wiring: journals, the processor, the mailbox, two listeners, and a stop that waits for nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

import uvloop

from quadrille_sandbox.api import Routes
from quadrille_sandbox.chaos import Chaos
from quadrille_sandbox.http_server import Connection, places
from quadrille_sandbox.journal import Journal, JournalLockedError
from quadrille_sandbox.ledger import Ledger, rfc3339
from quadrille_sandbox.mailbox import Mailbox, Postman, smtp
from quadrille_sandbox.processor import Processor
from quadrille_sandbox.settings import Address, Settings, SettingsError, read

STOPPED, WRONG_SETTING, CANNOT_RUN = 0, 2, 9


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit code (settings.md, "Exit codes"): 0, 2 or 9."""
    try:
        settings = read(os.environ)
    except SettingsError as refused:
        return _refuse(str(refused), WRONG_SETTING)
    try:
        uvloop.run(_serve(settings))
    except JournalLockedError as taken:
        return _refuse(f"found {taken} in use; one sandbox per data directory; stop the other one", CANNOT_RUN)
    except OSError as failed:
        return _refuse(f"found {failed}; wanted to listen and to write; free the port or the directory", CANNOT_RUN)
    return STOPPED


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, stop.set)
    ledger = Ledger(Journal(settings.data / "ledger.jsonl"), time.time)
    mailbox = Mailbox(Journal(settings.data / "mail.jsonl"), time.time)
    chaos = Chaos(time.time)
    routes = Routes(Processor(ledger, settings.rules, loop.call_later), mailbox, chaos)
    connections: set[Connection] = set()
    http = await _listen(settings.http, partial(Connection, routes.handle, connections, places()))
    mail = await _listen(settings.smtp, partial(smtp, Postman(mailbox, chaos)))
    gc.collect()
    gc.freeze()  # what start has made is not looked at again
    gc.set_threshold(20_000)
    _log("info", "listening", http=_shown(http), smtp=_shown(mail), mails=len(mailbox))
    await stop.wait()
    http.close()
    mail.close()
    for connection in tuple(connections):
        connection.abort()
    _log("info", "stopped")


async def _listen(address: Address, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    host, port = address
    return await asyncio.get_running_loop().create_server(protocol, host, port)


def _shown(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"{host}:{port}"


def _refuse(why: str, code: int) -> int:
    _log("error", "start refused", reason=why)
    return code


def _log(level: str, event: str, **facts: object) -> None:
    line = {"ts": rfc3339(time.time()), "level": level, "event": event, "service": "sandbox", **facts}
    sys.stderr.write(json.dumps(line) + "\n")
