"""What the HTTP servers cost: memory and CPU of an idle stack, the ops port's probes, the sandbox's charge.

On its own stack: ``python bench/http_servers.py [--requests 2000] [--idle 30]``. With ``--sandbox`` instead: the
sandbox's charge behind its own server, Starlette on uvicorn, FastAPI, and the chassis's server. Every answer is
checked; CPU is that of the process that answers. Times include this client, which reads plain sockets: compare them, do
not quote them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import uvloop

from quadrille_sandbox import http_server as sandbox
from quadrille_sandbox import settings
from quadrille_sandbox.api import Routes
from quadrille_sandbox.chaos import Chaos
from quadrille_sandbox.journal import Journal
from quadrille_sandbox.ledger import Ledger
from quadrille_sandbox.mailbox import Mailbox
from quadrille_sandbox.processor import Processor

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from quadrille_cli.stack import Stack

CALLERS = 32
FIRST_PORT = 21_100
PROCESSES = ("order-api", "order-worker", "order-relay", "sandbox")


@dataclass(frozen=True, slots=True)
class Asked:
    """Some requests to one process, all answered."""

    seconds: list[float]
    wall: float
    cpu: float

    def shown(self) -> str:
        """Return latency, rate and CPU in a line."""
        middle, late = statistics.median(self.seconds), statistics.quantiles(self.seconds, n=100)[98]
        rate, each = len(self.seconds) / self.wall, self.cpu / len(self.seconds)
        return f"p50 {middle * 1e3:6.2f} ms, p99 {late * 1e3:6.2f} ms, {rate:6.0f}/s, CPU {each * 1e6:5.0f} µs each"


async def caller(port: int, requests: list[bytes], seconds: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))
        seconds.append(time.perf_counter() - began)
    writer.close()


async def ask(process: psutil.Process, port: int, requests: list[bytes], callers: int) -> Asked:
    seconds: list[float] = []
    before, began = process.cpu_times(), time.perf_counter()
    await asyncio.gather(*(caller(port, requests[n::callers], seconds) for n in range(callers)))
    wall, after = time.perf_counter() - began, process.cpu_times()
    return Asked(seconds, wall, after.user + after.system - before.user - before.system)


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def charge(key: str) -> bytes:
    body = json.dumps({"payment_token": "tok_ok", "amount_minor": 1, "currency": "EUR", "order_id": key}).encode()
    head = f"POST /v1/charges HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def idle(stack: Stack, seconds: float) -> None:
    from quadrille_cli.stack.usage import costs  # noqa: PLC0415 - not the comparison's

    time.sleep(seconds)
    found = {cost.name: cost for cost in costs(stack, seconds)}
    for name in PROCESSES:
        cost, process = found[name], psutil.Process(found[name].pid)
        memory = (
            f"USS {process.memory_full_info().uss / 2**20:.1f} MB, PSS {cost.pss_mb:.1f} MB, RSS {cost.rss_mb:.1f} MB"
        )
        print(f"idle {name}: {memory}, {process.num_threads()} threads, CPU {cost.cpu_percent:.1f} %")
    ours = [cost for name, cost in found.items() if "-" in name or name == "sandbox"]
    private = sum(psutil.Process(cost.pid).memory_full_info().uss for cost in ours) / 2**20
    shared, cpu = sum(cost.pss_mb for cost in ours), sum(cost.cpu_percent for cost in ours)
    whole = sum(cost.pss_mb for cost in found.values())
    print(
        f"idle sum: ours USS {private:.1f} MB, PSS {shared:.1f} MB, CPU {cpu:.1f} %; the whole stack PSS {whole:.1f} MB"
    )


def measure(stack: Stack, count: int) -> None:
    for name in PROCESSES[1:3]:
        process, port = psutil.Process(stack.process(name).pid), stack.ports[name]
        for path, callers in (("/livez", 1), ("/livez", 8), ("/metrics", 1), ("/readyz", 1), ("/readyz", 8)):
            requests = [get(path)] * (count if path == "/livez" else count // 4)
            print(f"{name} {path} by {callers}: {asyncio.run(ask(process, port, requests, callers)).shown()}")
    process, port = psutil.Process(stack.process("sandbox").pid), stack.ports["sandbox"]
    for turn in range(3):
        for callers in (1, CALLERS):
            requests = [charge(f"{turn}-{callers}-{n}") for n in range(count * 2)]
            print(f"sandbox charge by {callers}: {asyncio.run(ask(process, port, requests, callers)).shown()}")


async def own(routes: Routes, port: int) -> None:
    connections = set[sandbox.Connection]()
    make = partial(sandbox.Connection, routes.handle, connections, sandbox.places())
    async with await asyncio.get_running_loop().create_server(make, "127.0.0.1", port) as server:
        await server.serve_forever()


def endpoint(routes: Routes) -> Callable[[Request], Awaitable[Response]]:
    """Return the charge as an endpoint of Starlette's."""
    from starlette.requests import Request  # noqa: PLC0415 - its memory is measured
    from starlette.responses import Response  # noqa: PLC0415 - as above

    async def charged(request: Request) -> Response:
        asked = sandbox.Request(request.method, request.url.path, {}, dict(request.headers), await request.body())
        made = routes.handle(asked)
        assert isinstance(made, sandbox.Reply)
        return Response(made.content, made.status, media_type=made.kind)

    charged.__annotations__ = {"request": Request}  # FastAPI reads it
    return charged


