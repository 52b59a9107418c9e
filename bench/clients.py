"""What a request costs its client: CPU of http.client, our gateways' HttpClient, urllib3 and httpx.

Run `python bench/clients.py`. A server in a process of its own answers a POST of an order with 202, each client over
one connection kept open; in every round each is measured in turn.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from statistics import median
from time import process_time

import httpx
import urllib3

from quadrille.gateway.http_client import HttpClient

ROUNDS, CALLS = 15, 200
PATH = "/v1/orders"
LINE = {"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}
BODY = json.dumps({"customer_id": "cust_demo", "currency": "EUR", "lines": [LINE]}).encode()
HEADERS = {"Content-Type": "application/json", "Idempotency-Key": "bench-1"}
FOUND = b'{"order_id": "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", "status": "PENDING"}'
ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(FOUND) + FOUND
Way = Callable[[], tuple[int, bytes]]


def serve(listener: socket.socket) -> None:
    """Answer every request of every connection, each in a thread."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    """Answer each request once its head and body, whose size is known, are there."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held = b""
    while more := connection.recv(65_536):
        held += more
        if held.partition(b"\r\n\r\n")[2] == BODY:
            held = b""
            connection.sendall(ANSWER)


def ways(url: str) -> dict[str, Way]:
    """Return one request of each client."""
    raw = HTTPConnection(url.removeprefix("http://"), timeout=15)
    ours, pool = HttpClient(url, 15), urllib3.connection_from_url(url, timeout=15, retries=False)
    http = httpx.Client(base_url=url, timeout=15, trust_env=False)

    def by_hand() -> tuple[int, bytes]:
        raw.request("POST", PATH, BODY, HEADERS)
        found = raw.getresponse()
        return found.status, found.read()

    def pooled() -> tuple[int, bytes]:
        found = pool.request("POST", PATH, body=BODY, headers=HEADERS)
        return found.status, found.data

    def by_httpx() -> tuple[int, bytes]:
        found = http.post(PATH, content=BODY, headers=HEADERS)
        return found.status_code, found.content

    return {
        "http.client": by_hand,
        "ours, with breaker": lambda: ours.call("POST", PATH, HEADERS, BODY),
        "urllib3": pooled,
        "httpx": by_httpx,
    }


def measured(made: dict[str, Way]) -> dict[str, float]:
    """Return the median microseconds of CPU of each way over interleaved rounds."""
    took: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, way in made.items():
            start = process_time()
            for _ in range(CALLS):
                way()
            took[name].append((process_time() - start) / CALLS * 1e6)
    return {name: median(times) for name, times in took.items()}


def main() -> None:
    """Print the microseconds of each client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
        server.start()
        made = ways(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert {way() for way in made.values()} == {(202, FOUND)}
        print(" · ".join(f"{name} {us:.0f}" for name, us in measured(made).items()) + " us of CPU a request")
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
