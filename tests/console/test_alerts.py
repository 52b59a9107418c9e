"""Alerts: each change is told once, in order, to webhooks outside; its end closes it; no target can lead us astray.

The targets are real HTTP servers of this process, which stands for the world outside.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from console.alerts.domain import AlertRefused, AlertTaken, SendAlert
from console.alerts.gateway import Notifier, outside
from console.alerts.targets import Target, TargetError, body_of, targets_of
from console.domain import Keeping, Shown
from console.settings import ConsoleSettings
from quadrille import AnyRecord
from quadrille.gateway import NoResponseError, NotAllowedError, TransientError, is_allowed, judged, post
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import Telemetry
from quadrille.tasks.scheduler import SchedulerPorts, TaskScheduler
from quadrille.testing import OnPostgres
from tests.chassis.support.database import wait_until
from tests.console.stories import Teller, inputs

Console = OnPostgres[Shown]
NOW = datetime.now(UTC)


class Receiver:
    """A webhook's receiver: what it was sent, and how it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.door = threading.Event()
        self.door.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.door.wait(60)
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 202)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?team=1"

    def documents(self) -> list[dict[str, Any]]:
        """What it was sent, as documents."""
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    serving = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    yield made
    made.door.set()
    made.server.shutdown()
    made.server.server_close()
    serving.join()


@pytest.fixture
def teller() -> Teller:
    return Teller(NOW)


@pytest.fixture
def console(console: Console) -> Console:
    """The console, which tells one target, ``ops``, of everything."""
    for table in (b"alert", b"task"):
        console.tx.execute(b"DELETE FROM " + table)
    service = replace(console.service, outside=outside, rules=Keeping(targets={"ops": 1}))
    console.service = service
    return console


@contextmanager
def telling(console: Console, *targets: Target) -> Iterator[None]:
    """Let the console tell its targets while the block lasts."""
    notifier = Notifier({one.name: one for one in targets}, "http://127.0.0.1:8000", loopback=True)
    scheduler = TaskScheduler(
        console.service, console.connect, Telemetry(Spans.disabled()), SchedulerPorts(notifier, lambda: True)
    )
    stop = threading.Event()
    working = threading.Thread(target=scheduler.run, args=(stop,))
    working.start()
    try:
        yield
        wait_until(lambda: not console.tx.execute("SELECT FROM task").fetchall(), what="all is told")
    finally:
        stop.set()
        scheduler.wake()
        working.join()


def stuck(teller: Teller, order: str, level: str, back: timedelta, fact: str = "payment.refunded") -> AnyRecord:
    since = NOW - timedelta(minutes=40)
    body = {"owes": fact.partition(".")[0], "fact": fact, "since_at": since, "level": level}
    return teller.says(order, "order.stuck", back, body, topic="ops.events")


def hears(console: Console, *records: AnyRecord) -> None:
    assert all(outcome for outcome in console.takes(inputs(*records)))


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def test_an_alert_is_told_once_grows_and_is_closed(console: Console, receiver: Receiver, teller: Teller) -> None:
    """Stuck is told, louder levels too, each once however often it is heard; what was owed ends it."""
    order = teller.order(timedelta(hours=1))
    told = [stuck(teller, order, level, seconds(back)) for level, back in (("WARN", 60), ("PAGE", 40), ("PAGE", 30))]
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        for record in (*told, told[0]):
            hears(console, record)
            wait_until(lambda: not console.tx.execute("SELECT FROM task").fetchall())
        hears(console, teller.says(order, "payment.refunded", seconds(20)))

    documents = receiver.documents()
    assert [(one["state"], one["severity"], one["number"]) for one in documents] == [
        ("open", "ticket", 1), ("open", "page", 2), ("resolved", "page", 3),
    ]  # fmt: skip
    assert {one["alert"] for one in documents} == {f"order-stuck/{order}/payment.refunded"}
    assert documents[0]["links"] == {"page": f"http://127.0.0.1:8000/orders/{order}"}
    assert documents[0]["order_id"] == order