async def on_uvicorn(kind: str, routes: Routes, port: int) -> None:
    import uvicorn  # noqa: PLC0415 - its memory is measured
    from starlette.applications import Starlette  # noqa: PLC0415 - as above
    from starlette.routing import Route  # noqa: PLC0415 - as above

    app: Starlette = Starlette(routes=[Route("/v1/charges", endpoint(routes), methods=["POST"])])
    if kind == "fastapi":
        from fastapi import FastAPI  # noqa: PLC0415 - as above

        app = FastAPI()
        app.add_api_route("/v1/charges", endpoint(routes), methods=["POST"], response_model=None)
    if kind == "chassis":
        from quadrille.ops.server import OpsMiddleware  # noqa: PLC0415 - as above
        from quadrille.web.connection_limits import Crowd  # noqa: PLC0415 - as above
        from quadrille.web.connections import Connection, expel  # noqa: PLC0415 - as above
        from quadrille.web.server import Server, listen  # noqa: PLC0415 - as above

        crowd = Crowd[Connection]("sandbox", 1000, expel)
        await Server(
            OpsMiddleware(app, "http://x", None), crowd, lambda: listen("127.0.0.1", port, ""), 1
        ).run_until_ended()
    else:
        config = uvicorn.Config(
            app, port=port, loop="uvloop", http="httptools", ws="none", log_config=None, access_log=False
        )
        await uvicorn.Server(config).serve()


async def charges(kind: str, folder: Path, port: int) -> None:
    """Serve the sandbox's API behind one of the servers."""
    rules, later = settings.read({}).rules, asyncio.get_running_loop().call_later
    processor = Processor(Ledger(Journal(folder / "ledger.jsonl"), time.time), rules, later)
    routes = Routes(processor, Mailbox(Journal(folder / "mail.jsonl"), time.time), Chaos(time.time))
    await (own(routes, port) if kind == "own" else on_uvicorn(kind, routes, port))


def compare(count: int) -> None:
    for number, kind in enumerate(("own", "starlette", "fastapi", "chassis") * 2):
        port = FIRST_PORT + number
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--serve", kind, folder, str(port)]
            with subprocess.Popen(command) as started:
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    time.sleep(0.1)
                process = psutil.Process(started.pid)
                asyncio.run(ask(process, port, [charge(f"first-{n}") for n in range(500)], 8))
                print(f"{kind}: USS {process.memory_full_info().uss / 2**20:.1f} MB")
                for callers in (1, CALLERS):
                    requests = [charge(f"{callers}-{n}") for n in range(count)]
                    print(f"{kind} charge by {callers}: {asyncio.run(ask(process, port, requests, callers)).shown()}")
                started.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--idle", type=float, default=30)
    parser.add_argument("--sandbox", action="store_true")
    parser.add_argument("--serve", nargs=3)
    given = parser.parse_args()
    if given.serve:
        kind, folder, port = given.serve
        uvloop.run(charges(kind, Path(folder), int(port)))
        return
    if given.sandbox:
        compare(given.requests)
        return
    from quadrille_cli.stack import EVERYTHING, Stack  # noqa: PLC0415 - not the comparison's

    with (
        tempfile.TemporaryDirectory() as data,
        Stack(Path(data) / "stack", parts=EVERYTHING, scattered=True) as stack,
    ):
        idle(stack, given.idle)
        measure(stack, given.requests)


if __name__ == "__main__":
    main()
