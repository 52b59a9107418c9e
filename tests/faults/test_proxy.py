"""The proxy does the harm it is asked for, no more, and all passes again when it is over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from quadrille_cli.chaos.proxy import HARMS, Harm, Network, Proxy

PATIENCE_SECONDS = 120.0


@dataclass
class Echo:
    """A server that gives back what it is sent, and notes it."""

    port: int = 0
    heard: list[bytes] = field(default_factory=list)
    met: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def serve(self, listening: socket.socket) -> None:
        """Take connections until the socket is closed."""
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(one,), daemon=True).start()

    def _one(self, one: socket.socket) -> None:
        self.met.release()
        how = "end"
        with one:
            try:
                while data := one.recv(65536):
                    with self.news:
                        self.heard.append(data)
                        self.news.notify_all()
                    one.sendall(data)
            except OSError:
                how = "reset"
        with self.news:
            self.ended.append(how)
            self.news.notify_all()

    def until(self, wanted: bytes) -> None:
        """Wait until it has heard this, all in all."""
        with self.news:
            assert self.news.wait_for(lambda: b"".join(self.heard) == wanted, PATIENCE_SECONDS), self.heard

    def until_ended(self, how: str) -> None:
        """Wait until a connection has ended so."""
        with self.news:
            assert self.news.wait_for(lambda: how in self.ended, PATIENCE_SECONDS), self.ended


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Echo(listening.getsockname()[1])
        threading.Thread(target=server.serve, args=(listening,), daemon=True).start()
        yield server
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    """A proxy before it."""
    with Network(seed=1) as network:
        yield network.proxy(lambda: echo.port)


def connected(proxy: Proxy) -> socket.socket:
    """A client of the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_SECONDS)


def asked(client: socket.socket, data: bytes) -> bytes:
    """What comes back."""
    client.sendall(data)
    return read(client, len(data))


def read(client: socket.socket, many: int) -> bytes:
    """So many bytes, or fewer where the connection ends."""
    found = b""
    while len(found) < many and (data := client.recv(many - len(found))):
        found += data
    return found


def silent(client: socket.socket) -> bool:
    """Whether there is nothing to read at this moment."""
    client.settimeout(0)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    finally:
        client.settimeout(PATIENCE_SECONDS)
    return False


def test_what_passes_is_what_was_sent(proxy: Proxy) -> None:
    """Megabytes in both directions at once, whole and in order; the end of one side reaches the other."""
    data = bytes(range(256)) * 20_000
    with connected(proxy) as client:
        sending = threading.Thread(target=client.sendall, args=(data,))
        sending.start()
        assert read(client, len(data)) == data
        sending.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert (proxy.counts.connections, proxy.counts.bytes_up, proxy.counts.bytes_down) == (1, len(data), len(data))


@pytest.mark.parametrize("harm", [Harm(up=False, down=False), Harm(up=False)])
def test_a_partition_holds_back_and_gives_all_when_it_is_over(proxy: Proxy, echo: Echo, harm: Harm) -> None:
    """Nothing reaches the server meanwhile, of a new client neither; then all of it comes, in order."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(harm)
        client.sendall(b"two")
        with connected(proxy) as new:
            new.sendall(b"three")
            assert proxy.counts.bytes_up == 3
            assert echo.heard == [b"one"]
            proxy.heal()
            assert read(client, 3) == b"two"
            assert read(new, 5) == b"three"


def test_a_server_that_is_not_heard_hears(proxy: Proxy, echo: Echo) -> None:
    """One way alone is shut: the request arrives, its answer waits until the way is open."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(HARMS["dumb"])
        client.sendall(b"two")
        echo.until(b"onetwo")
        assert silent(client)
        proxy.heal()
        assert read(client, 3) == b"two"


def test_a_partition_hides_an_end(proxy: Proxy, echo: Echo) -> None:
    """A client that goes away meanwhile is noticed when the partition is over, not before."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(HARMS["partitioned"])
    with connected(proxy):
        assert echo.ended == []
        proxy.heal()
        echo.until_ended("end")


def test_a_forgotten_connection_is_dead_to_both_sides_without_a_word(proxy: Proxy, echo: Echo) -> None:
    """Half-open: what was sent on it is gone for good, also when the harm is over; a new connection works at once."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(HARMS["half-open"])
        client.sendall(b"two")
        with connected(proxy) as new:
            assert asked(new, b"three") == b"three"
        proxy.heal()
        with connected(proxy) as new:
            assert asked(new, b"four") == b"four"
        assert silent(client)
        assert b"".join(echo.heard) == b"onethreefour"
    assert proxy.counts.forgotten == 1


def test_a_reset_is_told_to_both_sides_at_once(proxy: Proxy, echo: Echo) -> None:
    """Whoever is connected is reset, and so is whoever comes, until it is over."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(HARMS["reset"])
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        echo.until_ended("reset")
    with pytest.raises(ConnectionResetError), connected(proxy) as client:  # while it connects, or afterwards
        client.recv(1)
    proxy.heal()
    with connected(proxy) as client:
        assert asked(client, b"two") == b"two"


def test_an_answer_is_cut_in_its_midst(proxy: Proxy) -> None:
    """So many bytes of the answer and no more; then the connection is reset."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(Harm(cut=5))
        client.sendall(b"0123456789")
        try:
            got = read(client, 10)
        except ConnectionResetError:
            got = b""  # the kernel may drop what was not read yet
        assert b"01234".startswith(got)
    assert proxy.counts.lost == 5


def test_bytes_get_lost_once_a_connection(proxy: Proxy, echo: Echo) -> None:
    """So many bytes of one piece never arrive; what comes after them does."""
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"
        proxy.inflict(Harm(lose=7))
        sent = bytes(range(100))
        client.sendall(sent)
        lost = proxy.counts
        got = read(client, 100 - 7) if lost.lost in (0, 7) else b""
        while lost.lost < 7 and len(got) < 100 - lost.lost:  # the place fell near the end of the piece
            got += client.recv(100)
        assert len(got) == 100 - lost.lost
        assert asked(client, b"two") == b"two"
    assert lost.lost in range(1, 8)
    whole = b"".join(echo.heard)
    assert whole == b"one" + got + b"two"


def test_a_slow_link_keeps_the_order(proxy: Proxy) -> None:
    """Each piece is late by its own share of chance, none passes another."""
    proxy.inflict(Harm(latency=0.001, jitter=0.02))
    with connected(proxy) as client:
        for number in range(30):
            client.sendall(b"%03d" % number)
        assert read(client, 90) == b"".join(b"%03d" % number for number in range(30))


def test_a_server_that_is_not_there_is_told_as_a_reset(proxy: Proxy, echo: Echo) -> None:
    """The client's connection ends at once; when the server listens, the next one works."""
    right, echo.port = echo.port, 1
    with pytest.raises(ConnectionResetError), connected(proxy) as client:  # while it connects, or afterwards
        client.recv(1)
    assert proxy.counts.refused == 1
    echo.port = right
    with connected(proxy) as client:
        assert asked(client, b"one") == b"one"


def test_closed_proxies_leave_nobody_waiting(echo: Echo) -> None:
    """Clients of a network that ends are reset, also those whose bytes were held back."""
    with Network() as network:
        proxy = network.proxy(lambda: echo.port)
        client = connected(proxy)
        assert asked(client, b"one") == b"one"
        proxy.inflict(HARMS["partitioned"])
        client.sendall(b"two")
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