def test_a_target_that_fails_is_told_later_and_of_the_latest(
    console: Console, receiver: Receiver, teller: Teller
) -> None:
    """A 503 is tried again by the chassis' ladder; two changes on one matter never overtake each other."""
    order = teller.order(timedelta(hours=1))
    receiver.answers = [503]
    receiver.door.clear()
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        hears(console, stuck(teller, order, "WARN", seconds(60)))
        hears(console, stuck(teller, order, "PAGE", seconds(50)))
        receiver.door.set()

    documents = receiver.documents()
    assert [one["number"] for one in documents] in ([1, 2], [2, 2], [1, 1, 2])
    assert documents[-1]["severity"] == "page"


def test_what_nobody_was_told_of_is_not_resolved(console: Console, receiver: Receiver, teller: Teller) -> None:
    """Opened and over before the target could be told: it hears of neither; refused for good, it hears no end."""
    order = teller.order(timedelta(hours=1))
    hears(console, stuck(teller, order, "WARN", seconds(60)))
    hears(console, teller.says(order, "payment.refunded", seconds(50)))
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        pass
    assert receiver.got == []

    receiver.answers = [404]
    other = teller.order(timedelta(hours=1))
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        hears(console, stuck(teller, other, "WARN", seconds(40)))
        wait_until(lambda: len(receiver.got) == 1)
        wait_until(lambda: not console.tx.execute("SELECT FROM task").fetchall())
        hears(console, teller.says(other, "payment.refunded", seconds(30)))
    assert len(receiver.got) == 1


def test_a_console_that_is_rebuilt_tells_no_old_news(console: Console, receiver: Receiver, teller: Teller) -> None:
    """What happened more than an hour ago is known, and nobody is woken for it."""
    order = teller.order(timedelta(hours=3))
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        hears(console, stuck(teller, order, "PAGE", timedelta(hours=2)))

    assert receiver.got == []
    assert console.tx.execute('SELECT "open" FROM alert').fetchall() == [(True,)]


def test_of_what_has_gone_on_already_nobody_is_told(console: Console, teller: Teller) -> None:
    """Topics come in any order: a stuck that is heard after what it waits for is no alert."""
    order = teller.order(timedelta(hours=1))
    hears(console, teller.says(order, "payment.refunded", seconds(10)), stuck(teller, order, "WARN", seconds(15)))

    assert console.tx.execute("SELECT FROM alert").fetchall() == []


OPENED = [
    ("service.silent", {"silent": "payment", "since_at": NOW - seconds(30)}, "silent/payment",
     "service.heard", {"silent": "payment", "since_at": NOW - seconds(30)}),
    ("progress.stalled", {"role": "worker", "detail": "x", "since_at": NOW - seconds(30)}, "stalled/order/worker",
     "progress.resumed", {"role": "worker", "since_at": NOW - seconds(30), "took_ms": 1}),
    ("intake.paused", {"cause": "SAGA_FAILURE_RATE"}, "intake/order", "intake.resumed", {"cause": "SAGA_FAILURE_RATE"}),
    ("input.dead", {"event_id": "e-1"}, "input/order/e-1", "input.redriven", {"event_id": "e-1", "operator": "local"}),
]  # fmt: skip


@pytest.mark.parametrize("edges", OPENED)
def test_both_edges_are_told(console: Console, receiver: Receiver, teller: Teller, edges: tuple[Any, ...]) -> None:
    """What opens and what ends are one matter; heard from two services it is told once."""
    named, body, alert, over, end = edges
    order, own = teller.order(timedelta(minutes=5)), {"service": "order"}
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        hears(console, teller.says(order, named, seconds(20), {**own, **body}, topic="ops.events"))
        wait_until(lambda: len(receiver.got) == 1)
        hears(console, teller.says(order, named, seconds(19), {**own, **body}, topic="ops.events"))
        wait_until(lambda: not console.tx.execute("SELECT FROM task").fetchall())
        for back in (10, 9):
            hears(console, teller.says(order, over, seconds(back), {**own, **end}, topic="ops.events"))
        hears(console, teller.says(order, named, seconds(15), {**own, **body}, topic="ops.events"))

    assert [(one["alert"], one["state"]) for one in receiver.documents()] == [(alert, "open"), (alert, "resolved")]


