"""What the HTTP servers cost: memory and CPU of an idle stack, the ops port's probes, the sandbox's charge.

On its own stack: ``python bench/http_servers.py [--requests 2000] [--idle 30]``. Every answer is checked; CPU is that
of the process that answers. Times include this client, which reads plain sockets: compare them, do not quote them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.stack.usage import costs

CALLERS = 32
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
    time.sleep(seconds)
    found = {cost.name: cost for cost in costs(stack, seconds)}
    for name in PROCESSES:
        cost, process = found[name], psutil.Process(found[name].pid)
        memory = (
            f"USS {process.memory_full_info().uss / 1e6:.1f} MB, PSS {cost.pss_mb:.1f} MB, RSS {cost.rss_mb:.1f} MB"
        )
        print(f"idle {name}: {memory}, {process.num_threads()} threads, CPU {cost.cpu_percent:.1f} %")
    ours = [cost for name, cost in found.items() if "-" in name or name == "sandbox"]
    private = sum(psutil.Process(cost.pid).memory_full_info().uss for cost in ours) / 1e6
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--idle", type=float, default=30)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder) / "stack", parts=EVERYTHING, scattered=True) as stack,
    ):
        idle(stack, given.idle)
        measure(stack, given.requests)


if __name__ == "__main__":
    main()