def test_the_end_says_how_long_it_lasted(console: Console, receiver: Receiver, teller: Teller) -> None:
    """A service that is heard again is told with the seconds of its silence."""
    order, since = teller.order(timedelta(minutes=5)), NOW - seconds(95)
    body = {"service": "order", "silent": "payment", "since_at": since}
    with telling(console, Target("ops", "generic", receiver.url, "key")):
        hears(console, teller.says(order, "service.silent", seconds(88), body, topic="ops.events"))
        wait_until(lambda: not console.tx.execute("SELECT FROM task").fetchall())
        hears(console, teller.says(order, "service.heard", seconds(5), body, topic="ops.events"))

    assert receiver.documents()[-1]["summary"] == "payment is heard again after 90 s"


def said(**more: Any) -> SendAlert:  # noqa: ANN401 - any field
    told = SendAlert("silent/payment", "ops", 2, True, "service.silent", 2, "payment <is> not & heard", NOW, NOW)  # noqa: FBT003
    return replace(told, **more)


def test_a_generic_webhook_is_signed(receiver: Receiver) -> None:
    """Who knows the key can tell that it is ours, unchanged and fresh; a repeat has the same id."""
    notifier = Notifier({"ops": Target("ops", "generic", receiver.url, "s3cret")}, loopback=True)
    assert notifier.tell(said()) == AlertTaken("silent/payment", "ops", 2)
    notifier.tell(said())

    (headers, body), (again, _) = receiver.got
    at = int(headers["quadrille-timestamp"])
    wanted = hmac.new(b"s3cret", f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["quadrille-signature"] == f"v1={wanted}"
    assert abs(at - time.time()) < 3600
    assert headers["quadrille-delivery"] == again["quadrille-delivery"]
    assert b"s3cret" not in body


def test_pagerduty_gets_its_events_v2() -> None:
    """Trigger and resolve under one dedup_key, with the severities PagerDuty knows."""
    pager = Target("pager", "pagerduty", "https://events.example/v2/enqueue", "R0UT1NG")
    opened = json.loads(body_of(pager, said(), "http://c/orders/o"))
    closed = json.loads(body_of(pager, said(open=False, number=3), ""))

    assert (opened["routing_key"], opened["event_action"], opened["dedup_key"]) == (
        "R0UT1NG",
        "trigger",
        "silent/payment",
    )
    assert {"summary", "source", "severity"} <= opened["payload"].keys()
    assert opened["payload"]["severity"] in {"critical", "error", "warning", "info"}
    assert opened["links"] == [{"href": "http://c/orders/o", "text": "console"}]
    assert (closed["event_action"], closed["dedup_key"]) == ("resolve", "silent/payment")


def test_slack_gets_a_text_without_marks_of_ours() -> None:
    """Slack's three characters are escaped: an event's words are no link and no mention."""
    text = json.loads(body_of(Target("chat", "slack", "https://hooks.example/x"), said(summary="<!here> & co"), ""))

    assert text == {"text": "*page* &lt;!here&gt; &amp; co"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(receiver: Receiver, status: int) -> None:
    """A target that redirects, to a cloud's own address for instance, is refused and not tried again."""
    receiver.answers = [status]
    notifier = Notifier({"ops": Target("ops", "generic", receiver.url, "key")}, loopback=True)

    told = notifier.tell(said())

    assert told == AlertRefused("silent/payment", "ops", 2, f"the target answered {status}: redirects are not followed")
    assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1",
        "::1", "::", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1",
        "255.255.255.255",
    ],
)  # fmt: skip
def test_no_private_address_is_called(address: str) -> None:
    """Nothing of this machine, its network or its cloud is called, however it is written or wrapped."""
    assert not is_allowed(ipaddress.ip_address(address), loopback=False)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_a_public_address_is_called(address: str) -> None:
    """What anybody may reach is reached, and loopback where the setting allows it, but nothing else private."""
    assert is_allowed(ipaddress.ip_address(address), loopback=False)
    assert is_allowed(ipaddress.ip_address("127.0.0.1"), loopback=True)
    assert not is_allowed(ipaddress.ip_address("10.0.0.1"), loopback=True)


def test_a_name_that_leads_inside_is_refused(receiver: Receiver) -> None:
    """A name is judged by the addresses it leads to; the target is not called at all."""
    port = receiver.server.server_address[1]
    for host in ("localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(NotAllowedError):
            post(f"http://{host}:{port}/", {}, b"{}")
    with pytest.raises(NoResponseError):
        judged("no.such.name.invalid", 80, loopback=False)

    told = Notifier({"ops": Target("ops", "generic", receiver.url, "key")}).tell(said())

    assert told == AlertRefused("silent/payment", "ops", 2, "its address is not a public one")
    assert receiver.got == []


def test_a_name_is_judged_and_called_at_one_address(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere at the second look is asked once: the connection goes where was judged."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *more: Any, **named: Any) -> Any:  # noqa: ANN401 - as the library has it
        if host == "rebind.example":
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "10.255.255.1"
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = receiver.server.server_address[1]

    assert post(f"http://rebind.example:{port}/hook", {}, b"{}", loopback=True) == 202

    assert asked == ["rebind.example"]
    assert receiver.got[0][0]["host"] == f"rebind.example:{port}"


def _hang(peer: socket.socket) -> None:
    peer.recv(1)


def _drip(peer: socket.socket) -> None:
    try:
        while True:
            peer.sendall(b"H")
            peer.settimeout(0.05)
            try:
                if not peer.recv(65536):
                    return
            except TimeoutError:
                continue
    except OSError:
        return


@pytest.mark.parametrize("does", [_hang, _drip])
def test_a_target_that_hangs_or_drips_is_given_up(does: Callable[[socket.socket], None]) -> None:
    """However slowly it answers, the call ends, and is one to be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as peer:
                does(peer)
                ended.wait(60)

        ended = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        notifier = Notifier({"ops": Target("ops", "slack", url)}, loopback=True, seconds=0.5)
        with pytest.raises(TransientError):
            notifier.tell(said())
        ended.set()
        thread.join()


def test_targets_are_read_from_a_secret() -> None:
    """A line a target; what is wrong is named without a word of the secret."""
    text = "ops generic https://a.example/h k1; pager pagerduty https://b.example/q R0 escalate"
    found = targets_of(f"{text}\n\nchat slack http://c.example/x page")

    assert [(one.name, one.shape, one.key, one.least) for one in found.values()] == [
        ("ops", "generic", "k1", 1), ("pager", "pagerduty", "R0", 3), ("chat", "slack", "", 2),
    ]  # fmt: skip
    assert ConsoleSettings.model_fields["alert_targets"].default == ""


@pytest.mark.parametrize(
    "line",
    ["ops generic https://a.example/SECRET", "ops", "ops smoke https://a.example/ SECRET", "ops slack ftp://SECRET.example",
     "ops generic https://u:SECRET@a.example/ k", "a slack https://a.example/; a slack https://SECRET.example/"],
)  # fmt: skip
def test_a_line_that_is_none_is_refused_without_its_secret(line: str) -> None:
    """The refusal says which line and what is wanted; it never repeats an address or a key."""
    with pytest.raises(TargetError) as refused:
        targets_of(line)

    assert "SECRET" not in str(refused.value)
    assert "line 1" in str(refused.value) or "line 2" in str(refused.value)
